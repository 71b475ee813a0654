"""Gradients of a score with respect to the input, and the attributions made of them.

- gradient × input (Shrikumar et al. 2016).
- SmoothGrad (Smilkov et al. 2017), here times the input, so that all methods attribute the same quantity.

`Explained` has the only gradient. It is taken with respect to a representation x (B, *positions, F) of the input:

    pixels    images (B, H, W, C)
    vectors   vectors of tokens (B, T, D), before positions are added
    samples   samples of clips after normalization of their volume (B, L, 1): a network that ignores the volume has no
              gradient along the samples themselves
    bands     log-mel spectrograms (B, T, bands, 1)

What is absent in the baseline: black pixels, a token that stands for no word (or a vector of zeros), silence. An
attribution is summed over F, and is 0 at padding.

Shapes: `B` batch, `K` scores.
"""

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.networks.transformer import Embeddings
from ssl_keras.networks.waveform import Spectrogram

NOISE, COPIES = 0.15, 16  # SmoothGrad: standard deviation over the range of x; noisy copies
MAX_ROWS, MAX_NUMBERS = 256, 1 << 22  # in one call: examples; numbers of x
SMALLEST = 1e-3  # differences of scores below this fraction of the scores count as this fraction
PLACES = ("pixels", "vectors", "samples", "bands")


