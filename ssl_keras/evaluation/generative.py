"""Quality of generated images: FID, KID, precision and recall on the features of a saved classifier.

Published FIDs use the features of an Inception network trained on photographs. These use a classifier that was trained
on images like the real ones, and whose name is reported with the numbers. So they can be compared with each other, and
not with published ones.

Shapes: `N` images, `D` features.
"""

import numpy as np
import scipy.linalg

from ssl_keras import encoders
from ssl_keras.data.images import unit_range
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.features import compile_network

SUBSET, SUBSETS = 1_000, 10  # size and number of the subsets of the kernel distance
NEAREST = 3  # the distance to this neighbor is the radius of an image's neighborhood
MIN_COVERAGE = 0.1  # a class is covered from this fraction of its frequency among the real images on
NUM_SHOWN, NEIGHBORS = 10, 5  # in the picture of nearest neighbors


class FeatureClassifier:
    """Loads a saved classifier, whose features generated and real images are compared on.

    Args:
        name: a saved encoder with a classification head.

    Raises:
        ValueError: the name is unknown, or the encoder is not a classifier.
    """

    def __init__(self, name):
        encoder, self.head, self.card = encoders.load_with_head(name)
        if not cards.is_classifier(self.card):
            raise ValueError(
                f"{self.card['name']} is not a classifier. Expected an encoder that was trained on labels. "
                "Use: ssl-keras pretrain classifier --data DATA"
            )
        self.embed = compile_network(encoder)

    def features(self, image):
        """Extracts the features of images (N, H, W, C), uint8 or float in [0, 1]: float32 (N, D)."""
        parts = (np.asarray(image[start : start + 500]) for start in range(0, len(image), 500))
        return np.concatenate([self.embed(unit_range(part)).numpy() for part in parts])

    def distances(self, real, generated):
        """Returns {"fid", "kid", "classes_covered"} of generated images (N, H, W, C) compared with real ones."""
        a, b = self.features(real), self.features(generated)
        covered, _ = class_coverage(self.classes(a), self.classes(b), len(self.card["classes"]))
        return {"fid": frechet_distance(a, b), "kid": kernel_distance(a, b)[0], "classes_covered": covered}

    @property
    def about(self):
        """The classifier's name and test accuracy, as a dict."""
        outcome = self.card["trained_by"].get("outcome")
        accuracy = outcome.get("test_accuracy") if isinstance(outcome, dict) else None
        return {"classifier": self.card["name"], "its test accuracy": accuracy}

    def classes(self, features):
        """Returns the predicted classes of features (N, D): int (N,)."""
        return np.argmax(self.head(features).numpy(), axis=1)


