"""Optimizers: Adam with a fused kernel, and Muon; with warmup, cosine schedule and weight decay."""

import math

import keras
import numpy as np
import tensorflow as tf

ADAM_RATIO = 2.0  # under Muon: the learning rate of Adam's variables (embeddings, norms) relative to that of matrices


@keras.saving.register_keras_serializable("ssl_keras")
class Adam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` with TensorFlow's fused kernel for the update.

    The formula (Kingma & Ba 2015, algorithm 1, with the rearranged bias correction of
    its section 2) and the state are those of Keras, and the results agree up to rounding. Keras needs about
    ten operations, each a pass over memory; the kernel needs one.
    """

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        handles = [getattr(v, "value", v).handle for v in (self._momentums[index], self._velocities[index])]
        # The kernel computes 1 − β in float32. For β = 0.999 that is smaller than Keras' value by a factor
        # of 1 − 1.3e-5, and so is v. The learning rate and epsilon below correct for it, and likewise for m.
        first = (1 - self.beta_1) / (1 - float(np.float32(self.beta_1)))
        second = math.sqrt((1 - float(np.float32(self.beta_2))) / (1 - self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=handles[0],
            v=handles[1],
            grad=gradient,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon * second,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype) * (first * second),
        )


@keras.saving.register_keras_serializable("ssl_keras")
class Muon(keras.optimizers.Muon):
    """`keras.optimizers.Muon` (Jordan et al. 2024) with support for fused query, key and value matrices.

    The transformers keep these three projections in one matrix, `attention_in` (D, 3·D). Muon must
    orthogonalize the update of each projection separately.
    """

    def build(self, variables):
        super().build(variables)
        self.fused = {self._get_variable_index(v) for v in variables if v.path.endswith("attention_in")}

    def _muon_update_step(self, gradient, variable, lr, m):
        if self._get_variable_index(variable) not in self.fused:
            super()._muon_update_step(gradient, variable, lr, m)
            return
        self.assign_add(m, gradient + m * (self.momentum - 1))
        update = gradient + self.momentum * m if self.nesterov else m
        three = tf.stack(tf.split(tf.convert_to_tensor(update), 3, axis=1))  # (3, D, D)
        three = self.zeropower_via_newtonschulz5(three, self.ns_steps)
        update = self.lr_adjust(tf.concat(tf.unstack(three * lr), axis=1)) / math.sqrt(3)
        self.assign_sub(variable, update)


@keras.saving.register_keras_serializable("ssl_keras")
class After(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate or schedule that is 0 for the first `steps` updates."""

    def __init__(self, steps, rate):
        super().__init__()
        self.steps, self.rate = steps, rate

    def __call__(self, step):
        rate = self.rate(step) if callable(self.rate) else self.rate
        return tf.where(step < self.steps, 0.0, rate)

    def get_config(self):
        return {"steps": self.steps, "rate": self.rate}


def level_ratios(levels, decay):
    """Returns the learning rate of each of N levels of depth, relative to that of the last one: [decayᴺ⁻¹, …, 1].

    Layer-wise decay of the learning rate (Clark et al. 2020, ELECTRA, appendix B; Bao et al. 2022, BEiT).
    """
    return [decay**depth for depth in range(len(levels))][::-1]


def make(training, total, variables, share=1.0, after=0):
    """Makes the optimizer for the settings of a run.

    Args:
        training: `Training`.
        total: updates in the whole run, at the last of which the cosine schedule ends.
        variables: the variables to train. Those of rank 0 and 1, norms and biases, get no weight decay.
        share: the learning rate as a fraction of `training.learning_rate`.
        after: number of steps at the beginning during which the learning rate is 0.
    """
    peak = rate = training.learning_rate * share
    if training.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if training.warmup else peak,
            max(total - training.warmup, 1),
            alpha=training.final_rate,
            warmup_target=peak if training.warmup else None,
            warmup_steps=training.warmup,
        )
    elif training.warmup:
        # With alpha=1 the cosine stays at its peak, so the rate is constant after the warmup.
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, 1, alpha=1.0, warmup_target=peak, warmup_steps=training.warmup
        )
    if after:
        rate = After(after, rate)
    decay = training.weight_decay or None
    if training.optimizer == "muon":
        optimizer = Muon(
            rate,
            weight_decay=decay,
            adam_weight_decay=decay,
            adam_beta_1=training.beta_1,
            adam_beta_2=training.beta_2,
            epsilon=1e-8,
            adam_lr_ratio=ADAM_RATIO,
        )
    else:
        optimizer = Adam(rate, weight_decay=decay, beta_1=training.beta_1, beta_2=training.beta_2)
    if decay:
        optimizer.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2])
    return optimizer