class Explained:
    """A graph from inputs to scores (B, K), compiled once, with the representation in which its input is explained.

    Args:
        network: functional graph of images, tokens or waveforms, such as `Output.graph`.
        at: one of PLACES; None is "bands" for a network with a mel front end, else the one of the kind of input.
        missing: the token in the baseline; None is a vector of zeros, which a network that normalizes its vectors
            (architecture "modern" or "llama") does not take as absent. For images, the value of a missing pixel.
        kept: ids of tokens that are the same in the baseline, such as [CLS] and [SEP].

    Raises:
        ValueError: the network does not output scores (B, K), or has no such representation.
    """

    def __init__(self, network, at=None, missing=None, kept=()):
        if len(network.output_shape) != 2:
            raise ValueError(
                f"Expected a network with scores (B, K). Received: an output of shape {network.output_shape}. Use a "
                "function of interpretation.outputs."
            )
        self.network, self.missing, self.kept = network, missing, list(kept)
        layers = {layer.name: layer for layer in network.layers}
        self.at = at or _default_place(network, layers)
        split = {"pixels": _pixels, "vectors": _vectors, "samples": _samples, "bands": _bands}
        if self.at not in split:
            raise ValueError(f"at must be one of {', '.join(PLACES)}. Received: {at!r}")
        self._represent, self._finish, self._valid, shape = split[self.at](network, layers)
        wanted = [tf.TensorSpec(network.input.shape, network.input.dtype), tf.TensorSpec(shape, tf.float32)]
        chosen = tf.TensorSpec((None,), tf.int32)
        # Converting layers to graph code takes most of the time of tracing, and functional graphs do not need it.
        self._scores = tf.function(self._run, input_signature=wanted, autograph=False)
        self._gradient = tf.function(self._derive, input_signature=[*wanted, chosen], autograph=False)

    def _run(self, inputs, x):
        return tf.cast(self._finish(inputs, x), tf.float32)

    def _derive(self, inputs, x, index):
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.gather(self._run(inputs, x), index, axis=1, batch_dims=1)
        slope = tape.gradient(score, x, unconnected_gradients="zero")
        return score, tf.where(self._valid(inputs)[..., None], slope, 0.0)

    def represent(self, inputs):
        """Returns the representation x of inputs, float32 (B, *positions, F)."""
        return self._represent(tf.convert_to_tensor(inputs, self.network.input.dtype)).numpy()

    def valid(self, inputs):
        """Returns which positions are not padding, bool (B, *positions)."""
        return self._valid(tf.convert_to_tensor(inputs, self.network.input.dtype)).numpy()

    def baseline(self, inputs):
        """Returns the representation of inputs in which everything is absent; padding and `kept` are the same."""
        inputs = np.asarray(inputs)
        x = self.represent(inputs)
        if self.at != "vectors":
            return np.where(self.valid(inputs)[..., None], np.float32(self.missing or 0), x)
        same = (inputs < 0) | np.isin(inputs, self.kept)
        absent = 0 * x if self.missing is None else self.represent(np.full_like(inputs, self.missing))
        return np.where(same[..., None], x, absent)

    def scores(self, inputs, x=None):
        """Returns the scores (B, K) of inputs, or of representations `x` of inputs that have been changed."""
        inputs = np.asarray(inputs)
        x = self.represent(inputs) if x is None else x
        parts = self._chunks(x)
        return np.concatenate([self._scores(inputs[rows], x[rows]).numpy() for rows in parts])

    def gradient(self, inputs, x, index):
        """Returns (the chosen scores (B,), their gradient with respect to x, 0 at padding).

        Args:
            inputs: (B, …) as the network takes them, which tell what is padding.
            x: (B, *positions, F), a representation of inputs, changed or not.
            index: (B,) the score of each example.
        """
        inputs, index = np.asarray(inputs), np.asarray(index, np.int32)
        found = [self._gradient(inputs[rows], x[rows], index[rows]) for rows in self._chunks(x)]
        return tuple(np.concatenate([part.numpy() for part in each]) for each in zip(*found))

    def _chunks(self, x):
        size = max(1, min(MAX_ROWS, MAX_NUMBERS // max(1, x[:1].size)))
        return [slice(start, start + size) for start in range(0, len(x), size)]


def gradient_x_input(explained, inputs, index):
    """Attributes scores by the gradient times the difference to the baseline: (B, *positions) float32.

    Args:
        explained: an `Explained`.
        inputs: (B, …) as the network takes them.
        index: (B,) the score of each example.
    """
    x = explained.represent(inputs)
    return ((x - explained.baseline(inputs)) * explained.gradient(inputs, x, index)[1]).sum(-1)


def smooth_grad(explained, inputs, index, copies=COPIES, noise=NOISE, seed=0):
    """Attributes scores by the mean gradient over noisy copies, times the difference to the baseline.

    Args:
        explained, inputs, index: as in `gradient_x_input`.
        copies: number of noisy copies.
        noise: standard deviation of the noise, as a fraction of the range of x in each example.
        seed: seed of the noise.

    Returns:
        (B, *positions) float32.
    """
    x, inputs = explained.represent(inputs), np.asarray(inputs)
    axes = tuple(range(1, x.ndim))
    spread = noise * (x.max(axes, keepdims=True) - x.min(axes, keepdims=True))
    random, total = np.random.Generator(np.random.Philox(seed)), np.zeros_like(x)
    for _ in range(copies):
        noisy = x + np.float32(spread * random.standard_normal(x.shape))
        total += explained.gradient(inputs, noisy, index)[1]
    return ((x - explained.baseline(inputs)) * total / copies).sum(-1)


def score_difference(explained, inputs, index):
    """Returns (the chosen scores of inputs, those of their baselines), (B,) each."""
    rows = np.arange(len(inputs))
    both = explained.scores(inputs), explained.scores(inputs, explained.baseline(inputs))
    return tuple(scores[rows, index] for scores in both)


def completeness_error(attribution, score, baseline_score):
    """Returns |sum of attributions − difference of scores| / |difference of scores|, (B,).

    A difference of less than SMALLEST times the larger of the two scores counts as that.
    """
    total = np.asarray(attribution).reshape(len(score), -1).sum(1, dtype=np.float64)
    smallest = SMALLEST * np.maximum(np.abs(score), np.abs(baseline_score)) + 1e-12
    difference = np.float64(score) - baseline_score
    return np.abs(total - difference) / np.maximum(np.abs(difference), smallest)


def _default_place(network, layers):
    if len(network.input_shape) == 4:
        return "pixels"
    if network.input.dtype in ("int32", "int64"):
        return "vectors"
    return "bands" if isinstance(layers.get("front"), Spectrogram) else "samples"


def _after(network, layer):
    """Returns the graph (input, output of a layer) -> output of the network."""
    return keras.Model([network.input, layer.output], network.output)


# Each of the following returns how the network is split at a representation: input -> x, (input, x) -> output,
# input -> valid, and the shape of x.


def _pixels(network, layers):
    return (
        lambda i: i,
        lambda i, x: network(x, training=False),
        lambda i: tf.ones(tf.shape(i)[:-1], tf.bool),
        network.input.shape,
    )


def _vectors(network, layers):
    """Splits at the layer that embeds tokens, the first one that turns the input into numbers."""
    embed = next(
        (layer for layer in network.layers if layer.input is network.input and "float" in layer.output.dtype), None
    )
    if embed is None:
        raise ValueError(f"Expected a layer that embeds the tokens. Received: layers {list(layers)[:5]}")
    after, shape = _after(network, embed), embed.output.shape

    def valid(i):
        return i >= 0

    if isinstance(embed, Embeddings):
        return embed.vectors, lambda i, x: after([i, embed.in_context(x)], training=False), valid, shape
    return embed, lambda i, x: after([i, x], training=False), valid, shape


def _samples(network, layers):
    """Splits after the normalization of clips; a network without one is explained at its input."""

    def valid(i):
        return i > -1

    normalize, shape = layers.get("normalised"), (*network.input.shape, 1)
    if normalize is None:
        return (
            lambda i: i[..., None],
            lambda i, x: network(tf.where(valid(i), x[..., 0], i), training=False),
            valid,
            shape,
        )
    after = _after(network, normalize)
    return lambda i: normalize(i)[..., None], lambda i, x: after([i, x[..., 0]], training=False), valid, shape


def _bands(network, layers):
    """Splits after the log-mel spectrogram inside of the front end."""
    front, frames, normalize = (layers.get(name) for name in ("front", "frames", "normalised"))
    if not isinstance(front, Spectrogram):
        raise ValueError(
            'at="bands" needs a network with a mel front end. Received: one without it. Use at="samples" or None.'
        )
    after, bands = _after(network, front), front.log_mel.mel.num_mel_bins

    def valid(i):
        return tf.repeat((frames(i) >= 0)[..., None], bands, axis=2)

    return (
        lambda i: front.log_mel(normalize(i), frames(i))[..., None],
        lambda i, x: after([i, front.of_bands(x[..., 0], frames(i))], training=False),
        valid,
        (None, None, bands, 1),
    )
