"""Tokenized text: windows over a memory-mapped corpus, or labeled texts padded to one length.

Shapes: `N` windows or texts, `W` their length in tokens, `V` vocabulary size. -1 is padding.
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
from ssl_keras.data.splits import Splits, check_whole_texts

CHUNK = 4 << 20  # characters tokenized at a time
DOCUMENTS = 256  # documents read at a time
FORMAT, DIGEST_BYTES, COUNT_BYTES = 2, 16, 8  # a token file ends with a checksum and the number of tokens
PIECE = 1 << 14  # characters; long documents are cut at line ends, so that all cores work on them
TARGETS = ("label", "number", "labels")  # columns that a labeled text keeps
MAX_UNKNOWN, NOTED_UNKNOWN = 0.5, 0.1  # largest fraction of unknown tokens; smallest fraction that is noted

log = logging.getLogger(__name__)


class Windows:
    """A lazy array (N, W) of windows over a stream of tokens.

    Args:
        stream: (L,) integers, such as a memory-mapped file.
        length: W.
        stride: tokens between the starts of two windows.
        whole: bool, whether to drop an incomplete last window instead of padding it with -1.
        table: (V,) values to return in place of the tokens, such as their lengths in bytes. Padding gives 0.
    """

    dtype, ndim = np.dtype(np.int32), 2

    def __init__(self, stream, length, stride, whole, table=None):
        self.stream, self.length, self.stride, self.table = stream, length, stride, table
        targets = len(stream) - (length - stride)  # the first token of a causal window is not a target
        count = (len(stream) - length) // stride + 1 if whole else -(-targets // stride)
        self.shape = (max(count, 1), length)

    def __len__(self):
        return self.shape[0]

    def digest(self, rows=None):
        """Hashes the stream, or the table if there is one, and the selected rows."""
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
    """Converts `Splits` of text to `Splits` of windows over its tokens.

    Training windows are about twice the context; an objective's `preprocess` randomly crops them. Held-out windows do
    not overlap, and each token is a target once.

    Args:
        splits: sources with a column "text".
        tokenizer: a `Tokenizer`.
        context: the context length of the network, in tokens.
        target: number of tokens to add to each window for its targets: 1 for the next token, 0 for none.
        tables: {column: (V,) array} of further columns, with a value for each token.

    Raises:
        ValueError: A split is shorter than a window, or more than half of it is unknown to the tokenizer.
    """
    parts, unknown = [], []
    for split, source in zip(Splits._fields, splits):
        stream = tokenize(source, tokenizer)
        if len(stream) < context + target:
            raise ValueError(
                f"{source.name} has {len(stream)} tokens, fewer than a window of {context + target}. "
                "Use a shorter window (--length, or --context of a new network), or more text."
            )
        unknown.append((_count(stream, tokenizer.unknown), len(stream)))
        if split == "train":
            length, whole = min(2 * context - 1 + target, len(stream)), True
        else:
            length, whole = context + target, False
        arrays = {"tokens": Windows(stream, length, context, whole)}
        arrays |= {name: Windows(stream, length, context, whole, table) for name, table in dict(tables).items()}
        parts.append(dataclasses.replace(source, arrays=arrays, rows=None, classes=(), tokenizer=tokenizer))
    return check_unknown(Splits(*parts), unknown)


def _count(stream, token):
    """Counts a token in a stream, which may be larger than memory."""
    return sum(int((stream[start : start + CHUNK] == token).sum()) for start in range(0, len(stream), CHUNK))


def tokenize(source, tokenizer):
    """Returns all tokens of a source of text as a memory-mapped array (L,).

    The file is cached by the content and the tokenizer; a damaged one is rebuilt. The tokenizer's end token separates
    documents.
    """
    name = name_of([FORMAT, content_of(source), tokenizer.sha256, tokenizers.__version__])
    path = cache_folder() / f"{name}.tokens"
    dtype = np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32
    if not _is_valid(path, dtype):
        if path.exists():
            log.warning("%s is damaged. Rebuilding it.", path)
        with writing(name) as partial:
            _tokenize(source, tokenizer, partial / path.name, dtype)
            os.replace(partial / path.name, path)
    count = (path.stat().st_size - DIGEST_BYTES - COUNT_BYTES) // np.dtype(dtype).itemsize
    return np.memmap(path, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)


def _is_valid(path, dtype):
    """Returns whether a token file exists, with the correct checksum and number of tokens."""
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
            held.append((_split_lines(text), end and index < last))
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


def drop_targets(splits):
    """Drops the column "target"."""
    return Splits(
        *(
            dataclasses.replace(
                source, arrays={name: array for name, array in source.arrays.items() if name != "target"}
            )
            for source in splits
        )
    )


def training_texts(source, targets=False):
    """Returns (texts, checksum) to train a tokenizer on: a source's texts, and with `targets` also its targets."""
    read, content = texts_of(source), content_of(source)
    if not targets:
        return read, content
    targets = list(source.column("target"))
    return itertools.chain(read, targets), content + checksum(targets)


