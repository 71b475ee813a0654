"""Text as tokens: a memory-mapped corpus read by windows, or labeled texts of one length.

Shapes: `N` windows or texts, `W` their length in tokens, `V` vocabulary. -1 is padding.
"""

import dataclasses
import hashlib
import itertools
import logging
import os

import numpy as np
import tokenizers
from tqdm import tqdm

from ssl_keras.data.cache import cache_folder, name_of, writing
from ssl_keras.data.splits import Splits

CHUNK = 4 << 20  # characters tokenized at a time
DOCUMENTS = 256  # read at a time
FORMAT, DIGEST_BYTES, COUNT_BYTES = 2, 16, 8  # of a file of tokens: these, then their checksum and their number
PIECE = 1 << 14  # characters: a long document is cut at line ends, so that all cores have some
MAX_UNKNOWN, KEPT_UNKNOWN = 0.5, 0.1  # of the tokens: more is refused, so much is noted

log = logging.getLogger(__name__)


class Windows:
    """An array (N, W) of windows over a stream of tokens, cut when they are asked for.

    Args:
        stream: (L,) integers, a memory-mapped file say.
        length: W.
        stride: tokens between the starts of two windows.
        whole: leave out a last window that is not full; else it is padded with -1.
        table: (V,) to look the tokens up in: their lengths in bytes, say. Padding gives 0.
    """

    dtype, ndim = np.dtype(np.int32), 2

    def __init__(self, stream, length, stride, whole, table=None):
        self.stream, self.length, self.stride, self.table = stream, length, stride, table
        targets = len(stream) - (length - stride)  # a causal window's first token is no target
        count = (len(stream) - length) // stride + 1 if whole else -(-targets // stride)
        self.shape = (max(count, 1), length)

    def __len__(self):
        return self.shape[0]

    def digest(self, rows=None):
        """Hashes the stream and which rows are taken of it; of what a table makes of it, the table alone."""
        digest = hashlib.sha256(np.ascontiguousarray(self.stream if self.table is None else self.table))
        if rows is not None:
            digest.update(np.ascontiguousarray(rows, np.int64))
        return digest.hexdigest()

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        place = np.asarray(rows)[:, None] * self.stride + np.arange(self.length)
        inside = place < len(self.stream)
        tokens = self.stream[np.minimum(place, len(self.stream) - 1)]
        if self.table is None:
            return np.where(inside, tokens.astype(np.int32), -1)
        return np.where(inside, self.table[tokens].astype(np.int32), 0)


def corpus(splits, tokenizer, context, target, tables=()):
    """`Splits` of text -> `Splits` of windows over its tokens.

    Training windows are about twice as long as what is trained on, which is cut out of them at
    random (an objective's `preprocess`); held-out ones are disjoint, and their targets are every token once.

    Args:
        splits: sources with a column "text".
        tokenizer: a `Tokenizer`.
        context: tokens that a network sees at a time.
        target: 1 where the target is the next token, so that a window has one more; else 0.
        tables: {column: (V,) array}: more columns, by looking up each token.

    Raises:
        ValueError: a corpus shorter than a window, or more than half of it unknown to the tokenizer.
    """
    parts, unknown = [], []
    for split, source in zip(Splits._fields, splits):
        stream = tokenized(source, tokenizer)
        if len(stream) < context + target:
            raise ValueError(
                f"{source.name} has {len(stream)} tokens, fewer than a window of {context + target}. "
                f"Use a shorter context (--context), or more text."
            )
        unknown.append((_count(stream, tokenizer.unknown), len(stream)))
        if split == "train":
            length, whole = min(2 * context - 1 + target, len(stream)), True
        else:
            length, whole = context + target, False
        arrays = {"tokens": Windows(stream, length, context, whole)}
        arrays |= {name: Windows(stream, length, context, whole, table) for name, table in dict(tables).items()}
        parts.append(dataclasses.replace(source, arrays=arrays, rows=None, classes=(), tokenizer=tokenizer))
    return with_known(Splits(*parts), unknown)


