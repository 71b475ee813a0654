"""Texts as sets: what two texts have in common, whatever their case, accents, punctuation and spacing.

A document is the set of its shingles: the hashes of five consecutive tokens. A token is a word, or a character of a
script without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese). A short text is the set of its three-letter
shingles, by which its candidates are found; the edit ratio decides.

Shapes: `N` texts, `T` tokens of all texts.
"""

import re
import unicodedata

import numpy as np

from ssl_keras.data.near_duplicates.sketching import ROUND, mix

SHINGLE, LETTERS = 5, 3  # tokens, characters
# Texts between these numbers of tokens are compared in both ways, so that no pair falls between the two.
DOCUMENT_TOKENS, SHORT_TOKENS = 40, 60
DOCUMENT_BANDS, SHORT_BANDS = (20, 6), (30, 4)  # numbers of keys, values in each
PIECE = 1 << 18  # bytes hashed at a time, except that words stay whole
BASE = np.uint64(0x5851F42D4C957F2D)  # of the polynomial hash of a word
# Combining classes of marks that are accents: Hebrew and Arabic points, and marks above and below other letters.
# Those of Indian and Southeast Asian scripts, and of kana, make other letters.
ACCENTS = {*range(10, 36), *range(200, 241)}
OTHERS = re.compile("([^\x00-\x7f]+)")
UNSPACED = re.compile(
    "([\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u1000-\u109f\u1780-\u17d3\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])"
)


class _Fold(dict):
    """A table for `str.translate`: letters, digits and vowel signs are kept, accents and invisible characters are
    removed, and all others become spaces. Entries are made when they are looked up."""

    def __missing__(self, code):
        char = chr(code)
        kind = unicodedata.category(char)
        if kind[0] == "M":
            kept = "" if unicodedata.combining(char) in ACCENTS else char
        elif kind == "Cf":  # soft hyphens, zero-width spaces and joiners, marks of direction
            kept = ""
        else:
            kept = char if char.isalnum() else " "
        self[code] = kept
        return kept


_FOLD = _Fold()


def fold(text):
    """Removes case, accents, punctuation and invisible characters, which leaves words with spaces between them."""
    if text.isascii():
        return text.lower().translate(_FOLD)
    runs = OTHERS.split(text)  # translating ASCII is ten times as fast
    runs[::2] = [run.lower().translate(_FOLD) for run in runs[::2]]
    runs[1::2] = [_folded(run) for run in runs[1::2]]
    return "".join(runs)


def _folded(run):
    letters = unicodedata.normalize("NFKD", run.casefold()).translate(_FOLD)
    return unicodedata.normalize("NFC", letters)


def normalize_text(text):
    """Removes case, accents, punctuation and repeated whitespace from a text."""
    return " ".join(fold(text).split()) or text.strip()  # a text of punctuation only is kept


def tokens(folded):
    """Returns (uint64 hashes (T,) of the tokens of folded texts, int64 (N + 1,) places where texts begin and end)."""
    return tokens_and_lengths(folded)[:2]


def tokens_and_lengths(folded):
    """Returns the same as `tokens`, and the int64 lengths (T,) of the tokens in bytes of UTF-8."""
    spaced = [text if text.isascii() or not UNSPACED.search(text) else UNSPACED.sub(r" \1 ", text) for text in folded]
    if len(spaced) == 1 and len(spaced[0]) > PIECE:
        parts = [_hashed_words(piece) for piece in _pieces(spaced[0])]
        hashes, lengths = (np.concatenate([part[which] for part in parts]) for which in (0, 2))
        return hashes, np.array([0, len(hashes)]), lengths
    return _hashed_words("\n".join(spaced))


def _pieces(text):
    """Yields a long text in pieces, cut at spaces, which bounds the memory."""
    start = 0
    while start < len(text):
        stop = start + PIECE
        end = len(text) if stop >= len(text) else text.find(" ", stop)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end


def _hashed_words(joined):
    """Returns the same as `tokens_and_lengths`, for texts joined by line ends, which folded texts do not contain."""
    x = np.frombuffer(joined.encode("utf-8", "surrogatepass") + b" ", np.uint8)
    blank = x <= 32  # spaces, and the ends of texts
    edges = np.flatnonzero(np.diff(blank, prepend=True))
    starts, ends = edges[::2], edges[1::2]
    inside = np.flatnonzero(~blank)
    lengths = ends - starts
    breaks = np.flatnonzero(x == 10)
    places = np.concatenate([[0], np.searchsorted(starts, breaks), [len(starts)]])
    if not len(starts):
        return np.zeros(0, np.uint64), places, lengths
    first = np.cumsum(lengths) - lengths  # of each word, among the letters of all words
    offset = np.arange(len(inside)) - np.repeat(first, lengths)
    terms = (x[inside].astype(np.uint64) + np.uint64(1)) * _powers(int(lengths.max()))[offset]
    return mix(np.add.reduceat(terms, first) ^ (lengths.astype(np.uint64) * ROUND)), places, lengths


_table = np.ones(1, np.uint64)


def _powers(count):
    """Returns the powers of `BASE` modulo 2^64 with exponents below `count`."""
    global _table
    if len(_table) < count:
        _table = np.cumprod(np.concatenate([[np.uint64(1)], np.full(2 * count, BASE)]))
    return _table


def token_shingles(hashes, places, length=SHINGLE):
    """Returns (uint64 hashes of `length` consecutive tokens, the text of each). Shorter texts have none."""
    count = max(len(hashes) - length + 1, 0)
    made = np.zeros(count, np.uint64)
    for place in range(length):
        made = mix(made + ROUND) + hashes[place : place + count]
    owners = np.repeat(np.arange(len(places) - 1), np.diff(places))[:count]
    whole = np.arange(count) + length <= places[1:][owners] if count else np.zeros(0, bool)
    return mix(made[whole]), owners[whole]


def letter_shingles(folded):
    """Returns (uint64 hashes of `LETTERS` consecutive characters, the text of each), with a space at both ends."""
    joined = "\n".join(f" {' '.join(text.split())} " for text in folded)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    count = max(len(codes) - LETTERS + 1, 0)
    made, whole = np.zeros(count, np.uint64), np.ones(count, bool)
    for place in range(LETTERS):
        letter = codes[place : place + count]
        made = mix(made + ROUND) + letter
        whole &= letter != 10
    owners = np.cumsum(codes == 10)[:count]
    return mix(made[whole]), owners[whole]
