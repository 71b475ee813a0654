"""The quantizer of wav2vec 2.0: codebooks of which features take entries by Gumbel softmax (Baevski et al. 2020).

Shapes: `b` clips, `T` frames, `C` features, `D` width of states, `Z` projection, `G V` codebooks and their entries.
"""

import keras
import tensorflow as tf


class Quantizer(keras.layers.Layer):
    """Takes one entry of each codebook for features (b, T, C), and projects states to where both are compared.

    Thrown away afterwards.

    Args:
        codebooks, codes: G and V.
        projection: Z.
    """

    def __init__(self, codebooks, codes, projection):
        super().__init__(name="quantizer", autocast=False, dtype="float32")
        self.codebooks, self.codes, self.projection = codebooks, codes, projection

    def build(self, features_shape, states_shape):
        channels, width = features_shape[-1], states_shape[-1]
        each = -(-self.projection // self.codebooks)  # features of an entry
        sizes = {
            "choice": (channels, self.codebooks * self.codes),
            "of_codes": (self.codebooks * each, self.projection),
            "of_states": (width, self.projection),
        }
        self.kernels = {
            name: (
                self.add_weight(size, "glorot_uniform", name=name),
                self.add_weight(size[1:], "zeros", name=f"{name}_bias"),
            )
            for name, size in sizes.items()
        }
        uniform = keras.initializers.RandomUniform(0.0, 1.0)
        self.entries = self.add_weight((self.codebooks, self.codes, each), uniform, name="entries")
        self.hidden = self.add_weight((width,), uniform, name="hidden")  # in the place of a hidden frame

    def _dense(self, x, name):
        kernel, bias = self.kernels[name]
        return tf.tensordot(x, tf.convert_to_tensor(kernel), 1) + bias

    def choose(self, features, gumbel, heat):
        """The choice: features (b, T, C) -> hard shares (b, T, G, V), which the gradient takes for soft, and
        softmax shares without noise; of no noise (None) the likeliest entry."""
        logits = self._dense(tf.cast(features, tf.float32), "choice")
        shape = tf.shape(logits)
        logits = tf.reshape(logits, (shape[0], shape[1], self.codebooks, self.codes))
        noisy = logits if gumbel is None else (logits + gumbel) / heat
        hard = tf.one_hot(tf.argmax(noisy, -1), self.codes)
        if gumbel is not None:
            soft = tf.nn.softmax(noisy)
            hard = soft + tf.stop_gradient(hard - soft)
        return hard, tf.nn.softmax(logits)

    def codes_of(self, hard):
        """Hard shares (b, T, G, V) -> what they stand for, (b, T, Z)."""
        entries = tf.einsum("btgv,gvd->btgd", hard, tf.convert_to_tensor(self.entries))
        flat = tf.reshape(entries, (tf.shape(hard)[0], tf.shape(hard)[1], self.codebooks * self.entries.shape[-1]))
        return self._dense(flat, "of_codes")

    def states(self, states):
        """States (b, T, D) -> (b, T, Z)."""
        return self._dense(tf.cast(states, tf.float32), "of_states")