def _count(stream, token):
    """How often a token is in a stream, which may be larger than memory."""
    return sum(int((stream[start : start + CHUNK] == token).sum()) for start in range(0, len(stream), CHUNK))


def tokenized(source, tokenizer):
    """All tokens of a source of text, one after the other: a memory-mapped (L,) array.

    The file is in the cache, keyed by the content and the tokenizer, and used again; a damaged one is made anew.
    Between two documents comes the tokenizer's end token.
    """
    name = name_of([FORMAT, content_of(source), tokenizer.sha256, tokenizers.__version__])
    path = cache_folder() / f"{name}.tokens"
    dtype = np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32
    if not _whole(path, dtype):
        if path.exists():
            log.warning("%s is damaged and is made anew.", path)
        with writing(name) as partial:
            _tokenize(source, tokenizer, partial / path.name, dtype)
            os.replace(partial / path.name, path)
    count = (path.stat().st_size - DIGEST_BYTES - COUNT_BYTES) // np.dtype(dtype).itemsize
    return np.memmap(path, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)


def _whole(path, dtype):
    """Whether a file of tokens is there and ends with their checksum and their number."""
    end = DIGEST_BYTES + COUNT_BYTES
    if not path.is_file() or path.stat().st_size < end:
        return False
    with open(path, "rb") as file:
        file.seek(-end, os.SEEK_END)
        digest, count = file.read(DIGEST_BYTES), int.from_bytes(file.read(), "little")
    if path.stat().st_size != count * np.dtype(dtype).itemsize + end:
        return False
    return not count or _checksum(np.memmap(path, dtype, "r", shape=(count,))) == digest


def _checksum(tokens):
    return hashlib.sha256(tokens).digest()[:DIGEST_BYTES]


def _tokenize(source, tokenizer, path, dtype):
    with (
        open(path, "wb") as file,
        tqdm(desc=f"tokenizing {source.name}", unit=" characters", unit_scale=True, disable=None, leave=False) as bar,
    ):
        held, characters, between = [], 0, np.array([tokenizer.end], dtype) if tokenizer.end >= 0 else []

        def flush():
            nonlocal held, characters
            encoded = iter(tokenizer.encode([piece for pieces, _ in held for piece in pieces]))
            for pieces, end in held:
                for ids in (next(encoded) for _ in pieces):
                    file.write(np.asarray(ids, dtype).tobytes())
                if end:
                    file.write(np.asarray(between, dtype).tobytes())
            bar.update(characters)
            held, characters = [], 0

        last = len(source) - 1
        for index, (text, end) in enumerate(_documents(source)):
            held.append((_lines(text), end and index < last))
            characters += len(text)
            if characters >= CHUNK:
                flush()
        flush()
        file.flush()
        length = file.tell() // np.dtype(dtype).itemsize
        file.write(_checksum(np.memmap(path, dtype, "r", shape=(length,)) if length else b""))
        file.write(length.to_bytes(COUNT_BYTES, "little"))
        file.flush()
        os.fsync(file.fileno())


def without_targets(splits):
    """Leaves out the column "target": sources alone."""
    return Splits(
        *(
            dataclasses.replace(
                source, arrays={name: array for name, array in source.arrays.items() if name != "target"}
            )
            for source in splits
        )
    )


def training_texts(source, targets=False):
    """Lists what a tokenizer is trained on, (texts, a checksum): a source's texts, and with `targets` its targets."""
    read, content = texts_of(source), content_of(source)
    if not targets:
        return read, content
    targets = list(source.column("target"))
    return itertools.chain(read, targets), content + checksum(targets)


