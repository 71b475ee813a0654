"""Samples images from a generator."""

import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data.random import BatchRandom
from ssl_keras.encoders import card as cards


def latents(count, size, seed, start=0):
    """float32 (count, Z) in [−1, 1]: number i depends on the seed, in 0..2³²−1, and i alone."""
    return 2 * BatchRandom(seed, 0, start, count).uniform("sample", (size,)) - 1


def sample(generator, count, seed=0, batch=500):
    """Images (count, H, W, C) float32 in [0, 1]; the first ones of a larger count are the same."""
    size = generator.input_shape[-1]
    parts = [
        generator(latents(min(batch, count - start), size, seed, start), training=False)
        for start in range(0, count, batch)
    ]
    return tf.concat(parts, axis=0)


def between(generator, rows, steps, seed=0):
    """Rows of images on the lines from one latent to another: `rows` tensors (steps, H, W, C)."""
    ends = tf.reshape(latents(2 * rows, generator.input_shape[-1], seed), (rows, 2, -1))
    share = tf.linspace(0.0, 1.0, steps)[:, None]
    return [generator((1 - share) * first + share * last, training=False) for first, last in tf.unstack(ends)]


def load_generator(name):
    """The generator of a saved DCGAN: latent (B, Z) in [−1, 1] -> image (B, H, W, C) in [0, 1].

    Raises:
        ValueError: unknown name; an encoder of another objective, or saved without its generator.
    """
    _, generator, card = encoders.load_with_head(name)
    if not cards.is_a(card, "generator"):
        raise ValueError(f"{card['name']} has no generator. Expected a DCGAN as pretraining saves it.")
    return generator


def check_seed(seed):
    """Raises ValueError for a seed that would be another one's."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..2³²−1. Received: {seed}")
