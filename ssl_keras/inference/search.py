"""Search with a saved encoder: images by text and texts by an image (`image_text`), or texts by a text (text encoders).

Shapes: `N` images or texts, `D` features, `Z` the space that images and texts share.
"""

import contextlib
import io
import logging

import numpy as np
import tensorflow as tf

from ssl_keras import encoders, files
from ssl_keras.data import tokens
from ssl_keras.data.cache import DAMAGE, cache_folder, contents, name_of
from ssl_keras.data.images import unit_range
from ssl_keras.data.readers import image_files
from ssl_keras.data.readers import images as image_reader
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.inputs import context_of
from ssl_keras.evaluation.features import compile_network, embed_tokens, normalize

BATCH_SIZE = 256
COLUMNS = 8  # of the figure of results

log = logging.getLogger(__name__)


class Retriever:
    """Embeds images and texts in the space that they share.

    Args:
        name: a saved encoder of `image_text`.

    Raises:
        ValueError: the name is unknown, or the encoder is of another objective.
    """

    def __init__(self, name):
        encoder, towers, self.card = encoders.load_with_head(name)
        if not cards.is_a(self.card, "towers"):
            raise ValueError(f"{self.card['name']} has no text encoder. Expected an encoder of image_text.")
        self.networks, self.context = (encoder, towers), self.card["head"]["context"]
        self.tokenizer = encoders.load_tokenizer(name)
        self.shape = tuple(self.card["input"]["image"]["shape"])

    def of_texts(self, texts):
        """Embeds texts in lower case: float32 (N, Z) of length 1. Logs the number of unknown tokens."""
        encoded = self.tokenizer.encode([" ".join(text.lower().split()) for text in texts], special=False)
        log_unknown(self.card["name"], encoded, self.tokenizer)
        return embeddings_of_texts(
            self.networks[1], tokens.add_special_tokens(encoded, self.tokenizer, self.context, self.card["name"])
        )

    def of_query(self, text):
        """Embeds one text: float32 (Z,).

        Raises:
            ValueError: the text is empty, or all its tokens are unknown.
        """
        check_known(self.tokenizer, text.lower(), text)
        return self.of_texts([text])[0]

    def of_images(self, images):
        """Embeds images (N, H, W, C), uint8 or in [0, 1]: float32 (N, Z) of length 1."""
        return embeddings_of_images(*self.networks, images)

    def of_files(self, paths):
        """Embeds image files: (float32 (N, Z), the files that could be read). Caches the result for the next query.

        Raises:
            ValueError: too many files cannot be read; each is named.
        """
        key = ["embeddings", image_files.DECODING, self.card["weights"]["sha256"], contents(paths)]
        cached = cache_folder() / f"{name_of(key)}.npz"
        # An absent or damaged file is written again.
        with contextlib.suppress(*DAMAGE), np.load(cached) as arrays:
            return arrays["embeddings"], [paths[row] for row in arrays["rows"]]
        found = image_reader.read("images", paths, self.shape)
        for note in found.notes:
            log.warning("%s", note)
        embeddings, content = self.of_images(found.image), io.BytesIO()
        np.savez(content, embeddings=embeddings, rows=found.rows)
        files.make_folder(cached.parent)
        files.write(cached, content.getvalue())
        return embeddings, [paths[row] for row in found.rows]


class TextRetriever:
    """Embeds texts with a saved encoder of text, as the features that evaluation uses.

    Args:
        name: a saved encoder that takes tokens.

    Raises:
        ValueError: the name is unknown, or the encoder takes other data.
    """

    def __init__(self, name):
        encoder, _, self.card = encoders.load_with_head(name)
        if "tokens" not in self.card["input"]:
            raise ValueError(
                f"{self.card['name']} takes {', '.join(self.card['input'])}. Expected an encoder of text, such as one "
                "of sentence or masked_lm, or one of image_text."
            )
        self.tokenizer = encoders.load_tokenizer(name)
        self.context = context_of(self.card)
        self.embed = compile_network(encoder)

    def of_texts(self, texts):
        """Embeds texts: float32 (N, D) of length 1. Logs the number of unknown tokens."""
        encoded = self.tokenizer.encode(texts, special=False)
        log_unknown(self.card["name"], encoded, self.tokenizer)
        ids = tokens.add_special_tokens(encoded, self.tokenizer, self.context, self.card["name"])
        return normalize(embed_tokens(self.embed, ids, BATCH_SIZE))

    def of_query(self, text):
        """Embeds one text: float32 (D,).

        Raises:
            ValueError: the text is empty, or all its tokens are unknown.
        """
        check_known(self.tokenizer, text, text)
        return self.of_texts([text])[0]


def log_unknown(name, encoded, tokenizer):
    """Logs a warning with the number of unknown tokens in lists of ids, if there are any."""
    unknown, count = tokens.count_unknown(encoded, tokenizer)
    if unknown:
        log.warning("%s: %d of %d tokens are unknown to its tokenizer", name, unknown, count)


def check_known(tokenizer, text, query):
    """Raises ValueError, which shows the query, unless the tokenizer knows a token of the text."""
    if not any(token != tokenizer.unknown for token in tokenizer.encode([text], special=False)[0]):
        raise ValueError(f"Expected words that the encoder's tokenizer has. Received: {query!r}")


def embeddings_of_images(encoder, towers, images):
    """Embeds images (N, H, W, C) with both graphs of `objectives/image_text.py`: float32 (N, Z) of length 1."""
    embeddings = []
    for start in range(0, len(images), BATCH_SIZE):
        features = encoder(unit_range(tf.constant(images[start : start + BATCH_SIZE])), training=False)
        ids = tf.zeros((features.shape[0], 1), tf.int32)
        embeddings.append(towers([features, ids], training=False)[0].numpy())
    return normalize(np.concatenate(embeddings))


def embeddings_of_texts(towers, ids):
    """Embeds tokens (N, T), int32 with -1 for padding: float32 (N, Z) of length 1."""
    embeddings, features = [], towers.input_shape[0][-1]
    for start in range(0, len(ids), BATCH_SIZE):
        part = tf.constant(ids[start : start + BATCH_SIZE])
        embeddings.append(towers([tf.zeros((part.shape[0], features)), part], training=False)[1].numpy())
    return normalize(np.concatenate(embeddings))


def nearest(query, candidates, count):
    """Returns [(row, similarity)] of the candidates (N, Z) most similar to a query (Z,), best first."""
    similarity = candidates @ query
    return [(int(row), float(similarity[row])) for row in np.argsort(-similarity, kind="stable")[:count]]


def grid(images, titles, heading=""):
    """Draws a figure of images (N, H, W, C), each with a title."""
    import matplotlib.figure

    rows = -(-len(images) // COLUMNS)
    figure = matplotlib.figure.Figure(figsize=(1.5 * min(COLUMNS, len(images)), 1.8 * rows + 0.3))
    for place, (image, title) in enumerate(zip(images, titles), 1):
        axes = figure.add_subplot(rows, min(COLUMNS, len(images)), place)
        axes.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None)
        axes.set_title(title, fontsize=7, parse_math=False)
        axes.axis("off")
    figure.suptitle(heading, fontsize=10, parse_math=False)
    figure.tight_layout()
    return figure
