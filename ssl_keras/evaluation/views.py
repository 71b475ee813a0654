"""Random views of examples, for measures that compare examples with changed copies of themselves (LiDAR).

Shapes: `N` examples, `V` views, `D` features, `B` batch, `T` tokens.
"""

import numpy as np
import tensorflow as tf

from ssl_keras.data import masking
from ssl_keras.data.augment_audio import AudioAugmentation
from ssl_keras.data.inputs import augment_waveforms, column
from ssl_keras.evaluation.features import crop_images, passes

VIEWS = 10
KEPT = 0.5  # fraction of a text that a view keeps
SOUND = AudioAugmentation(speed=0.15, shift=0.05, noise=0.1)


def extract_views(network, source, count=VIEWS):
    """Extracts the features of `count` random views of every example: float32 (N, V, D).

    A view of an image is a crop of at least half its area, a view of a text is half of its tokens in a row, and a view
    of a clip has another speed, offset and noise.

    Args:
        network: a functional graph, or a function as `compile_network` returns it.
        source: a `Source` with the network's input.
    """
    kind = column(source.arrays)
    if kind == "waveform":
        longest = source.arrays["waveform"].longest

        def change(batch, random):
            return augment_waveforms(batch, random, SOUND, source.rate, longest)

    else:
        change = {"image": crop_images, "tokens": crop_tokens}[kind]
    return np.stack(list(passes(network, source, 512, change, count)), axis=1)


def crop_tokens(batch, random):
    """Keeps a run of half the tokens of each text, at a random place: (B, T) -> (B, T), padded with -1."""
    tokens = batch["tokens"]
    count = masking.lengths(tokens)  # (B,)
    kept = tf.maximum(tf.cast(tf.math.ceil(KEPT * tf.cast(count, tf.float32)), tf.int32), 1)
    start = tf.cast(random.uniform("crop", ()) * tf.cast(count - kept + 1, tf.float32), tf.int32)
    place = start[:, None] + tf.range(tokens.shape[1])
    taken = tf.gather(tokens, tf.minimum(place, tokens.shape[1] - 1), batch_dims=1)
    return batch | {"tokens": tf.where(tf.range(tokens.shape[1]) < kept[:, None], taken, -1)}
