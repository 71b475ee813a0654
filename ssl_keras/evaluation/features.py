"""Feature extraction, and the baselines without training: pixels, log-mel and TF-IDF.

Shapes: `N` examples, `D` features.
"""

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.data.audio import LONGEST, truncate_clips
from ssl_keras.data.augment_images import Augmentation, apply_matrices, augment, interpolation_matrix
from ssl_keras.data.batches import Batches
from ssl_keras.data.images import unit_range
from ssl_keras.data.inputs import augment_waveforms, network_input, signature
from ssl_keras.data.masking import trim
from ssl_keras.networks import description, gives_states, pooling_of, realize, waveform
from ssl_keras.networks.dense import per_token
from ssl_keras.networks.transformer import pool

MAX_SAMPLES = 2_000_000  # of audio in a batch, since a network needs hundreds of bytes for each
LONG = 8  # times the median length; longer clips have batches of their own, in each of which lengths differ at most 2×
SHORT = 8  # tokens; texts of up to this many, twice as many, … have batches of their own
COPIES = 10  # augmented copies of each clip that a probe trains on, since labels are few and voices differ
NOISE, SHIFT, CROP = 0.1, 1 / 14, 0.5  # standard deviation; fraction of the side; smallest fraction of the area


def compile_network(network, head=None, each_token=False):
    """Compiles a network into a `tf.function` from its input to features (B, D), which can be called again and again.

    Hidden states (B, T, D) are pooled without padding, as the network's description says (see `pooling_of`). Tokens
    beyond the network's context are dropped, since a causal window has one more token: its last target. With a `head`,
    features -> logits (B, Y), the function returns logits; with `each_token`, those of each token, (B, T, Y), which are
    0 beyond the longest text of the batch.
    """
    network = realize(network)
    context, states = getattr(description(network), "max_tokens", None), gives_states(network)
    takes_tokens = signature(network).dtype.is_integer

    def embed(x):
        width = tf.shape(x)[1]
        x = x if context is None else x[:, :context]
        x = trim(x) if takes_tokens else x
        y = network(x, training=False)
        if each_token:
            return tf.pad(per_token(head, y), [[0, 0], [0, width - tf.shape(y)[1]], [0, 0]])
        y = pool(y, x, pooling_of(network)) if states else y
        return y if head is None else head(y, training=False)

    return tf.function(embed, input_signature=[signature(network)])


def extract_features(network, source, batch_size=512, preprocess=None):
    """Extracts the features of every example of a source, in order: float32 (N, D).

    Args:
        network: a functional graph, or the result of `compile_network`.
        source: a `Source`.
        batch_size: number of examples in a batch; long clips have smaller batches.
        preprocess: function (batch, random) to another batch, such as `add_noise`, or None.
    """
    return next(passes(network, source, batch_size, preprocess, 1))


def embed_tokens(embed, ids, batch_size=256):
    """Embeds texts of token ids, int32 (N, T) with −1 as padding, in batches of similar lengths: float32 (N, D).

    `embed` is the result of `compile_network`.
    """
    lengths = (ids >= 0).sum(1)
    order, made = np.argsort(lengths, kind="stable"), []
    for start in range(0, len(ids), batch_size):
        rows = order[start : start + batch_size]
        made.append(embed(tf.constant(ids[rows, : max(lengths[rows].max(), 1)])).numpy())
    features = np.concatenate(made)
    return features[np.argsort(order)]


def augmented_copies(network, source, changes):
    """Extracts the features of COPIES augmentations of the waveforms: a list of (N, D), empty without `changes`."""
    if changes is None:
        return []
    longest = source.arrays["waveform"].longest
    return list(
        passes(
            network,
            source,
            512,
            lambda batch, random: augment_waveforms(batch, random, changes, source.rate, longest),
            COPIES,
        )
    )


