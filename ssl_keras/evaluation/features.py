"""Extracts features, and the baselines that learn nothing.

Shapes: `N` examples, `D` features.
"""

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.data.audio import LONGEST, truncate_clips
from ssl_keras.data.augment_images import Augmentation, augment, interpolation, mapped
from ssl_keras.data.batches import Batches
from ssl_keras.data.images import unit_range
from ssl_keras.data.inputs import augment_waveforms, network_input, signature
from ssl_keras.networks import description, gives_states, realize, waveform
from ssl_keras.networks.transformer import pool

SAMPLES_AT_ONCE = 2_000_000  # of sound: a network needs some hundred bytes for each
FAR = 8  # times the median: longer clips are in batches of their own, each at most twice as long as another
COPIES = 10  # of a clip, each changed anew, that a probe learns of beside it: voices differ, and labels are few
NOISE, SHIFT, CROP = 0.1, 1 / 14, 0.5  # standard deviation in [0, 1]; share of the side; least share of the area


def compiled(network):
    """A `tf.function` from a network's input to features (B, D); keep it to call `features` often.

    Hidden states (B, T, D) are averaged over the tokens that are not padding. What goes beyond a
    network's context is left out: a causal window has one token more, its last target.
    """
    network = realize(network)
    context, states = getattr(description(network), "max_tokens", None), gives_states(network)

    def embed(x):
        x = x if context is None else x[:, :context]
        y = network(x, training=False)
        return pool(y, x) if states else y

    return tf.function(embed, input_signature=[signature(network)])


def extract_features(network, source, batch_size=512, preprocess=None):
    """float32 (N, D): what a network makes of every example of a source, in order.

    Args:
        network: a functional graph, or what `compiled` made of it.
        source: a `Source`.
        batch_size: examples at a time.
        preprocess: function (batch, random) to another batch, `noisy` say, or None.
    """
    return next(_passes(network, source, batch_size, preprocess, 1))


def augmented_copies(network, source, changes):
    """COPIES arrays like that of `extract_features`, of waveforms augmented afresh for each; none without `changes`."""
    if changes is None:
        return []
    longest = source.arrays["waveform"].longest
    return list(
        _passes(
            network,
            source,
            512,
            lambda batch, random: augment_waveforms(batch, random, changes, source.rate, longest),
            COPIES,
        )
    )


def _passes(network, source, batch_size, preprocess, count):
    """Yields what `features` returns, so many times, of new draws each time."""
    run = compiled(network) if isinstance(network, keras.Model) else network
    source = truncate_clips(source, int(LONGEST * source.rate)) if source.rate else source
    groups = alike(source)
    back, each = np.argsort(np.concatenate(groups)), []
    for group in groups:
        part = source if len(groups) == 1 else source.take(group)
        batches = Batches(part, min(at_once(part, batch_size), len(part)), shuffle=False, preprocess=preprocess)
        each.append((len(part), batches.steps_per_epoch, iter(batches.dataset(0, count * batches.steps_per_epoch))))
    for _ in range(count):
        made = []
        for size, several, steps in each:
            parts = [run(network_input(next(steps))).numpy() for _ in range(several)]
            made.append(np.concatenate(parts)[:size].astype(np.float32))
        yield np.concatenate(made)[back] if len(made) > 1 else made[0]


def alike(source):
    """Lists of indices, of examples that may share batches: all in one, but clips that are far longer than most."""
    if not source.rate:
        return [np.arange(len(source))]
    over = np.maximum(source.lengths / (FAR * np.median(source.lengths)), 1)
    size = np.ceil(np.log2(over))
    return [np.flatnonzero(size == each) for each in np.unique(size)]


def at_once(source, most):
    """How many examples a network is given at a time: `most`, of long sounds fewer."""
    return most if not source.rate else max(1, min(most, SAMPLES_AT_ONCE // int(source.lengths.max())))


def pixels(source, preprocess=None):
    """float32 (N, H·W·C) in [0, 1]: the baseline that learns nothing."""
    return extract_features(lambda image: tf.reshape(image, (tf.shape(image)[0], -1)), source, preprocess=preprocess)


def log_mel(rate, stretches=12):
    """In a network's place, of sound at so many Hz: a `tf.function` from waveforms (B, L) to the log-mel spectrogram's
    means over stretches of each clip, float32 (B, stretches·bands)."""
    frames = waveform.Frames(rate // waveform.FRAMES_PER_SECOND)
    normalized, bands, mean = waveform.Normalized(), waveform.LogMel(rate), waveform.Stretches(stretches)

    def embed(x):
        places = frames(x)
        return mean(bands(normalized(x), places), places)

    return tf.function(embed, input_signature=[tf.TensorSpec((None, None), tf.float32)])


def tf_idf(train_texts, *others):
    """Sparse (N, words) arrays: the shares of words and pairs of words, the rarer the weightier.

    The text's baseline, as pixels are the image's; the words are those of `train_texts`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    return [vectorizer.fit_transform(train_texts), *(vectorizer.transform(texts) for texts in others)]


def noisy(batch, random):
    """Views (batch, random) with Gaussian noise on every image, of standard deviation NOISE of the [0, 1] scale."""
    image = unit_range(batch["image"])
    return batch | {"image": tf.clip_by_value(image + NOISE * random.normal("noise", image.shape[1:]), 0.0, 1.0)}


def shifted(batch, random):
    """Views with every image moved along both sides by SHIFT of them, either way; what comes in is black."""
    image = unit_range(batch["image"])
    signs = tf.where(random.uniform("shift", (2,)) < 0.5, -1.0, 1.0)  # (B, 2)
    rows, columns = (
        interpolation(side, signs[:, axis] * max(1, round(SHIFT * side)) / side, tf.ones_like(signs[:, axis]))
        for axis, side in enumerate(image.shape[1:3])
    )
    return batch | {"image": mapped(image, rows, columns)}


def cropped(batch, random):
    """Views with a random crop of every image, of at least CROP of its area: the other view of `alignment`."""
    return batch | {"image": augment(batch["image"], random, Augmentation(crop=CROP))}


def normalize(x):
    """The rows of an array (N, D), sparse or not, each at length 1; those that are all 0 stay so."""
    from sklearn import preprocessing

    return preprocessing.normalize(x)


def spread(count, most):
    """At most so many of the indices 0 .. count − 1, at even distances: data may be sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
