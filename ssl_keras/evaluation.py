"""Evaluation: arrays in, numbers out. It knows of no trainer, and never tunes on the test part.

Shapes: `N` examples, `D` features.
"""

import copy

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse import issparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from threadpoolctl import threadpool_limits

from ssl_keras.data.augment_images import Augmentation, augment, interpolation, mapped
from ssl_keras.data.batches import Batches
from ssl_keras.data.images import unit_range
from ssl_keras.data.inputs import changed, network_input, signature
from ssl_keras.networks import waveform
from ssl_keras.networks.transformer import Embeddings, pool

PROBE_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularisation C of the linear probe
FEW_ROWS = 5_000
SAMPLES_AT_ONCE = 2_000_000  # of sound: a network needs some hundred bytes for each
COPIES = 10  # of a clip, each changed anew, that a probe learns of beside it: voices differ, and labels are few
NOISE, SHIFT, CROP = 0.1, 1 / 14, 0.5  # standard deviation in [0, 1]; share of the side; least share of the area


def compiled(network):
    """A `tf.function` from a network's input to features (B, D); keep it to call `features` often.

    Hidden states (B, T, D) are averaged over the tokens that are not padding. What goes beyond a
    network's context is left out: a causal window has one token more, its last target.
    """
    context = next((layer.context for layer in network.layers if isinstance(layer, Embeddings)), None)

    def embed(x):
        x = x if context is None else x[:, :context]
        y = network(x, training=False)
        return pool(y, x) if len(y.shape) == 3 else y

    return tf.function(embed, input_signature=[signature(network)])


def features(network, source, batch_size=512, views=None):
    """float32 (N, D): what a network makes of every example of a source, in order.

    Args:
        network: a functional graph, or what `compiled` made of it.
        source: a `Source`.
        batch_size: examples at a time.
        views: function (batch, draws) to another batch, `noisy` say, or None.
    """
    return next(_passes(network, source, batch_size, views, 1))


def copies(network, source, changes):
    """COPIES arrays like that of `features`, of waveforms that `AudioAugmentation` change anew for each; none for None."""
    if changes is None:
        return []
    return list(_passes(network, source, 512, lambda batch, draws: changed(batch, draws, changes, source.rate), COPIES))


def _passes(network, source, batch_size, views, count):
    """Yields what `features` returns, so many times, of new draws each time."""
    run = compiled(network) if isinstance(network, keras.Model) else network
    batches = Batches(source, min(at_once(source, batch_size), len(source)), shuffle=False, views=views)
    steps = iter(batches.dataset(0, count * batches.steps_per_epoch))
    for _ in range(count):
        parts = [run(network_input(next(steps))).numpy() for _ in range(batches.steps_per_epoch)]
        yield np.concatenate(parts)[: len(source)].astype(np.float32)