def passes(network, source, batch_size, preprocess, count):
    """Yields the result of `extract_features` `count` times, with new random draws each time."""
    run = compile_network(network) if isinstance(network, keras.Model) else network
    source = truncate_clips(source, int(LONGEST * source.rate)) if source.rate else source
    groups = length_groups(source)
    order, batches_of = np.argsort(np.concatenate(groups)), []
    for group in groups:
        part = source if len(groups) == 1 else source.take(group)
        batches = Batches(part, min(batch_size_for(part, batch_size), len(part)), shuffle=False, preprocess=preprocess)
        steps = batches.steps_per_epoch
        batches_of.append((len(part), steps, iter(batches.dataset(0, count * steps))))
    for _ in range(count):
        features = []
        for size, steps, batch in batches_of:
            parts = [run(network_input(next(batch))).numpy() for _ in range(steps)]
            features.append(np.concatenate(parts)[:size].astype(np.float32))
        yield np.concatenate(features)[order] if len(features) > 1 else features[0]


def length_groups(source):
    """Returns lists of the indices that may share a batch: texts whose lengths differ at most 2×, and all others
    together, except for clips far longer than the median."""
    if source.rate:
        over = source.lengths / (LONG * np.median(source.lengths))
    elif "tokens" in source.arrays:
        over = np.count_nonzero(source.column("tokens") >= 0, axis=1) / SHORT
    else:
        return [np.arange(len(source))]
    octave = np.ceil(np.log2(np.maximum(over, 1)))
    return [np.flatnonzero(octave == each) for each in np.unique(octave)]


def batch_size_for(source, batch_size):
    """Returns `batch_size`, or a smaller batch size for long clips."""
    return batch_size if not source.rate else max(1, min(batch_size, MAX_SAMPLES // int(source.lengths.max())))


def pixels(source, preprocess=None):
    """Returns the flattened images, float32 (N, H·W·C) in [0, 1]: the baseline for images."""
    return extract_features(lambda image: tf.reshape(image, (tf.shape(image)[0], -1)), source, preprocess=preprocess)


def log_mel(rate, stretches=12):
    """Returns the baseline for audio, in place of a network: a `tf.function` from waveforms (B, L) at `rate` Hz to the
    means of the log-mel spectrogram over equal parts of each clip, float32 (B, stretches·bands)."""
    frames = waveform.Frames(rate // waveform.FRAMES_PER_SECOND)
    normalized, bands, mean = waveform.Normalized(), waveform.LogMel(rate), waveform.Stretches(stretches)

    def embed(x):
        places = frames(x)
        return mean(bands(normalized(x), places), places)

    return tf.function(embed, input_signature=[tf.TensorSpec((None, None), tf.float32)])


def tf_idf(train_texts, *others):
    """Returns sparse TF-IDF features (N, V) of words and pairs of words: the baseline for text.

    The vocabulary is that of `train_texts`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    return [vectorizer.fit_transform(train_texts), *(vectorizer.transform(texts) for texts in others)]


def add_noise(batch, random):
    """Adds Gaussian noise of standard deviation NOISE to every image, in [0, 1]."""
    image = unit_range(batch["image"])
    return batch | {"image": tf.clip_by_value(image + NOISE * random.normal("noise", image.shape[1:]), 0.0, 1.0)}


def shift_images(batch, random):
    """Shifts every image along both axes by the fraction SHIFT of its side, in random directions; fills with black."""
    image = unit_range(batch["image"])
    signs = tf.where(random.uniform("shift", (2,)) < 0.5, -1.0, 1.0)  # (B, 2)
    rows, columns = (
        interpolation_matrix(side, signs[:, axis] * max(1, round(SHIFT * side)) / side, tf.ones_like(signs[:, axis]))
        for axis, side in enumerate(image.shape[1:3])
    )
    return batch | {"image": apply_matrices(image, rows, columns)}


def crop_images(batch, random):
    """Crops every image at random to at least the fraction CROP of its area: the second view for `alignment`."""
    return batch | {"image": augment(batch["image"], random, Augmentation(crop=CROP))}


def normalize(x):
    """Scales the rows of an array (N, D), sparse or not, to length 1; rows of zeros stay zero."""
    from sklearn import preprocessing

    return preprocessing.normalize(x)


def evenly_spaced(count, limit):
    """Returns at most `limit` of the indices 0 … count − 1, evenly spaced, since data may be sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))