def checksum(texts):
    """Returns the SHA-256 of a list of texts, in hexadecimal."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def texts_of(source):
    """Yields the documents of a source of text, as strings."""
    return (text for text, _ in _documents(source))


def content_of(source):
    """Returns a checksum of all text in a source."""
    digest = hashlib.sha256()
    for text, end in _documents(source):
        content = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(content)} {bool(end)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _documents(source):
    if "text" not in source.arrays:
        raise ValueError(f"{source.name} has no text. Expected a column 'text'. Received: {', '.join(source.arrays)}.")
    for first in range(0, len(source), DOCUMENTS):
        rows = source.gather(np.arange(first, min(first + DOCUMENTS, len(source))))
        yield from zip(rows["text"], rows.get("ends", np.ones(len(rows["text"]), bool)))


def _split_lines(text):
    """Cuts a long text at line ends."""
    pieces, start = [], 0
    while len(text) - start > PIECE:
        stop = text.rfind("\n", start, start + PIECE) + 1
        stop = stop if stop > start else start + PIECE
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def tokenize_texts(splits, tokenizer, context):
    """Converts `Splits` of labeled text to `Splits` of tokens (N, W), with the tokenizer's special tokens.

    W is the length of the longest text, at most `context`. Longer texts are truncated, with a warning.

    Raises:
        ValueError: Texts are in pieces, or more than half of the tokens are unknown to the tokenizer.
    """
    for source in splits:
        check_whole_texts(source)
    encoded = [tokenizer.encode(texts_of(source), special=False) for source in splits]
    rows = add_special_tokens([ids for part in encoded for ids in part], tokenizer, context, splits.train.base)
    parts = []
    for source, tokens in zip(splits, np.split(rows, np.cumsum([len(part) for part in encoded])[:-1])):
        arrays = {"tokens": tokens} | {name: source.column(name) for name in TARGETS if name in source.arrays}
        parts.append(dataclasses.replace(source, arrays=arrays, rows=None, tokenizer=tokenizer))
    return check_unknown(Splits(*parts), [count_unknown(part, tokenizer) for part in encoded])


def with_lengths(source):
    """Returns the source with the length of each text, so that training batches have texts of similar length."""
    return dataclasses.replace(source, lengths=np.count_nonzero(source.column("tokens") >= 0, axis=1))


def add_special_tokens(encoded, tokenizer, context, name):
    """Adds special tokens to lists of ids, and truncates and pads them: int32 (N, W). Warns of truncated texts."""
    frame = special_tokens(tokenizer)
    room = context - len(frame[0]) - len(frame[1])
    if room < 1:
        raise ValueError(f"The context is too short. Expected at least {context - room + 1}. Received: {context}")
    cut = sum(len(ids) > room for ids in encoded)
    if cut:
        log.warning("%s: %d texts are longer than %d tokens. Truncating them.", name, cut, context)
    tokens = np.full((len(encoded), min(max(map(len, encoded)), room) + context - room), -1, np.int32)
    for row, ids in zip(tokens, encoded):
        ids = [*frame[0], *ids[:room], *frame[1]]
        row[: len(ids)] = ids
    return tokens


def count_unknown(encoded, tokenizer):
    """Returns (number of unknown tokens, number of tokens) of lists of ids."""
    return sum(ids.count(tokenizer.unknown) for ids in encoded), sum(map(len, encoded))


def check_unknown(splits, counts):
    """Returns the splits after checking for unknown tokens: any are logged, a tenth or more are added to the notes.

    Args:
        counts: (unknown tokens, all tokens) of each split.

    Raises:
        ValueError: More than half of a split is unknown.
    """
    for source, (unknown, count) in zip(splits, counts):
        if unknown > MAX_UNKNOWN * count:
            raise ValueError(
                f"{source.name}: {unknown} of {count} tokens are unknown to the tokenizer. Expected at most half. "
                "Use text like the tokenizer's training text, or pretrain with --tokenizer bpe, which reads any text."
            )
    unknown, count = map(sum, zip(*counts))
    note = f"{unknown} of {count} tokens are unknown to the tokenizer"
    if unknown and unknown >= NOTED_UNKNOWN * count:
        return splits._replace(train=splits.train.with_notes(f"{note} ({unknown / count:.0%})"))
    if unknown:
        log.warning("%s: %s", splits.train.base, note)
    return splits


def special_tokens(tokenizer):
    """Returns the special tokens before and after a text, two lists of ids: [CLS] and [SEP], or none."""
    plain, framed = tokenizer.encode(["a"])[0], tokenizer.encode(["a"], special=True)[0]
    before = next((i for i in range(len(framed)) if framed[i : i + len(plain)] == plain), None)
    if before is None or not plain:
        raise ValueError("The tokenizer drops text. Expected tokens for the text 'a'. Received: none")
    return framed[:before], framed[before + len(plain) :]
