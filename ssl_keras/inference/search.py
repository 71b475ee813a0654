"""Pictures by words, and words by a picture: what a saved encoder of `image_text` is for."""

import contextlib
import io
import logging
import zipfile

import numpy as np
import tensorflow as tf

from ssl_keras import encoders, files
from ssl_keras.data import tokens
from ssl_keras.data.cache import cache_folder, contents, name_of
from ssl_keras.data.images import unit_range
from ssl_keras.data.readers import image_files
from ssl_keras.data.readers import images as image_reader
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.features import normalize

CHUNK = 256  # pictures embedded at a time
ACROSS = 8  # pictures in a row of the answer

log = logging.getLogger(__name__)


class Retriever:
    """Puts pictures and texts into the space that a saved encoder's two networks share.

    Args:
        name: a saved encoder of `image_text`.

    Raises:
        ValueError: unknown name; an encoder of another objective.
    """

    def __init__(self, name):
        encoder, towers, self.card = encoders.load_with_head(name)
        if not cards.is_a(self.card, "towers"):
            raise ValueError(f"{self.card['name']} knows no captions. Expected an encoder of image_text.")
        self.networks, self.context = (encoder, towers), self.card["head"]["context"]
        self.tokenizer = encoders.load_tokenizer(name)
        self.shape = tuple(self.card["input"]["image"]["shape"])

    def of_texts(self, texts):
        """float32 (N, Z) of length 1, of texts as they are, in lower case; of what is unknown, too."""
        encoded = self.tokenizer.encode([" ".join(text.lower().split()) for text in texts], special=False)
        unknown, count = tokens.count_unknown(encoded, self.tokenizer)
        if unknown:
            log.warning("%s: %d of %d tokens are unknown to its tokenizer", self.card["name"], unknown, count)
        return embeddings_of_texts(
            self.networks[1], tokens.add_special_tokens(encoded, self.tokenizer, self.context, self.card["name"])
        )

    def of_query(self, text):
        """float32 (Z,) of one text.

        Raises:
            ValueError: it is empty, or of unknown tokens alone.
        """
        ids = self.tokenizer.encode([text.lower()], special=False)[0]
        if not any(token != self.tokenizer.unknown for token in ids):
            raise ValueError(f"Expected words that the encoder's tokenizer knows. Received: {text!r}")
        return self.of_texts([text])[0]

    def of_images(self, images):
        """float32 (N, Z) of length 1, of images (N, H, W, C) uint8 or in [0, 1]."""
        return embeddings_of_images(*self.networks, images)

    def of_files(self, paths):
        """(float32 (N, Z), the files that could be read) of files of images; kept, so that the next query is quick.

        Raises:
            ValueError: too many files that cannot be read; each is named.
        """
        key = ["embeddings", image_files.DECODING, self.card["weights"]["sha256"], contents(paths)]
        kept = cache_folder() / f"{name_of(key)}.npz"
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(kept) as arrays:
            return arrays["embeddings"], [paths[row] for row in arrays["rows"]]  # absent or damaged: made anew
        found = image_reader.read("images", paths, self.shape)
        for note in found.notes:
            log.warning("%s", note)
        embeddings, content = self.of_images(found.image), io.BytesIO()
        np.savez(content, embeddings=embeddings, rows=found.rows)
        files.make_folder(kept.parent)
        files.write(kept, content.getvalue())
        return embeddings, [paths[row] for row in found.rows]


def embeddings_of_images(encoder, towers, images):
    """float32 (N, Z) of length 1: images (N, H, W, C), through both graphs of `objectives/image_text.py`."""
    made = []
    for start in range(0, len(images), CHUNK):
        features = encoder(unit_range(tf.constant(images[start : start + CHUNK])), training=False)
        ids = tf.zeros((features.shape[0], 1), tf.int32)
        made.append(towers([features, ids], training=False)[0].numpy())
    return normalize(np.concatenate(made))


def embeddings_of_texts(towers, ids):
    """float32 (N, Z) of length 1: tokens (N, T) int32, -1 for padding."""
    made, features = [], towers.input_shape[0][-1]
    for start in range(0, len(ids), CHUNK):
        part = tf.constant(ids[start : start + CHUNK])
        made.append(towers([tf.zeros((part.shape[0], features)), part], training=False)[1].numpy())
    return normalize(np.concatenate(made))


def nearest(query, candidates, count):
    """[(row, similarity)] of the candidates (N, Z) most similar to a query (Z,), best first."""
    similarity = candidates @ query
    return [(int(row), float(similarity[row])) for row in np.argsort(-similarity, kind="stable")[:count]]


def grid(images, titles, heading=""):
    """A figure of images (N, H, W, C), each with a title."""
    import matplotlib.figure

    rows = -(-len(images) // ACROSS)
    figure = matplotlib.figure.Figure(figsize=(1.5 * min(ACROSS, len(images)), 1.8 * rows + 0.3))
    for place, (image, title) in enumerate(zip(images, titles), 1):
        axes = figure.add_subplot(rows, min(ACROSS, len(images)), place)
        axes.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None)
        axes.set_title(title, fontsize=7, parse_math=False)
        axes.axis("off")
    figure.suptitle(heading, fontsize=10, parse_math=False)
    figure.tight_layout()
    return figure
