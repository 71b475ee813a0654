"""Features of a saved encoder on a dataset, computed once and kept in the cache, and their use as a column.

Shapes: `n` examples of a source, `N` rows of its columns, `D` features.
"""

import dataclasses
import functools
import logging

import numpy as np

from ssl_keras import encoders
from ssl_keras.data import cache, tokens
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import inputs
from ssl_keras.evaluation.features import compile_network, embed_tokens, extract_features

FORMAT = 1  # increment when features change: they are then computed again
CHUNK = 4096  # examples between two updates of the progress bar

log = logging.getLogger(__name__)


class Features:
    """A column (N, D) float32 of stored features, which has the rows of a source's other columns.

    Args:
        values: (n, D) features of the source's examples, in order; memory-mapped.
        content: what identifies the encoder and the examples, JSON-serializable.
        rows: (n,) the rows of the source's examples; None means all of them.
        count: N.
    """

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, values, content, rows, count):
        self.values, self.content, self.place = values, content, None
        self.shape = (count, values.shape[1])
        if rows is not None:
            self.place = np.full(count, len(values))  # a row of another split raises IndexError
            self.place[rows] = np.arange(len(rows))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        return np.asarray(self.values[rows if self.place is None else self.place[rows]])

    def digest(self, rows=None):
        """Identifies the features by their origin: their last digits depend on the device that computed them."""
        return cache.name_of(self.content)


def compute(name, splits):
    """Computes the features of a saved encoder on `Splits`, or reads them from the cache.

    The data are adapted to the encoder as in evaluation (`encoders.adapt`), and are not augmented. An entry of the
    cache is identified by the SHA-256 of the weights and the content of the examples; a damaged entry is rebuilt.

    Args:
        name: name or path of the encoder.
        splits: `Splits`, as they were loaded.

    Returns:
        A list with ((n, D) float32, what identifies it) for each split, in order.

    Raises:
        ValueError: The name is unknown; the data do not fit the encoder; features are not finite.
    """
    folder = encoders.find(name)
    card = cards.read(folder)
    network = functools.cache(lambda: compile_network(encoders.load_encoder(folder)))
    made = []
    for source in encoders.adapt(folder, card, splits):
        content = ["features", FORMAT, card["weights"]["sha256"], source.fingerprint()]
        if cards.keyword(card, "pooling") not in (None, "mean"):
            content.append(cards.keyword(card, "pooling"))
        made.append((_values(content, card, network, source), content))
    return made


def of_tokens(name, tokenizer):
    """Computes the features of a saved encoder of text on each token of a tokenizer alone, float32 (V, D).

    A token that has no text of its own, such as a space, has the features of its name.
    """
    texts = [token.removeprefix("##").strip() or repr(token) for token in tokenizer.tokens()]
    folder = encoders.find(name)
    card, own = cards.read(folder), encoders.load_tokenizer(folder)
    ids = tokens.add_special_tokens(own.encode(texts, special=False), own, inputs.context_of(card), card["name"])
    return embed_tokens(compile_network(encoders.load_encoder(folder)), ids)


def with_features(source, values, content):
    """Returns a source with the column "features"; `values` and `content` are those that `compute` returned for it."""
    count = len(next(iter(source.arrays.values())))
    column = Features(values, content, source.rows, count)
    return dataclasses.replace(source, arrays=source.arrays | {"features": column})


def _values(content, card, network, source):
    """Returns the features of a source, float32 (n, D), as a memory-mapped file."""

    def chunks():
        log.info("Computing the features of %s for %d examples of %s", card["name"], len(source), source.name)
        for start in range(0, len(source), CHUNK):
            made = extract_features(network(), source.take(np.arange(start, min(start + CHUNK, len(source)))))
            bad = np.flatnonzero(~np.isfinite(made).all(1))
            if len(bad):
                raise ValueError(
                    f"Expected finite features of {card['name']} on {source.name}. Received: {len(bad)} of {len(made)} "
                    f"examples with NaN or infinity, the first at index {start + bad[0]}. Choose another encoder, or "
                    "remove these examples."
                )
            yield {"features": made}

    columns = {"features": ((card["features"],), np.float32)}
    return cache.materialize(content, columns, len(source), chunks, in_memory_bytes=0, progress="teacher")["features"]
