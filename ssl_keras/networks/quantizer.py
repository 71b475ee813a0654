"""The quantizer of wav2vec 2.0: product quantization by Gumbel softmax (Baevski et al. 2020, section 2).

Shapes: `b` clips, `T` frames, `C` features, `D` width of states, `Z` projection, `G V` codebooks and their entries.
"""

import keras
import tensorflow as tf


class Quantizer(keras.layers.Layer):
    """Quantizes features (b, T, C) to one entry of each codebook, and projects states to the same space.

    It is discarded after pretraining.

    Args:
        codebooks: G, number of codebooks.
        codes: V, entries per codebook.
        projection: Z, size of the space in which states and quantized features are compared.
    """

    def __init__(self, codebooks, codes, projection):
        super().__init__(name="quantizer", autocast=False, dtype="float32")
        self.codebooks, self.codes, self.projection = codebooks, codes, projection

    def build(self, features_shape, states_shape):
        channels, width = features_shape[-1], states_shape[-1]
        entry_size = -(-self.projection // self.codebooks)
        sizes = {
            "choice": (channels, self.codebooks * self.codes),
            "of_codes": (self.codebooks * entry_size, self.projection),
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
        self.entries = self.add_weight((self.codebooks, self.codes, entry_size), uniform, name="entries")
        self.hidden = self.add_weight((width,), uniform, name="hidden")  # replaces masked frames

    def _dense(self, x, name):
        kernel, bias = self.kernels[name]
        return tf.tensordot(x, tf.convert_to_tensor(kernel), 1) + bias

    def choose(self, features, gumbel, temperature):
        """Chooses an entry of each codebook for features (b, T, C), by straight-through Gumbel softmax.

        Returns one-hot choices (b, T, G, V), with the gradient of the softmax, and the probabilities without noise.
        `gumbel` is noise (b, T, G, V), or None to choose the likeliest entry.
        """
        logits = self._dense(tf.cast(features, tf.float32), "choice")
        shape = tf.shape(logits)
        logits = tf.reshape(logits, (shape[0], shape[1], self.codebooks, self.codes))
        noisy = logits if gumbel is None else (logits + gumbel) / temperature
        hard = tf.one_hot(tf.argmax(noisy, -1), self.codes)
        if gumbel is not None:
            soft = tf.nn.softmax(noisy)
            hard = soft + tf.stop_gradient(hard - soft)
        return hard, tf.nn.softmax(logits)

    def codes_of(self, hard):
        """Joins and projects the chosen entries: one-hot choices (b, T, G, V) -> (b, T, Z)."""
        entries = tf.einsum("btgv,gvd->btgd", hard, tf.convert_to_tensor(self.entries))
        flat = tf.reshape(entries, (tf.shape(hard)[0], tf.shape(hard)[1], self.codebooks * self.entries.shape[-1]))
        return self._dense(flat, "of_codes")

    def states(self, states):
        """Projects states, (b, T, D) -> (b, T, Z)."""
        return self._dense(tf.cast(states, tf.float32), "of_states")
