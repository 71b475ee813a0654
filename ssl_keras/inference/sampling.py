"""Images from a generator: independent samples, and interpolations between latents."""

import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data.random import BatchRandom
from ssl_keras.encoders import card as cards


def latents(count, size, seed, start=0):
    """Draws latents, float32 (count, Z) in [−1, 1]; latent i depends on the seed (0 to 2³² − 1) and i alone."""
    return 2 * BatchRandom(seed, 0, start, count).uniform("sample", (size,)) - 1


def sample(generator, count, seed=0, batch=500):
    """Generates images (count, H, W, C), float32 in [0, 1]; a larger count begins with the same images."""
    size = generator.input_shape[-1]
    parts = [
        generator(latents(min(batch, count - start), size, seed, start), training=False)
        for start in range(0, count, batch)
    ]
    return tf.concat(parts, axis=0)


def interpolate(generator, rows, steps, seed=0):
    """Generates images on lines between two latents: a list of `rows` tensors (steps, H, W, C)."""
    ends = tf.reshape(latents(2 * rows, generator.input_shape[-1], seed), (rows, 2, -1))
    weight = tf.linspace(0.0, 1.0, steps)[:, None]
    return [generator((1 - weight) * first + weight * last, training=False) for first, last in tf.unstack(ends)]


def load_generator(name):
    """Loads the generator of a saved DCGAN: latent (B, Z) in [−1, 1] -> image (B, H, W, C) in [0, 1].

    Raises:
        ValueError: the name is unknown, or the encoder was saved without a generator.
    """
    _, generator, card = encoders.load_with_head(name)
    if not cards.is_a(card, "generator"):
        raise ValueError(f"{card['name']} has no generator. Expected an encoder of dcgan.")
    return generator


def check_seed(seed):
    """Raises ValueError for a seed outside 0 to 2³² − 1, which would be taken modulo 2³²."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be 0 to 2³² − 1. Received: {seed}")