def frechet_distance(a, b):
    """Returns the squared Fréchet distance between two sets as Gaussians (FID: Heusel et al. 2017, section 4).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2·(Σ_a Σ_b)^½). It is biased upward for few images.

    Args:
        a, b: (N, D) floats, N > 1 each.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    # Σ_a Σ_b and the symmetric Σ_a^½ Σ_b Σ_a^½ have the same eigenvalues.
    values, vectors = scipy.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + sum(np.trace(c) for c in covariances) - 2 * mixed
    return float(max(distance, 0.0))


def kernel_distance(a, b, seed=0):
    """Returns the squared MMD with the kernel (x·y/D + 1)³ (KID: Bińkowski et al. 2018, section 4).

    It is unbiased, so few images are enough; it is around 0 for two sets of the same distribution.

    Returns:
        (mean, standard deviation) over SUBSETS draws of SUBSET images, or of half of the smaller set if that is less.
    """
    rng = np.random.default_rng(seed)
    size = min(SUBSET, len(a) // 2, len(b) // 2)
    estimates = [squared_mmd(*(z[rng.choice(len(z), size, replace=False)] for z in (a, b))) for _ in range(SUBSETS)]
    return float(np.mean(estimates)), float(np.std(estimates))


def squared_mmd(a, b):
    """Returns the unbiased estimate of the squared MMD between two sets of the same size, (N, D) each, N > 1."""
    from sklearn.metrics.pairwise import polynomial_kernel

    a, b, size = a.astype(np.float64), b.astype(np.float64), len(a)
    aa, bb, ab = (polynomial_kernel(*pair, degree=3, coef0=1) for pair in ((a, a), (b, b), (a, b)))
    return sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in (aa, bb)) - 2 * ab.mean()


def precision_recall(real, generated):
    """Returns (precision, recall) in [0, 1] (Kynkäänniemi et al. 2019, equation 1).

    Precision is the fraction of generated images that are closer to some real image than its third-nearest real
    neighbor. Recall is the fraction of real images for which the same holds with the sets exchanged.
    """
    return _fraction_within(real, generated), _fraction_within(generated, real)


def _fraction_within(known, asked):
    radius = nearest_neighbors(known, known, NEAREST + 1)[0][:, -1]  # the first neighbor is the image itself
    inside = 0
    for part in np.array_split(asked, max(1, len(asked) // 1000)):
        distance = np.sqrt(
            np.maximum(np.square(part).sum(1)[:, None] + np.square(known).sum(1) - 2 * part @ known.T, 0)
        )
        inside += (distance <= radius).any(axis=1).sum()
    return float(inside / len(asked))


def class_coverage(real_classes, generated_classes, count):
    """Returns the number of real classes that are covered, and the largest frequency of a class over its real one."""
    real, generated = (np.bincount(c, minlength=count) / len(c) for c in (real_classes, generated_classes))
    present = real > 0
    covered = (generated >= MIN_COVERAGE * real)[present].sum()
    return int(covered), float((generated[present] / real[present]).max())


def nearest_neighbors(known, asked, count=1):
    """Returns (distances, indices), each (N, count), of the rows of `known` nearest to each row of `asked`."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count, algorithm="brute").fit(known).kneighbors(asked)


def check(count, splits):
    """Raises ValueError if there are too few images to measure."""
    for name, images in (("generated", count), ("test", len(splits.test)), ("training", len(splits.train))):
        if images <= 2 * NEAREST:
            raise ValueError(f"Expected more than {2 * NEAREST} {name} images. Received: {images}")


def measure(classifier, generated, splits):
    """Compares generated images, and as many training images, with the test split.

    Args:
        classifier: a `FeatureClassifier`.
        generated: images (N, H, W, C).
        splits: `Splits` of real images.

    Returns:
        {row: {measure: value}} with the rows `made` (generated images) and `real` (training images, the best case). The
        last measure is the median distance to the nearest training image, in the row `real` from the test images. A
        generator that memorizes has a smaller one.
    """
    check(len(generated), splits)
    test, train = (classifier.features(part.column("image")) for part in (splits.test, splits.train))
    rows = np.random.default_rng(0).permutation(len(train))[: len(generated)]
    table = {}
    generated = classifier.features(generated)
    for name, features, unseen in (("made", generated, None), ("real", train[rows], test)):
        kid, kid_sd = kernel_distance(test, features)
        precision, recall = precision_recall(test, features)
        covered, excess = class_coverage(
            classifier.classes(test), classifier.classes(features), len(classifier.card["classes"])
        )
        asked = features if unseen is None else unseen
        table[name] = {
            "images": len(features),
            "FID": frechet_distance(test, features),
            "KID": kid,
            "KID sd": kid_sd,
            "precision": precision,
            "recall": recall,
            "classes covered": covered,
            "most over its share": excess,
            "distance to the nearest learned": float(np.median(nearest_neighbors(train, asked)[0])),
        }
    return table


def markdown(table):
    """Formats the table of `measure` as Markdown."""
    columns = list(next(iter(table.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in table.items():
        cells = (f"{row[c]:,d}" if isinstance(row[c], int) else f"{row[c]:.4g}" for c in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def neighbors(classifier, generated, images):
    """Returns rows for `pictures.picture_grid`: some generated images, then the nearest real ones, nearest first.

    Args:
        classifier: a `FeatureClassifier`.
        generated, images: uint8, or float in [0, 1] (N, H, W, C).
    """
    generated = generated[:NUM_SHOWN]
    _, index = nearest_neighbors(classifier.features(images), classifier.features(generated), NEIGHBORS)
    return [unit_range(rows) for rows in (generated, *(images[i] for i in index.T))]
