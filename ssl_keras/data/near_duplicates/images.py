"""Images as numbers to compare: 16×16 thumbnails, and 32×32 ones for what thumbnails cannot tell apart.

Two images look alike if their thumbnails correlate. In data that are framed alike, as drawings of clothes are, all do:
so a second look compares details, which are the pixels minus the mean of their 3×3 neighborhoods, and the data decide
how similar these must be (`fitted_detail`).

Sketches are integers, resized by Pillow's integer arithmetic, so that they are equal on every machine.

Shapes: `N` images, `H W C` image, `D` numbers of a thumbnail, `K` keys.
"""

import numpy as np

from ssl_keras.data.near_duplicates.sketching import ROUND, mix

THUMBNAIL, SIDE = 16, 32
CHUNK = 1_024  # images resized at a time
FLAT = 1e-2  # a thumbnail with a smaller standard deviation counts as a single color
BANDS, BITS = 48, 20  # keys of a thumbnail, and hyperplanes in each
LIKE, DETAIL = 0.95, 0.7  # correlations of thumbnails and of details
SAMPLE, OTHERS, NEIGHBOR, SPREAD = 1_000, 50_000, 5, 3.0  # of `fitted_detail`
WEIGHTS = (77, 150, 29)  # of red, green and blue in luminance, in 256ths (ITU-R BT.601)


def thumbnails(images):
    """Resizes images (N, H, W, C) to thumbnails, float32 (N, 16, 16, C) in [0, 1]."""
    import tensorflow as tf

    from ssl_keras.data.images import unit_range

    small = []
    for start in range(0, len(images), CHUNK):
        x = unit_range(tf.constant(images[start : start + CHUNK]))
        small.append(tf.image.resize(x, (THUMBNAIL, THUMBNAIL), antialias=True).numpy())
    return np.concatenate(small)


def unit_vectors(images):
    """Returns unit vectors (N, D) float32 whose inner products are correlations of thumbnails, in color.

    Thumbnails of a single color become angles instead, so that colors about a fifth of the scale apart are not similar.
    """
    x = thumbnails(images)
    channels = x.shape[-1]
    flat = x.std((1, 2)).max(-1) < FLAT  # (N,)
    angle = x.mean((1, 2)) * np.pi / 2  # (N, C)
    color = np.concatenate([np.cos(angle), np.sin(angle)], 1) / np.sqrt(channels)
    x = x.reshape(len(x), -1)
    x = x - x.mean(1, keepdims=True)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), FLAT)
    return np.concatenate([np.where(flat[:, None], 0.0, x), np.where(flat[:, None], color, 0.0)], 1, dtype=np.float32)


def sketches(images):
    """Returns what images (H, W, C), an iterable, are compared by.

    Returns:
        thumbnails: int8 (N, 768), in color: shapes in two colors are two pictures.
        details: int8 (N, 1024), of the luminance.
        keys: uint64 (N, K), see `_keys`.
    """
    smalls = np.stack([_small(image) for image in images])
    x = smalls.reshape(-1, THUMBNAIL, 2, THUMBNAIL, 2, 3).astype(np.int32).sum((2, 4))
    flat = x.reshape(len(x), -1)
    gray = smalls.astype(np.int32) @ np.array(WEIGHTS, np.int32)
    thumbnails = _quantized(flat * flat.shape[1] - flat.sum(1, keepdims=True))
    return thumbnails, _quantized(_details(gray)), _keys(x @ np.array(WEIGHTS, np.int32))


def _small(image):
    """Resizes one image (H, W, C), uint8 or float in [0, 1], to uint8 (32, 32, 3)."""
    from PIL import Image

    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    picture = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).convert("RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _details(x):
    """Returns (N, S · S): 9 times each pixel of images (N, S, S), minus the sum of its 3×3 neighborhood."""
    side = x.shape[1]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), "edge")
    near = sum(padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3))
    return (9 * x - near).reshape(len(x), side**2)


def _quantized(x):
    """Scales integers (N, D) to int8, so that the largest is 127. Sums of 1024 products are then exact in float32."""
    size = np.abs(x).astype(np.int64)
    most = np.maximum(size.max(1, keepdims=True), 1)
    return (np.sign(x) * ((size * 254 // most + 1) // 2)).astype(np.int8)


def correlation(a, b):
    """Returns the cosine of the rows of two int8 arrays (n, D): float64 (n,). That of zeros is 0."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    inner, first, second = (np.einsum("nd,nd->n", x, y).astype(np.float64) for x, y in ((a, b), (a, a), (b, b)))
    return inner / np.sqrt(np.maximum(first * second, 1.0))


def _keys(thumbnails):
    """Returns uint64 (N, K): the sides of random hyperplanes that the details of a gray thumbnail (N, 16, 16) lie on
    (Charikar 2002).

    Vectors of correlation 0.95 share a key with a probability of 0.998. Details of a thumbnail survive compression and
    noise, and tell apart pictures that are framed alike, whose thumbnails themselves are in one bucket.
    """
    x = _quantized(_details(thumbnails))
    number = np.arange(BANDS * BITS * x.shape[1], dtype=np.uint64)
    planes = np.where(mix(number + ROUND) & np.uint64(1), np.float32(1), np.float32(-1))
    sides = x.astype(np.float32) @ planes.reshape(x.shape[1], -1) >= 0
    packed = sides.reshape(-1, BANDS, BITS).astype(np.uint64) @ (np.uint64(1) << np.arange(BITS, dtype=np.uint64))
    return mix(packed + np.arange(1, BANDS + 1, dtype=np.uint64) * ROUND)


def alike(ours, theirs, like=LIKE, detail=DETAIL):
    """Returns the function (i, j) → bool (n,) by which two images are near duplicates: their thumbnails have a
    correlation of at least `like`, and their details one of at least `detail`.

    Args:
        ours, theirs: (thumbnails, details, …) from `sketches`, of the images i and j.
    """

    def similar(i, j):
        found = correlation(ours[0][i], theirs[0][j]) >= like
        found[found] = correlation(ours[1][i[found]], theirs[1][j[found]]) >= detail
        return found

    return similar


def fitted_detail(details, least=DETAIL):
    """Returns the correlation of details from which images of this dataset are near duplicates: `least`, or more where
    different images are framed alike.

    A sample of images is compared with many others. In the Fisher transform atanh of the correlation with the
    `NEIGHBOR`th nearest, the threshold is `SPREAD` interquartile ranges above the median. Both are little affected by
    copies, among which the nearest images are.

    Args:
        details: (N, 1024) from `sketches`; `SAMPLE` of them, evenly spaced, are compared with at most `OTHERS`.
    """
    rows = np.unique(np.linspace(0, len(details) - 1, min(SAMPLE, len(details))).astype(int))
    others = np.unique(np.linspace(0, len(details) - 1, min(OTHERS, len(details))).astype(int))
    if len(others) <= NEIGHBOR:
        return least
    ours, nearest = _unit(details[rows]), np.full((len(rows), NEIGHBOR + 1), -1.0)
    for start in range(0, len(others), CHUNK):
        found = np.concatenate([nearest, ours @ _unit(details[others[start : start + CHUNK]]).T], 1)
        nearest = np.partition(found, -NEIGHBOR - 1, axis=1)[:, -NEIGHBOR - 1 :]
    z = np.arctanh(np.clip(nearest[:, 0], -0.999, 0.999))  # an image is its own nearest
    lower, middle, upper = np.quantile(z, (0.25, 0.5, 0.75))
    return max(least, round(float(np.tanh(middle + SPREAD * (upper - lower))), 3))


def _unit(details):
    x = details.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1.0)
