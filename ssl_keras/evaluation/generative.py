"""How good made images are: their features beside those of real ones, as a classifier of ours sees them.

The usual distances are taken on Inception's features of photographs; these are taken on the features
of a classifier that this project trained on such images, which is named beside the numbers: they
compare with each other, not with published ones.

Shapes: `N` images, `D` features.
"""

import numpy as np
import scipy.linalg

from ssl_keras import encoders
from ssl_keras.data.images import unit_range
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.features import compiled

SUBSET, SUBSETS = 1_000, 10  # of the kernel distance
NEAREST = 3  # whose distance is the radius of an image's neighborhood
COVERED = 0.1  # a class counts as covered by so much of its share in the real images
NUM_SHOWN, NEIGHBORS = 10, 5  # in the picture of nearest neighbors


class FeatureClassifier:
    """A saved classifier, as the one who looks.

    Args:
        name: a saved encoder with a classifier's head.

    Raises:
        ValueError: unknown name; no classifier.
    """

    def __init__(self, name):
        encoder, self.head, self.card = encoders.load_with_head(name)
        if not cards.is_classifier(self.card):
            raise ValueError(
                f"{self.card['name']} is no classifier. Expected one that was trained with labels: "
                "ssl-keras pretrain classifier --data …"
            )
        self.embed = compiled(encoder)

    def features(self, image):
        """float32 (N, D) of images (N, H, W, C), uint8 or float in [0, 1]."""
        parts = (np.asarray(image[start : start + 500]) for start in range(0, len(image), 500))
        return np.concatenate([self.embed(unit_range(part)).numpy() for part in parts])

    def distances(self, real, made):
        """{"fid", "kid", "classes_covered"} of made images (N, H, W, C) beside real ones."""
        a, b = self.features(real), self.features(made)
        covered, _ = modes(self.classes(a), self.classes(b), len(self.card["classes"]))
        return {"fid": frechet(a, b), "kid": kernel_distance(a, b)[0], "classes_covered": covered}

    @property
    def about(self):
        """{what: value}: who looks, and how often it is right."""
        return {
            "classifier": self.card["name"],
            "its test accuracy": self.card["trained_by"].get("outcome", {}).get("test_accuracy"),
        }

    def classes(self, features):
        """int (N,): what the classifier takes them for."""
        return np.argmax(self.head(features).numpy(), axis=1)


def frechet(a, b):
    """The squared Fréchet distance of the two sets as Gaussians (FID: Heusel et al. 2017, section 4).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2·(Σ_a Σ_b)^½), and of few images it comes out too large.

    Args:
        a, b: (N, D) floats, N > 1 each.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    # Of Σ_a Σ_b and the symmetric Σ_a^½ Σ_b Σ_a^½ the eigenvalues are the same.
    values, vectors = scipy.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    mixed = np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + sum(np.trace(c) for c in covariances) - 2 * mixed
    return float(max(distance, 0.0))


def kernel_distance(a, b, seed=0):
    """The squared maximum mean discrepancy with the kernel (x·y/D + 1)³ (KID: Bińkowski et al. 2018, section 4).

    Unbiased, so that few images do: around 0 for sets of one kind.

    Returns:
        (mean, standard deviation) over SUBSETS draws of SUBSET images each, or of half of them.
    """
    rng = np.random.default_rng(seed)
    size = min(SUBSET, len(a) // 2, len(b) // 2)
    estimates = [discrepancy(*(z[rng.choice(len(z), size, replace=False)] for z in (a, b))) for _ in range(SUBSETS)]
    return float(np.mean(estimates)), float(np.std(estimates))


def discrepancy(a, b):
    """The unbiased estimate from two sets of one size, (N, D) each, N > 1."""
    from sklearn.metrics.pairwise import polynomial_kernel

    a, b, size = a.astype(np.float64), b.astype(np.float64), len(a)
    aa, bb, ab = (polynomial_kernel(*pair, degree=3, coef0=1) for pair in ((a, a), (b, b), (a, b)))
    return sum((k.sum() - np.trace(k)) / (size * (size - 1)) for k in (aa, bb)) - 2 * ab.mean()


def precision_recall(real, made):
    """(precision, recall) in [0, 1] (Kynkäänniemi et al. 2019, equation 1).

    The share of made images that lie among the real ones, within the third-nearest real neighbor of
    one of these; and the share of real ones that lie among the made.
    """
    return _share_among(real, made), _share_among(made, real)


def _share_among(known, asked):
    radius = nearest(known, known, NEAREST + 1)[0][:, -1]  # the first is itself
    inside = 0
    for part in np.array_split(asked, max(1, len(asked) // 1000)):
        distance = np.sqrt(
            np.maximum(np.square(part).sum(1)[:, None] + np.square(known).sum(1) - 2 * part @ known.T, 0)
        )
        inside += (distance <= radius).any(axis=1).sum()
    return float(inside / len(asked))


def modes(real_classes, made_classes, count):
    """(how many of the real images' classes are covered, the largest share of a class over its real share)."""
    real, made = (np.bincount(c, minlength=count) / len(c) for c in (real_classes, made_classes))
    there = real > 0
    return int((made >= COVERED * real)[there].sum()), float((made[there] / real[there]).max())


def nearest(known, asked, count=1):
    """(distances, indices), each (N, count): the nearest of the known to each of the asked."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count, algorithm="brute").fit(known).kneighbors(asked)


def check(count, splits):
    """Raises ValueError where there are too few images to measure by."""
    for name, images in (("made", count), ("test", len(splits.test)), ("training", len(splits.train))):
        if images <= 2 * NEAREST:
            raise ValueError(f"Expected more than {2 * NEAREST} {name} images. Received: {images}")


def measure(judge, made, splits):
    """The table: made images beside the test part; and real ones, as many training images if there are, the floor.

    Args:
        judge: a `FeatureClassifier`.
        made: images (N, H, W, C).
        splits: `Splits` of real ones.

    Returns:
        {row: {measure: value}}, rows `made` and `real`. The last measure is the distance to the nearest
        training image, of `real` the test images': a generator that has learned images by heart is nearer.
    """
    check(len(made), splits)
    test, train = (judge.features(part.column("image")) for part in (splits.test, splits.train))
    drawn = np.random.default_rng(0).permutation(len(train))[: len(made)]
    table = {}
    for name, features, unseen in (("made", judge.features(made), None), ("real", train[drawn], test)):
        kid, kid_sd = kernel_distance(test, features)
        precision, recall = precision_recall(test, features)
        covered, most = modes(judge.classes(test), judge.classes(features), len(judge.card["classes"]))
        asked = features if unseen is None else unseen
        table[name] = {
            "images": len(features),
            "FID": frechet(test, features),
            "KID": kid,
            "KID sd": kid_sd,
            "precision": precision,
            "recall": recall,
            "classes covered": covered,
            "most over its share": most,
            "distance to the nearest learned": float(np.median(nearest(train, asked)[0])),
        }
    return table


def markdown(table):
    """The table as Markdown."""
    columns = list(next(iter(table.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in table.items():
        cells = (f"{row[c]:,d}" if isinstance(row[c], int) else f"{row[c]:.4g}" for c in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def neighbors(judge, made, images):
    """Rows for `pictures.picture_grid`: some made images, then the real ones nearest to each, best first.

    Args:
        judge: a `FeatureClassifier`.
        made, images: uint8, or float in [0, 1] (N, H, W, C).
    """
    made = made[:NUM_SHOWN]
    _, index = nearest(judge.features(images), judge.features(made), NEIGHBORS)
    return [unit_range(rows) for rows in (made, *(images[i] for i in index.T))]
