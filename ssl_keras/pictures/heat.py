"""Heat maps: attributions in color over a gray picture of the input; red raises the score, blue lowers it.

Shapes: `H W C` image, `T` frames, `M` bands.
"""

import numpy as np
import tensorflow as tf

RAISES, LOWERS = (0.86, 0.12, 0.12), (0.12, 0.33, 0.92)
TAIL = 99  # percentile of the absolute values that gets the full color
FAINT = 0.35  # contrast of the picture under the colors


def scaled(values):
    """Scales attributions to [−1, 1]: divides by a high percentile of their absolute values, and clips."""
    values = np.asarray(values, np.float32)
    used = np.abs(values[values != 0])
    return np.clip(values / np.percentile(used, TAIL), -1, 1) if used.size else values


def over_image(image, values):
    """Colors an image (H, W, C) in [0, 1] by attributions (H, W): (H, W, 3) in [0, 1]."""
    gray = np.asarray(image, np.float32)[..., :3].mean(-1)
    return _colored(1 - FAINT + FAINT * gray, scaled(values))


def over_bands(bands, values):
    """Colors a spectrogram (T, M), 0 for silence, by attributions (T, M): (M, T, 3), low bands at the bottom."""
    top = max(float(np.max(bands, initial=0.0)), 1e-6)
    gray = np.clip(np.asarray(bands, np.float32) / top, 0, 1)
    return _colored(1 - FAINT + FAINT * gray, scaled(values)).transpose(1, 0, 2)[::-1]


def over_samples(samples, values, width=320, height=48):
    """Colors the envelope of a clip (L,) by attributions (L,): (height, width, 3)."""
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    parts = [slice(a, max(b, a + 1)) for a, b in zip(edges, edges[1:])]
    loud = np.array([np.abs(samples[part]).max(initial=0) for part in parts])
    heat = scaled(np.array([values[part].sum() for part in parts]))
    level = np.abs(np.linspace(1, -1, height))[:, None]
    inside = level <= loud / max(loud.max(), 1e-6)
    return _colored(np.where(inside, 1 - FAINT, 1.0), np.where(inside, heat, 0.3 * heat))


def similarity(values):
    """Shows values from −1 to 1 in shades of red and blue on white: (…, 3)."""
    return _colored(np.ones(np.shape(values), np.float32), np.asarray(values, np.float32))


def resized(picture, shape):
    """Enlarges a picture (h, w, 3) to (H, W) without smoothing."""
    return tf.image.resize(picture, shape, "nearest").numpy()


def _colored(ground, values):
    color = np.where((values > 0)[..., None], RAISES, LOWERS)
    weight = np.abs(values)[..., None]
    return np.float32((1 - weight) * ground[..., None] + weight * color)
