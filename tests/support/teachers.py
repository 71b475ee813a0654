"""Small saved encoders that distillation learns from in tests: one of images, one of text, one of audio."""

import functools
import string
import tempfile

import numpy as np
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.networks import Network

LETTERS = string.ascii_lowercase + string.digits + " "
TEXT = {"layers": 1, "heads": 2, "width": 8, "context": 24, "architecture": "bert", "causal": False}
NETWORKS = {
    "image": Network("dense", image_shape=(16, 16, 1), widths=(24,)),
    "tokens": Network("transformer", vocabulary=len(tokenizers.SPECIAL) + len(LETTERS), **TEXT),
    "waveform": Network("waveform", rate=8_000, width=8, layers=1, heads=2, channels=8, frontend="mel"),
}
SPECS = {
    "image": {"image": ((16, 16, 1), tf.uint8)},
    "tokens": {"tokens": ((24,), tf.int32)},
    "waveform": {"waveform": ((None,), tf.int16)},
}


def save(folder, kind, seed=0, **entries):
    """Saves an encoder with fixed weights to a folder; returns the folder's path."""
    network, random = NETWORKS[kind].build(), np.random.default_rng(seed)
    for variable in network.trainable_variables:
        variable.assign(variable.numpy() + random.normal(0, 0.1, variable.shape))
        if variable.name == "kernel":
            variable.assign(random.normal(0, 1 / variable.shape[0] ** 0.5, variable.shape))
    tokenizer = tokenizers.train("characters", [LETTERS], 0, LETTERS) if kind == "tokens" else None
    encoders.save_encoder(folder, network, spec=SPECS[kind], tokenizer=tokenizer, name=f"teacher-{kind}", **entries)
    return str(folder)


@functools.cache
def saved(kind):
    """Returns the path of an encoder that all tests of a process share."""
    return save(tempfile.mkdtemp(), kind)
