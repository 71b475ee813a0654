"""`Objective`, the base class of all objectives: networks and a loss that `fit` trains on one device or many.

An objective holds functional networks and defines its own `train_step`. `engine/descend.py` computes the
update, `engine/steps.py` loops over steps, and `engine/report.py` defines what TensorBoard shows.
"""

import typing

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled

from ssl_keras.engine import descend
from ssl_keras.engine.report import Report
from ssl_keras.engine.steps import StepCount, make_step_function
from ssl_keras.networks import split_by_depth


class Objective(keras.Model):
    """A Keras model whose `fit` and `evaluate` run under any `tf.distribute` strategy.

    Create, `compile` and `fit` it inside the same `strategy.scope()`. Subclasses
    define `train_step(batch)` and `test_step(batch)`. Both update `keras.metrics`
    and return nothing: metrics are read once per execution, after its last step.

    A batch is a dict of tensors, batch axis first. An optional `batch["weight"]` (B,) float32
    weights the examples; 0 marks padding.

    `fit` raises FloatingPointError with the step number if a loss or gradient is not finite. That step changes no
    trainable weight and no optimizer state, but the statistics of batch normalization are already updated by then.
    """

    # ----- declared by a class ------------------------------------------------

    batch_coupled: bool = False
    """True if an example's loss depends on the rest of the batch, so that micro-batches would change the loss."""
    min_batch_size: int = 1
    """Minimum number of examples in a batch."""
    skip_on_init: tuple[str, ...] = ()
    """Names of head weights that `init` does not copy, since they have another meaning in the saved encoder."""
    keep_last_checkpoint: bool = False
    """True if the last weights count as the best, as in a GAN, whose validation loss does not measure quality."""
    best_metric: str | None = None
    """Name of the validation metric whose highest value marks the best weights; None for the lowest loss."""

    # ----- set by `__init__` --------------------------------------------------

    settings: typing.Any = None
    """The objective's `Settings`, if it was built from settings."""
    encoder: keras.Model
    """The network that a run saves and evaluates."""
    head: keras.Model | None = None
    """The network that is saved with the encoder, if any."""
    predicts_classes: bool = False
    """True if `head` predicts the classes of the data; the class names are then saved with it."""
    decoding: dict | None = None
    """Decoding of the head's outputs, stored in the card: `symbols`, the names of the outputs; `words`, whether they
    are words; `end`, the output that ends a sequence; `context`, the maximum length of a sequence; `task`."""
    teacher: dict | None = None
    """`name`, `weights` (their SHA-256) and `license` of the saved encoder that the objective learns from, for the
    card."""
    context: int | None = None
    """Maximum number of tokens in training, if the network does not define it."""
    longest: int | None = None
    """Maximum length of a training clip in samples; batches crop longer ones at random. None disables it."""
    tokens: int = 0
    """Number of tokens in an example that is a window of text; else 0."""
    player_norms: list
    """The gradient norm metrics: `gradient_norm`, or one for each player of a game."""

    # ----- set by a run -------------------------------------------------------

    total_steps: int | None = None
    """Number of steps of the whole run, set before `optimizers` is called; None outside of a run."""
    rows: int | None = None
    """Number of examples in a replica's part of a training batch; None outside of a run."""
    step_graph: typing.Any = None
    """The graph of one training step, once `fit` has traced it."""

    def __init__(self, name=None):
        super().__init__(name=name)
        self.state = descend.State(scales_loss=keras.config.dtype_policy().name == "mixed_float16")
        self.step, self.failed_step = self.state.step, self.state.failed_step  # int64 scalar variables
        self.loss_metric = keras.metrics.Mean("loss")
        self.gradient_norm = keras.metrics.Mean("gradient_norm")
        self.player_norms = [self.gradient_norm]
        self.encoder_optimizers = ()
        self.step_count = StepCount()
        # The networks are functional, so they are built already. Keras must not build again,
        # because its symbolic build fails under MultiWorkerMirroredStrategy.
        self.built = True

    def compile(self, optimizer="adam", *encoder_optimizers, clip_norm=None, accumulate=1, jit_compile=False, **kwargs):
        """Configures training; call it inside the strategy's scope.

        Args:
            optimizer: a Keras optimizer or its name. Its own clipping, accumulation
                and loss scaling must be off, since `descend` does them across replicas.
            *encoder_optimizers: one for each of the encoder's `depth_groups`, from the input to the output; then
                `optimizer` trains all other variables. See `optimizer_groups`.
            clip_norm: maximum global gradient norm, applied to each player of a game separately; or None.
            accumulate: number of micro-batches per update. Each replica's part of the batch must be a multiple of it.
                The update equals that of the whole batch.
            jit_compile: whether to compile steps with XLA. Ignored with several replicas or deterministic ops.
            **kwargs: `steps_per_execution` and `run_eagerly`, as in Keras.

        Raises:
            ValueError: `accumulate` is larger than 1 and the loss or a layer depends on the whole batch.
        """
        if accumulate > 1 and (self.batch_coupled or has_batch_norm(self)):
            raise ValueError(
                f"accumulate must be 1 for {self.name}: its loss or its batch normalization depends on the whole "
                f"batch, so micro-batches would change the update. Received: {accumulate}"
            )
        self.state.set(clip_norm, accumulate)
        self.encoder_optimizers = [keras.optimizers.get(each) for each in encoder_optimizers]
        # Keras' own "auto" never compiles on a CPU.
        is_single = self.distribute_strategy.num_replicas_in_sync == 1
        super().compile(
            optimizer=keras.optimizers.get(optimizer),
            auto_scale_loss=False,
            **kwargs,
            jit_compile=bool(jit_compile) and is_single and not is_op_determinism_enabled(),
        )
        self.train_function = self.test_function = None
        descend.build_optimizers(self.optimizer_groups())

    def optimizer_groups(self):
        """Returns the (optimizer, variables) pairs to train; by default one pair with all variables.

        With optimizers for the encoder, each of its `depth_groups` is a pair, after all other variables.
        """
        if not self.encoder_optimizers:
            return [(self.optimizer, self.trainable_variables)]
        levels, others = split_by_depth(self.encoder, self.trainable_variables)
        pairs = [*zip(self.encoder_optimizers, levels, strict=True)]
        return [(self.optimizer, others), *pairs] if others else pairs

    def optimizers(self, make):
        """Returns the optimizers that a run passes to `compile`; `total_steps` is set by then.

        `make(variables, share=1.0, updates=1)` returns an optimizer with `share` times the run's learning rate, for
        variables that are updated `updates` times in a step.
        """
        return [make(self.trainable_variables)]

    def adapt(self, source):
        """Sets weights that depend on the training `Source`; by default none.

        It is called before the weights of a saved encoder are copied. A resumed run calls it too, and then reads its
        checkpoint.
        """

    def on_weights_loaded(self):
        """Called after the weights of a saved encoder were copied into this objective."""

    def descend(self, loss, batch, groups=None):
        """Updates the variables in `groups` with `engine.descend.descend`; by default all `optimizer_groups()`.

        Updates the metric `loss` (except in a game, which has several losses) and the gradient norms in
        `player_norms`. Returns the (mean, weight) of the `engine.descend.Update`.
        """
        update = descend.descend(self.state, loss, batch, groups or self.optimizer_groups())
        # If float16 gradients overflow, the step has no meaningful norm: its weight is 0.
        weight = tf.cast(update.finite, tf.float32) / tf.distribute.get_replica_context().num_replicas_in_sync
        for metric, norm in zip(self.player_norms, update.norms):
            metric.update_state(tf.where(update.finite, norm, 0.0), weight)
        if not isinstance(update.mean, list):
            self.loss_metric.update_state(update.mean, update.weight)
        return update.mean, update.weight

    def score(self, total, weight):
        """Updates the metric `loss` with a batch's summed loss and its weight; returns (mean, weight)."""
        mean = tf.math.divide_no_nan(total, weight)
        self.loss_metric.update_state(mean, weight)
        return mean, weight

    def preprocess_eval(self, batch, random):
        """Prepares a batch for evaluation; by default with `preprocess`, as for training."""
        return self.preprocess(batch, random)

    def report(self, batch, examples, splits):
        """Returns the `Report` of the current weights; by default an empty one.

        Args:
            batch: a few validation examples, processed by `preprocess`.
            examples: function () that returns a batch of hundreds of them, processed by `preprocess_eval`.
            splits: the run's `Splits`; sources of text have a `tokenizer`.
        """
        return Report()

    def warnings(self, logs):
        """Returns a list of sentences about suspicious metrics, for the log and TensorBoard.

        This method is separate from `report` because it needs no data and runs after every evaluation interval, even
        without TensorBoard.
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
        # Keras adds a "loss" metric that is never updated here. `loss_metric` comes later in the list and replaces it.
        return list({metric.name: metric for metric in super().metrics}.values())

    def is_measured(self, metric, training):
        """Returns whether a metric is measured in training or, if `training` is False, on held-out data."""
        return training or not metric.name.endswith("gradient_norm")

    def reset_metrics(self):
        self.step_count.done = 0  # fit and evaluate reset the metrics when an epoch begins
        super().reset_metrics()

    def fit(self, x=None, *args, steps_per_epoch=None, validation_steps=None, **kwargs):
        """Trains as `keras.Model.fit` does, on batches that are dicts."""
        self.step_count.train, self.step_count.test = steps_per_epoch, validation_steps
        self.failed_step.assign(-1)
        if isinstance(x, tf.data.Dataset | tf.distribute.DistributedDataset):
            kwargs.setdefault("shuffle", False)  # the order of the batches is fixed; Keras would warn
        if isinstance(x, tf.data.Dataset) and steps_per_epoch is not None:
            x = x.repeat()  # Keras counts whole executions and would end a finite dataset too early
        return super().fit(x, *args, steps_per_epoch=steps_per_epoch, validation_steps=validation_steps, **kwargs)

    def evaluate(self, x=None, *args, steps=None, **kwargs):
        """Evaluates as `keras.Model.evaluate` does, on batches that are dicts."""
        if not kwargs.get("_use_cached_eval_dataset"):
            self.step_count.test = steps
        steps_done = self.step_count.done  # a callback may evaluate in the middle of an epoch
        try:
            return super().evaluate(x, *args, steps=steps, **kwargs)
        finally:
            self.step_count.done = steps_done


def has_batch_norm(model):
    """Returns whether the model contains trainable batch normalization."""
    layers = model._flatten_layers()
    return any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in layers)


def example_weight(batch):
    """Returns `batch["weight"]` as float32 (B,), or ones."""
    if "weight" in batch:
        return tf.cast(batch["weight"], tf.float32)
    return tf.ones(tf.shape(next(iter(batch.values())))[:1])