def at_once(source, most):
    """How many examples a network is given at a time: `most`, of long sounds fewer."""
    return most if not source.rate else max(1, min(most, SAMPLES_AT_ONCE // int(source.lengths.max())))


def pixels(source, views=None):
    """float32 (N, H·W·C) in [0, 1]: the baseline that learns nothing."""
    return features(lambda image: tf.reshape(image, (tf.shape(image)[0], -1)), source, views=views)


def log_mel(rate, stretches=12):
    """In a network's place, of sound at so many Hz: a `tf.function` from waveforms (B, L) to the log-mel spectrogram's
    means over stretches of each clip, float32 (B, stretches·bands)."""
    frames = waveform.Frames(rate // waveform.FRAMES_PER_SECOND)
    normalised, bands, mean = waveform.Normalised(), waveform.LogMel(rate), waveform.Stretches(stretches)

    def embed(x):
        places = frames(x)
        return mean(bands(normalised(x), places), places)

    return tf.function(embed, input_signature=[tf.TensorSpec((None, None), tf.float32)])


def knn(train_x, train_y, test_x, test_y, k=20):
    """Accuracy in [0, 1] of the k nearest neighbours by cosine similarity (fewer, where there are fewer)."""
    # Of unit vectors, the nearest by distance are the most similar by cosine.
    model = KNeighborsClassifier(min(k, train_x.shape[0]), algorithm="brute")
    model.fit(normalize(train_x), train_y)
    return float(model.score(normalize(test_x), test_y))


def tf_idf(train_texts, *others):
    """Sparse (N, words) arrays: the shares of words and pairs of words, the rarer the weightier.

    The text's baseline, as pixels are the image's; the words are those of `train_texts`.
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    return [vectorizer.fit_transform(train_texts), *(vectorizer.transform(texts) for texts in others)]


def fit_probe(train_x, train_y, validation_x, validation_y, strengths=PROBE_STRENGTHS):
    """Logistic regression on frozen features, standardised where they are not sparse.

    Args:
        *_x: (N, D) floats. *_y: (N,) integer labels.
        strengths: candidates for scikit-learn's C, from the least; the best on the validation part is taken.

    Returns:
        (the fitted model, the C chosen).
    """
    best = (-1.0, None, None)
    scaler = StandardScaler(with_mean=not issparse(train_x), with_std=not issparse(train_x))
    train_x, validation_x = scaler.fit_transform(train_x), scaler.transform(validation_x)
    # Each goes on from the one before: two to three times as fast on few labels, more on many, and those of little
    # regularisation, which 300 iterations from nothing may not finish, are finished.
    regression = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)
    for strength in sorted(strengths):
        # Threads that wait for each other in tiny products take three times as long as one alone.
        with threadpool_limits(1 if train_x.shape[0] < FEW_ROWS else None):
            regression.set_params(C=strength).fit(train_x, train_y)
        score = regression.score(validation_x, validation_y)
        if score > best[0]:
            best = (score, make_pipeline(scaler, copy.deepcopy(regression)), strength)
    return best[1:]


def linear_probe(train_x, train_y, validation_x, validation_y, test_x, test_y, strengths=PROBE_STRENGTHS):
    """`fit_probe`, and its test accuracy in [0, 1]: (accuracy, the C chosen)."""
    model, strength = fit_probe(train_x, train_y, validation_x, validation_y, strengths)
    return float(model.score(test_x, test_y)), strength


def noisy(batch, draws):
    """Views (batch, draws) with Gaussian noise on every image, of standard deviation NOISE of the [0, 1] scale."""
    image = unit_range(batch["image"])
    return batch | {"image": tf.clip_by_value(image + NOISE * draws.normal("noise", image.shape[1:]), 0.0, 1.0)}


def shifted(batch, draws):
    """Views with every image moved along both sides by SHIFT of them, either way; what comes in is black."""
    image = unit_range(batch["image"])
    signs = tf.where(draws.uniform("shift", (2,)) < 0.5, -1.0, 1.0)  # (B, 2)
    rows, columns = (
        interpolation(side, signs[:, axis] * max(1, round(SHIFT * side)) / side, tf.ones_like(signs[:, axis]))
        for axis, side in enumerate(image.shape[1:3])
    )
    return batch | {"image": mapped(image, rows, columns)}


def cropped(batch, draws):
    """Views with a random crop of every image, of at least CROP of its area: the other view of `alignment`."""
    return batch | {"image": augment(batch["image"], draws, Augmentation(crop=CROP))}


def feature_sd(x):
    """Mean over the D features of their standard deviation on the unit sphere, times √D.

    1 for directions spread evenly, 0 where all examples share one (collapse).
    """
    return float(np.mean(np.std(normalize(x), axis=0)) * np.sqrt(x.shape[1]))


def alignment(a, b):
    """Mean squared distance on the unit sphere of two views' features, in [0, 4] (Wang & Isola 2020, equation 2)."""
    return float(np.mean(np.sum(np.square(normalize(a) - normalize(b)), axis=1)))


def uniformity(x, most=2_000):
    """log of the mean of exp(−2‖a − b‖²) over pairs of at most so many examples on the unit sphere.

    0 where all share one direction; −4 is about what an even spread over many dimensions gives
    (Wang & Isola 2020, equation 4). Features that are all 0 have one direction.
    """
    x = normalize(x[spread(len(x), most)]).astype(np.float64)
    x[~x.any(axis=1), 0] = 1.0
    distance = 2 - 2 * np.clip(x @ x.T, -1, 1)  # squared
    pairs = distance[np.triu_indices(len(x), 1)]
    return float(np.log(np.mean(np.exp(-2 * pairs)))) if len(pairs) else 0.0


def spread(count, most):
    """At most so many of the indices 0 .. count − 1, at even distances: data may be sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def rankme(x):
    """Effective rank of the features, in 1..min(N, D) (Garrido et al. 2023, "RankMe", eq. 1).

    exp of the entropy of the singular values over their sum; features all 0 give 0.
    """
    singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return 0.0
    share = singular / total + 1e-7
    return float(np.exp(-np.sum(share * np.log(share))))
