"""`Supervised`: predict a number, the tag of each word, or several labels of a text (supervised).

Classes are `objectives/classifier.py`. A linear head is on the mean of the hidden states, or for tags on the state of
each word's first token (Devlin et al. 2018, section 5.3). The losses, averaged over examples or tagged words, are

    number   (z − (y − mean)/sd)², where y has this mean and standard deviation in training
    tags     −log softmax(z)_y of each tagged word, in nats
    labels   −Σ_k [y_k·log σ(z_k) + (1 − y_k)·log(1 − σ(z_k))]/K, in nats

Shapes: `B` batch, `T` tokens, `D` features, `Y` outputs, `K` labels.

Metrics: `loss`; `rmse`, root mean squared error in the unit of the numbers; `accuracy`, the fraction of tagged words
whose tag is right, or of texts all of whose labels are right, in [0, 1]; `gradient_norm`, global norm before clipping
(training only).
"""

import keras
import tensorflow as tf

from ssl_keras.data import masking
from ssl_keras.engine.objective import example_weight
from ssl_keras.modalities.classification import PairObjective
from ssl_keras.networks import gives_states
from ssl_keras.networks.dropout import current_masks, draw_keys, drop, dropout


class Supervised(PairObjective):
    """Holds `encoder` and `head`; trains on `batch["tokens"]` and the column of a target.

    Args:
        encoder: functional graph, tokens (B, T) -> states (B, T, D).
        head: functional graph, features (B, D) -> outputs (B, Y).
        target: a `Target` of the kind number, tags or labels.
        ema_decay: decay of the moving average of the weights, which `encoder` and `head` then are; 0 disables it.
        dropout: dropout rate of the features, and inside of an encoder that is not frozen; 0 disables it.
        frozen: bool, whether the encoder is frozen.
        name: name of the objective.

    Raises:
        ValueError: the target is tags, and the encoder gives no state for each token.
    """

    def __init__(self, encoder, head, target, *, ema_decay=0.0, dropout=0.0, frozen=False, name="supervised"):
        if target.kind == "tags" and not gives_states(encoder):
            raise ValueError(
                "Tags need an encoder that returns a state for each token, (B, T, D). Received: outputs of shape "
                f"{encoder.output_shape}. Choose an encoder of a language model."
            )
        if frozen:
            encoder.trainable = False
        super().__init__(encoder, head, ema_decay, name)
        self.target, self.dropout, self.frozen = target, dropout, frozen
        is_number = target.kind == "number"
        self.best_metric = "accuracy" if target.kind == "tags" else None
        self.quality = keras.metrics.RootMeanSquaredError("rmse") if is_number else keras.metrics.Mean("accuracy")

    def preprocess(self, batch, random):
        return masking.trim_texts(batch) | draw_keys(random, self.dropout)

    def preprocess_eval(self, batch, random):
        return masking.trim_texts(batch)

    def batch_loss(self, batch, training):
        """Returns the summed loss and the sum of the weights of examples or tagged words; updates the metric."""
        pair = self.student if training else self.averaged
        losses = {"number": self._number_loss, "tags": self._tag_loss, "labels": self._label_loss}
        with dropout(batch, self.dropout if training else 0):
            loss, weight = losses[self.target.kind](pair, batch, training)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def _number_loss(self, pair, batch, training):
        weight = example_weight(batch)  # (B,)
        predicted = pair.logits(batch["tokens"], training, self.frozen)[:, 0]  # (B,), standardized as the number is
        unit = self.target.scale
        self.quality.update_state(unit * batch["number"], unit * predicted, weight)
        return tf.square(predicted - batch["number"]), weight

    def _tag_loss(self, pair, batch, training):
        tags = tf.reshape(batch["tags"], [-1])  # (B·T,)
        weight = tf.cast(batch["tags"] >= 0, tf.float32) * example_weight(batch)[:, None]
        weight = tf.reshape(weight, [-1])
        states = pair.encoder(batch["tokens"], training=training and not self.frozen)  # (B, T, D)
        states = drop(states, current_masks(training), "head")
        logits = pair.head(tf.reshape(states, (-1, states.shape[-1])), training=training)  # (B·T, Y)
        self.quality.update_state(tf.cast(tf.argmax(logits, -1, tf.int32) == tags, tf.float32), weight)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(tags, 0), logits), weight

    def _label_loss(self, pair, batch, training):
        weight, labels = example_weight(batch), batch["labels"]  # (B,), (B, K)
        logits = pair.logits(batch["tokens"], training, self.frozen)  # (B, K)
        right = tf.reduce_all((logits > 0) == (labels > 0.5), axis=1)
        self.quality.update_state(tf.cast(right, tf.float32), weight)
        loss = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(loss, axis=1), weight
