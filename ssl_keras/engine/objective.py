"""`Objective`, the one base class: networks and a loss that `fit` can train on one device or many.

An objective holds functional networks and writes out its own `train_step`. The update is
`engine/descend.py`, the loop over steps `engine/steps.py`, what TensorBoard shows `engine/report.py`.
"""

import typing

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from ssl_keras.engine import descend
from ssl_keras.engine.report import Report
from ssl_keras.engine.steps import StepCount, make_step_function


class Objective(keras.Model):
    """A Keras model whose `fit` and `evaluate` run under any `tf.distribute` strategy.

    Create, `compile` and `fit` it inside the same `strategy.scope()`. Subclasses
    define `train_step(batch)` and `test_step(batch)`; both update `keras.metrics`
    and return nothing: the metrics are read once, after the steps of an execution.

    A batch is a dict of tensors, batch axis first. `batch["weight"]` (B,) float32,
    where present, weighs the examples; 0 marks padding.

    Raises (from `fit`): FloatingPointError naming the step with a non-finite loss. It changed no trainable
    weight and no optimizer state; layers' statistics (batch normalization) are updated before it is known.
    """

    # ----- declared by a class ------------------------------------------------

    batch_coupled: bool = False
    """Whether the loss of an example depends on the others of its batch: micro-batches would be another loss."""
    min_batch_size: int = 1
    """Examples that a batch must have."""
    skip_on_init: tuple[str, ...] = ()
    """Weights of the head that mean something else in the encoder that a run starts from."""
    keep_last_checkpoint: bool = False
    """Whether the last weights are kept, as for a game, whose held-out loss does not say how good it is."""

    # ----- set by `__init__` --------------------------------------------------

    settings: typing.Any = None
    """The objective's `Settings`, where it was built from some."""
    encoder: keras.Model
    """The network that a run saves and evaluates."""
    head: keras.Model | None = None
    """The network that is saved beside it, if any."""
    predicts_classes: bool = False
    """Whether `head` predicts the classes of the data; their names are then saved with it."""
    decoding: dict | None = None
    """How the head's outputs are read, for the card of a saved encoder: `symbols`, the names of its outputs; `words`,
    whether they are words; `end`, the output that ends a sequence; `context`, the most outputs of one; `task`."""
    context: int | None = None
    """The most tokens that the encoder was trained on, where its network does not say so."""
    longest: int | None = None
    """Samples of a clip that a step takes: batches are cut to it as they are put together; None takes whole clips."""
    tokens: int = 0
    """Tokens of an example that is a window of text."""
    player_norms: list
    """The metrics of the gradients' norms: `gradient_norm`, and of a game one for each player."""

    # ----- set by a run -------------------------------------------------------

    total_steps: int | None = None
    """Steps of the whole run, set before `optimizers` is called; None outside of a run."""
    rows: int | None = None
    """Examples in a replica's part of a batch to train on, where a run knows them."""
    step_graph: typing.Any = None
    """The graph of one step of training, once `fit` has traced it."""

    def __init__(self, name=None):
        super().__init__(name=name)
        self.state = descend.State(scales_loss=keras.config.dtype_policy().name == "mixed_float16")
        self.step, self.failed_step = self.state.step, self.state.failed_step  # int64 scalar variables
        self.loss_metric = keras.metrics.Mean("loss")
        self.gradient_norm = keras.metrics.Mean("gradient_norm")
        self.player_norms = [self.gradient_norm]
        self.step_count = StepCount()
        # Nothing is left to build: the networks are functional. Keras must not try,
        # since its symbolic build fails under MultiWorkerMirroredStrategy.
        self.built = True

    def compile(self, optimizer="adam", clip_norm=None, accumulate=1, jit_compile=False, **kwargs):
        """Sets how to descend; call it inside the strategy's scope.

        Args:
            optimizer: a Keras optimizer or its name. Its own clipping, accumulation
                and loss scaling stay off: `descend` does them across replicas.
            clip_norm: largest global gradient norm, of a game for each player, or None.
            accumulate: micro-batches per update, which each replica's part of the batch must be a
                multiple of. The update is that of the whole batch; refused where its examples meet.
            jit_compile: compile whole steps with XLA: on one device, without deterministic ops.
            **kwargs: `steps_per_execution`, `run_eagerly`, as in Keras.
        """
        if accumulate > 1 and (self.batch_coupled or has_batch_norm(self)):
            raise ValueError(
                f"accumulate must be 1: {self.name} looks across the examples of a batch (a contrastive loss, or batch "
                f"normalization), and micro-batches would not give the whole batch's update. Received: {accumulate}"
            )
        self.state.set(clip_norm, accumulate)
        # Keras' own "auto" would never compile on a CPU.
        alone = self.distribute_strategy.num_replicas_in_sync == 1
        super().compile(
            optimizer=keras.optimizers.get(optimizer),
            auto_scale_loss=False,
            **kwargs,
            jit_compile=bool(jit_compile) and alone and not is_op_determinism_enabled(),
        )
        self.train_function = self.test_function = None
        descend.build_optimizers(self.optimizer_groups())

    def optimizer_groups(self):
        """The (optimizer, variables) pairs that are trained; by default one of all variables."""
        return [(self.optimizer, self.trainable_variables)]

    def optimizers(self, make):
        """The optimizers to `compile` with for a run; `total_steps` is known.

        `make(variables, share=1.0, updates=1)` makes one, at that share of the learning rate, for variables
        that are updated so many times in a step.
        """
        return [make(self.trainable_variables)]

    def on_weights_loaded(self):
        """Called when weights were taken over from a saved encoder."""

    def descend(self, loss, batch, groups=None):
        """Updates the variables in `groups`, by default `self.optimizer_groups()`, as `engine.descend.descend` does.

        Adds the loss to the metric `loss` (not a game's, whose totals are a list), and the gradients' norms to
        `player_norms`. Returns the (mean, weight) of `engine.descend.Update`.
        """
        update = descend.descend(self.state, loss, batch, groups or self.optimizer_groups())
        # A step whose float16 gradients overflowed has no norm to speak of.
        share = tf.cast(update.finite, tf.float32) / tf.distribute.get_replica_context().num_replicas_in_sync
        for metric, norm in zip(self.player_norms, update.norms):
            metric.update_state(tf.where(update.finite, norm, 0.0), share)
        if not isinstance(update.mean, list):
            self.loss_metric.update_state(update.mean, update.weight)
        return update.mean, update.weight

    def score(self, total, weight):
        """Adds a batch's summed loss and what to divide it by to the metric `loss`; returns (mean, weight)."""
        mean = tf.math.divide_no_nan(total, weight)
        self.loss_metric.update_state(mean, weight)
        return mean, weight

    def preprocess_eval(self, batch, random):
        """Turns a batch into one to evaluate on; by default as `preprocess` does for training."""
        return self.preprocess(batch, random)

    def report(self, batch, examples, splits):
        """The `Report` of the present weights; by default an empty one.

        Args:
            batch: a few validation examples as `preprocess` makes them.
            examples: function without arguments to hundreds of them as `preprocess_eval` makes them.
            splits: `Splits`; its sources have the tokenizer.
        """
        return Report()

    def warnings(self, logs):
        """Sentences about the metrics of an interval that look wrong, for the log and TensorBoard.

        Apart from `report`, since it needs no data: every interval is checked, with TensorBoard or without.
        """
        return []

    # ----- called by Keras' fit and evaluate ----------------------------------

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            self.train_function = make_step_function(self, self.train_step, training=True)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = make_step_function(self, self.test_step, training=False)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing; see `__init__`."""

    @property
    def metrics(self):
        # Keras adds a "loss" of its own, which is never updated here; ours comes after it.
        return list({metric.name: metric for metric in super().metrics}.values())

    def reset_metrics(self):
        self.step_count.done = 0  # fit and evaluate reset the metrics as an epoch begins
        super().reset_metrics()

    def fit(self, x=None, *args, steps_per_epoch=None, validation_steps=None, **kwargs):
        """As in Keras, for data whose batches are dicts."""
        self.step_count.train, self.step_count.test = steps_per_epoch, validation_steps
        self.failed_step.assign(-1)
        if isinstance(x, tf.data.Dataset | tf.distribute.DistributedDataset):
            kwargs.setdefault("shuffle", False)  # batches come in their order; Keras warns otherwise
        if isinstance(x, tf.data.Dataset) and steps_per_epoch is not None:
            x = x.repeat()  # Keras counts whole executions and would end a finite data set too early
        return super().fit(x, *args, steps_per_epoch=steps_per_epoch, validation_steps=validation_steps, **kwargs)

    def evaluate(self, x=None, *args, steps=None, **kwargs):
        """As in Keras, for data whose batches are dicts."""
        if not kwargs.get("_use_cached_eval_dataset"):
            self.step_count.test = steps
        trained = self.step_count.done  # a callback may evaluate in the middle of an epoch
        try:
            return super().evaluate(x, *args, steps=steps, **kwargs)
        finally:
            self.step_count.done = trained


def has_batch_norm(model):
    """Whether statistics of the batch are in a network that is trained."""
    layers = model._flatten_layers()
    return any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in layers)


def example_weight(batch):
    """float32 (B,): `batch["weight"]`, or ones."""
    if "weight" in batch:
        return tf.cast(batch["weight"], tf.float32)
    return tf.ones(tf.shape(next(iter(batch.values())))[:1])