def checksum(texts):
    """Hashes a list of texts: the sha256, in hexadecimal."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def texts_of(source):
    """The documents of a source of text, one after the other, as strings."""
    return (text for text, _ in _documents(source))


def content_of(source):
    """A checksum of all text in a source."""
    digest = hashlib.sha256()
    for text, end in _documents(source):
        content = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(content)} {bool(end)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _documents(source):
    if "text" not in source.arrays:
        raise ValueError(f"{source.name} has no text. Expected a source of text; it has: {', '.join(source.arrays)}.")
    for first in range(0, len(source), DOCUMENTS):
        rows = source.gather(np.arange(first, min(first + DOCUMENTS, len(source))))
        yield from zip(rows["text"], rows.get("ends", np.ones(len(rows["text"]), bool)))


def _lines(text):
    """A long text in pieces that end with a line."""
    pieces, start = [], 0
    while len(text) - start > PIECE:
        stop = text.rfind("\n", start, start + PIECE) + 1
        stop = stop if stop > start else start + PIECE
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def padded(splits, tokenizer, context):
    """`Splits` of labeled text -> `Splits` of its tokens (N, W), each text framed as the tokenizer does it.

    W is the longest text's length, at most `context`; longer ones are cut, and counted.

    Raises:
        ValueError: texts in pieces; more than half of the tokens unknown to the tokenizer.
    """
    for source in splits:
        if not np.all(source.arrays.get("ends", True)):
            raise ValueError(f"{source.name}: expected whole texts, as of table:FILE. Received: files read in pieces")
    encoded = [tokenizer.encode(texts_of(source), special=False) for source in splits]
    rows = framed([ids for part in encoded for ids in part], tokenizer, context, splits.train.base)
    parts = []
    for source, tokens in zip(splits, np.split(rows, np.cumsum([len(part) for part in encoded])[:-1])):
        arrays = {"tokens": tokens} | ({"label": source.column("label")} if "label" in source.arrays else {})
        parts.append(dataclasses.replace(source, arrays=arrays, rows=None, tokenizer=tokenizer))
    return with_known(Splits(*parts), [count_unknown(part, tokenizer) for part in encoded])


def framed(encoded, tokenizer, context, name):
    """Texts' ids without special tokens -> int32 (N, W), framed as the tokenizer does it; what is longer than the
    context is cut, and counted under `name`."""
    frame = _frame(tokenizer)
    room = context - len(frame[0]) - len(frame[1])
    if room < 1:
        raise ValueError(f"The context must have room for a token. Received: {context}")
    cut = sum(len(ids) > room for ids in encoded)
    if cut:
        log.warning("%s: %d texts are longer than %d tokens and are cut", name, cut, context)
    tokens = np.full((len(encoded), min(max(map(len, encoded)), room) + context - room), -1, np.int32)
    for row, ids in zip(tokens, encoded):
        ids = [*frame[0], *ids[:room], *frame[1]]
        row[: len(ids)] = ids
    return tokens


def count_unknown(encoded, tokenizer):
    """(tokens that the tokenizer does not know, all tokens) of some texts' ids."""
    return sum(ids.count(tokenizer.unknown) for ids in encoded), sum(map(len, encoded))


def with_known(splits, counts):
    """The splits, if enough of them is known to their tokenizer; how much is not is logged, and noted from a tenth on.

    Args:
        counts: for each part (unknown tokens, all tokens).

    Raises:
        ValueError: more than half of a part is unknown.
    """
    for source, (unknown, count) in zip(splits, counts):
        if unknown > MAX_UNKNOWN * count:
            raise ValueError(
                f"{source.name}: {unknown} of {count} tokens are unknown to the tokenizer, and nothing can be learned "
                "from them. Expected text such as it was trained on; pretrained with --tokenizer bpe, one reads any."
            )
    unknown, count = map(sum, zip(*counts))
    note = f"{unknown} of {count} tokens are unknown to the tokenizer"
    if unknown and unknown >= KEPT_UNKNOWN * count:
        return splits._replace(train=splits.train.noted(f"{note} ({unknown / count:.0%})"))
    if unknown:
        log.warning("%s: %s", splits.train.base, note)
    return splits


def _frame(tokenizer):
    """The special tokens before and after a text: [CLS] and [SEP], or none."""
    plain, framed = tokenizer.encode(["a"])[0], tokenizer.encode(["a"], special=True)[0]
    before = next((i for i in range(len(framed)) if framed[i : i + len(plain)] == plain), None)
    if before is None or not plain:
        raise ValueError("Expected a tokenizer that reads the letter a. This one makes nothing of it.")
    return framed[:before], framed[before + len(plain) :]
