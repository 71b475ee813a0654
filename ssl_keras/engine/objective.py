"""The one base class: how a batch becomes an update, on one device or many.

An objective holds functional networks and writes out its own `train_step`. What
every objective shares is here: the loop that `fit` runs, and `descend`, the one
place that knows of replicas, micro-batches, loss scaling, clipping and failure.

Shapes: `B` examples in this replica's part of the batch, `K` micro-batches.
"""

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from ssl_keras.engine.steps import make_step_function


class Objective(keras.Model):
    """A Keras model whose `fit` and `evaluate` run under any `tf.distribute` strategy.

    Create, `compile` and `fit` it inside the same `strategy.scope()`. Subclasses
    define `train_step(batch)` and `test_step(batch)`; both update `keras.metrics`
    and return nothing: the metrics are read once, after the steps of an execution.

    A batch is a dict of tensors, batch axis first. `batch["weight"]` (B,) float32,
    where present, weighs the examples; 0 marks padding.

    Attributes:
        step: int64 scalar variable, updates done so far (the batch's number).
        failed_step: int64 scalar variable, -1, or the step whose loss or gradient
            was not finite. That update, and what came after it in its step, changed no trainable
            weight and no optimizer state (a layer's own statistics, batch normalisation's say, are
            updated on the way there).
        loss_scale: float32 scalar variable; 1 except under `mixed_float16`.

    Raises (from `fit`): FloatingPointError naming the step with a non-finite loss.
    """

    # Whether the loss of an example depends on the others of its batch: micro-batches would be another loss.
    looks_across_examples = False
    least_batch = 1  # examples; a batch of one has nothing to be told apart from
    not_taken_over = ()  # weights of the head that mean something else in the encoder that a run starts from
    tokens = 0  # of an example that is a window of text
    latest_is_best = False  # for a game, whose held-out loss does not say how good it is
    # Loss scaling as in Micikevicius et al. 2018 (section 3.2), with the usual constants.
    LOSS_SCALE_START = 2.0**15
    LOSS_SCALE_GROWS_AFTER = 2000

    def __init__(self, name=None):
        super().__init__(name=name)
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        scale = self.LOSS_SCALE_START if keras.config.dtype_policy().name == "mixed_float16" else 1.0
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, aggregation=first, name="step")
        self.failed_step = tf.Variable(
            -1, dtype=tf.int64, trainable=False, aggregation=first, name="failed_step"
        )
        self.loss_scale = tf.Variable(scale, trainable=False, aggregation=first, name="loss_scale")
        self.finite_steps = tf.Variable(
            0, dtype=tf.int64, trainable=False, aggregation=first, name="finite_steps"
        )
        self.scales_loss = scale != 1.0
        self.clip_norm = None
        self.accumulate = 1
        self.loss_metric = keras.metrics.Mean("loss")
        self.gradient_norm = keras.metrics.Mean("gradient_norm")
        self.player_norms = [self.gradient_norm]  # of a game: for each player, that of its own gradient
        self._steps_per_epoch = self._validation_steps = None
        self._steps_done = 0
        self.step_graph = None  # of one step of training, as `fit` has traced it
        self.rows = None  # of a replica's part of a batch to train on, where a run knows them
        # Nothing is left to build: the networks are functional. Keras must not try,
        # since its symbolic build fails under MultiWorkerMirroredStrategy.
        self.built = True

    def compile(self, optimizer="adam", clip_norm=None, accumulate=1, jit_compile=False, **kwargs):
        """Sets how to descend; call it inside the strategy's scope.

        Args:
            optimizer: a Keras optimizer or its name. Its own clipping, accumulation
                and loss scaling stay off: `descend` does them across replicas.
            clip_norm: largest global gradient norm, of a game for each player, or None.
            accumulate: micro-batches per update; each replica's part of the batch
                must be a multiple of it. Exact: the update is that of the whole batch; so it is
                refused where examples of a batch meet (contrastive losses, batch normalisation).
            jit_compile: compile whole steps with XLA, where that works: on one device, without
                deterministic ops.
            **kwargs: `steps_per_execution`, `run_eagerly`, as in Keras.
        """
        optimizer = keras.optimizers.get(optimizer)
        for option in ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps"):
            if getattr(optimizer, option, None):
                raise ValueError(
                    f"The optimizer must not set {option}: it would act on each replica alone. "
                    f"Use compile(clip_norm=..., accumulate=...). Received: {getattr(optimizer, option)}"
                )
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1. Received: {accumulate}")
        if accumulate > 1 and self._meets_across_examples():
            raise ValueError(
                f"accumulate must be 1: {self.name} looks across the examples of a batch (a contrastive loss, or batch "
                f"normalisation), and micro-batches would not give the whole batch's update. Received: {accumulate}"
            )
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None. Received: {clip_norm}")
        # Keras' own "auto" would never compile on a CPU.
        alone = self.distribute_strategy.num_replicas_in_sync == 1
        super().compile(
            optimizer=optimizer, auto_scale_loss=False, **kwargs,
            jit_compile=bool(jit_compile) and alone and not is_op_determinism_enabled(),
        )
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.train_function = self.test_function = None
        for optimizer, variables in self.groups():
            if not optimizer.built:
                optimizer.build(variables)
            # `descend` has summed the gradients over replicas to know their norm; the
            # optimizer would sum them again. Two replicas would then take a doubled step.
            optimizer._all_reduce_sum_gradients = list

    def _meets_across_examples(self):
        return self.looks_across_examples or any(
            isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in self._flatten_layers()
        )

    def groups(self):
        """The (optimizer, variables) pairs that `compile` builds; by default one of all."""
        return [(self.optimizer, self.trainable_variables)]

    def optimizers(self, make):
        """What to `compile` with for a run; `make(variables, share=1.0, updates=1)` gives one of its optimizers,
        at so much of its learning rate, for a group that is updated so often in a step."""
        return [make(self.trainable_variables)]

    def initialised(self):
        """Called when weights were taken over from a saved encoder."""

    def descend(self, loss, batch, groups=None):
        """One update of the variables in `groups`, equal for any number of replicas.

        The gradient is that of Σ total / Σ weight, both sums taken over replicas and
        micro-batches. A mean of per-replica means would be another function as soon
        as the weights differ.

        Args:
            loss: function of a batch (its part here) to two float32 scalars,
                (total, weight): the summed loss and what to divide it by (examples,
                unmasked tokens, valid frames). Of a game, `total` is a list with one for each
                group: from one pass each group takes the gradient of its own.
            batch: dict of tensors (B, …).
            groups: list of (optimizer, variables); default `self.groups()`.

        Returns:
            float32 scalars: the global mean, or a list of them, and this replica's weight. A metric
            updated with both sums up, over replicas, to the mean and the global weight.
        """
        groups = groups or self.groups()
        replica = tf.distribute.get_replica_context()
        gradients, totals, local_weight = self._gradients(loss, batch, groups)
        *totals, weight = replica.all_reduce(tf.distribute.ReduceOp.SUM, [*totals, local_weight])
        if replica.num_replicas_in_sync > 1:
            gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)

        scale = 1.0 / self.loss_scale if self.scales_loss else tf.constant(1.0)
        players = _divided(gradients, groups) if len(totals) > 1 else [gradients]
        norms = [tf.linalg.global_norm(own) * scale for own in players]
        loss_is_finite = tf.reduce_all(tf.math.is_finite(totals))
        finite = loss_is_finite & tf.reduce_all(tf.math.is_finite(norms))
        if self.scales_loss or self.clip_norm is not None:
            most = self.clip_norm or np.inf
            factors = [scale * tf.minimum(1.0, tf.math.divide_no_nan(most, norm)) for norm in norms]
            gradients = [gradient * factor for factor, own in zip(factors, players) for gradient in own]
        # Whether to update at all can only be decided in cross-replica context.
        replica.merge_call(self._apply, args=(groups, gradients, loss_is_finite, finite))
        # A step whose float16 gradients overflowed has no norm to speak of.
        share = tf.cast(finite, tf.float32) / replica.num_replicas_in_sync
        for metric, norm in zip(self.player_norms, norms):
            metric.update_state(tf.where(finite, norm, 0.0), share)
        means = [tf.math.divide_no_nan(total, weight) for total in totals]
        return means if len(means) > 1 else means[0], local_weight

    def _gradients(self, loss, batch, groups):
        """This replica's part of loss_scale · ∇(Σ total / Σ weight), and its own Σ total (a list), Σ weight."""
        replica = tf.distribute.get_replica_context()
        variables = [variable for _, members in groups for variable in members]

        def over_replicas(weight):
            if replica.num_replicas_in_sync == 1:
                return weight
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, weight)

        def one(batch, whole=over_replicas):
            with tf.GradientTape(persistent=len(groups) > 1) as tape:
                totals, weight = loss(batch)
            players = [variables]
            if isinstance(totals, list):
                players = [members for _, members in groups]
            else:
                totals = [totals]
            # The mean's gradient, not the sum's: it stays in float16's range. And the mean over all
            # replicas already here: what one replica's loss owes to another's examples (gathered
            # negatives, batch statistics) must come back to it in that unit.
            unit = tf.math.divide_no_nan(tf.identity(self.loss_scale), whole(weight))
            gradients = []
            for total, members in zip(totals, players):
                gradients += tape.gradient(total, [v.value for v in members], output_gradients=unit)
            missing = [v.path for v, g in zip(variables, gradients) if g is None]
            if missing:
                raise ValueError(f"The loss does not depend on these trainable variables: {missing}")
            return [tf.convert_to_tensor(g) for g in gradients], totals, weight

        if self.accumulate == 1:
            return one(batch)

        def split(x):  # (B, …) -> (K, B/K, …)
            sides = [side or tf.shape(x)[axis] for axis, side in enumerate(x.shape) if axis]
            return tf.reshape(x, [self.accumulate, -1, *sides])

        micro = tf.nest.map_structure(split, batch)

        def weighted(k):
            gradients, totals, weight = one(tf.nest.map_structure(lambda x: x[k], micro), whole=tf.identity)
            return [g * weight for g in gradients] + [*totals, weight]

        _, sums = tf.while_loop(
            lambda k, _: k < self.accumulate,
            lambda k, sums: (k + 1, [s + new for s, new in zip(sums, weighted(k))]),
            (1, weighted(0)), parallel_iterations=1, maximum_iterations=self.accumulate - 1,
        )
        gradients, totals, weight = sums[: len(variables)], sums[len(variables) : -1], sums[-1]
        everywhere = over_replicas(weight)
        return [tf.math.divide_no_nan(g, everywhere) for g in gradients], totals, weight

    def _apply(self, strategy, groups, gradients, loss_is_finite, finite):
        """Cross-replica: step the optimizers, or, where something is not finite, none of them."""
        loss_is_finite = strategy.experimental_local_results(loss_is_finite)[0]
        finite = strategy.experimental_local_results(finite)[0]
        finite &= self.failed_step < 0  # of an earlier update in this step

        def optimize(gradients):
            for (optimizer, variables), own in zip(groups, _divided(gradients, groups)):
                optimizer.apply(own, variables)

        def update():
            strategy.extended.call_for_each_replica(optimize, args=(gradients,))
            if self.scales_loss:
                grow = self.finite_steps + 1 >= self.LOSS_SCALE_GROWS_AFTER
                self.loss_scale.assign(tf.where(grow, 2.0 * self.loss_scale, self.loss_scale))
                self.finite_steps.assign(tf.where(grow, tf.zeros_like(self.finite_steps), self.finite_steps + 1))

        def skip():
            failed = tf.constant(True)
            if self.scales_loss:  # a gradient overflow is expected there: halve the scale and go on
                failed = ~loss_is_finite | (self.loss_scale <= 1.0)
                self.loss_scale.assign(tf.maximum(self.loss_scale / 2.0, 1.0))
                self.finite_steps.assign(tf.zeros_like(self.finite_steps))
            self.failed_step.assign(tf.where(failed, self.step, self.failed_step))

        tf.cond(finite, update, skip)

    def held_out_views(self, batch, draws):
        """What is made of a batch that is evaluated; by default the same as of one to train on."""
        return self.views(batch, draws)

    # ----- what a run shows of it in TensorBoard; by default nothing ---------

    def pictures(self, batch):
        """{name: rows of images, each (N, H, W, C) float in [0, 1]}, of a batch as `views` makes it."""
        return {}

    def sounds(self, batch):
        """{name: (waveforms (N, L) float in [-1, 1], Hz)}, of a batch as `views` makes it."""
        return {}

    def texts(self, batch, tokenizer):
        """{name: Markdown}, of a batch of tokens."""
        return {}

    def histograms(self, batch):
        """{name: values (N,)}, of some hundred examples as `held_out_views` makes them."""
        return {}

    def qualities(self, splits):
        """{tag: scalar}, measured every so many intervals."""
        return {}

    def galleries(self, splits):
        """{name: rows of images} as of `pictures`, but of a whole validation part."""
        return {}

    def projections(self, splits):
        """{name: (vectors (N, D), N names)} for the projector, besides the validation features."""
        return {}

    def warnings(self, logs):
        """What the metrics of an interval give reason to say: sentences, for the log and TensorBoard."""
        return []

    # ----- what Keras' fit and evaluate call ---------------------------------

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = make_step_function(self, self.train_step, training=True)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = make_step_function(self, self.test_step, training=False)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing to build; see `__init__`."""

    @property
    def metrics(self):
        # Keras adds a "loss" of its own, which is never updated here; ours comes after it.
        return list({metric.name: metric for metric in super().metrics}.values())

    def reset_metrics(self):
        self._steps_done = 0  # fit and evaluate reset the metrics as an epoch begins
        super().reset_metrics()

    def fit(self, x=None, *args, steps_per_epoch=None, validation_steps=None, **kwargs):
        """As in Keras, for data whose batches are dicts."""
        self._steps_per_epoch, self._validation_steps = steps_per_epoch, validation_steps
        self.failed_step.assign(-1)
        if isinstance(x, tf.data.Dataset | tf.distribute.DistributedDataset):
            kwargs.setdefault("shuffle", False)  # batches come in their order; Keras warns otherwise
            if steps_per_epoch is not None and isinstance(x, tf.data.Dataset):
                # Keras counts whole executions and would end a finite data set too early.
                x = x.repeat()
        return super().fit(
            x, *args, steps_per_epoch=steps_per_epoch, validation_steps=validation_steps, **kwargs
        )

    def evaluate(self, x=None, *args, steps=None, **kwargs):
        """As in Keras, for data whose batches are dicts."""
        if not kwargs.get("_use_cached_eval_dataset"):
            self._validation_steps = steps
        trained = self._steps_done  # a callback may evaluate in the middle of an epoch
        try:
            return super().evaluate(x, *args, steps=steps, **kwargs)
        finally:
            self._steps_done = trained


def _divided(gradients, groups):
    """The flat list of gradients, as one list for each group."""
    gradients = iter(gradients)
    return [[next(gradients) for _ in variables] for _, variables in groups]


def example_weight(batch):
    """float32 (B,): `batch["weight"]`, or ones."""
    if "weight" in batch:
        return tf.cast(batch["weight"], tf.float32)
    return tf.ones(tf.shape(next(iter(batch.values())))[:1])
