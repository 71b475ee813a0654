"""Values by which the quality of an example is judged; `rules.py` has the thresholds.

Texts: those of Gopher and FineWeb, with these departures. Sequences of words are of folded tokens
(`data/near_duplicates/texts.py`) in the first `TOKENS` tokens. Characters are counted in bytes of UTF-8. The most
frequent sequence is the one with the most characters in all its occurrences.
"""

import re
from operator import methodcaller

import numpy as np

from ssl_keras.data.near_duplicates.sketching import mix
from ssl_keras.data.near_duplicates.texts import token_shingles

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
BULLETS = ("•", "‣", "▪", "●", "-", "*", "–", "—", "◦")
ELLIPSES = ("...", "…")
ENDS = tuple(".!?\"'”’…:;。！？।")
SHORT_LINE = 30  # characters
TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>")
LETTER = re.compile(r"[^\W\d_]")
PARAGRAPHS = re.compile(r"\n\s*\n")
BITS = 17
TOKENS = 1 << BITS  # looked at together: a position takes the low bits of a sorted number
TOP, REPEATED = (2, 3, 4), range(5, 11)  # words in a sequence


def text_values(text):
    """Returns {name: value} of a text, all that need no comparison of word sequences."""
    words = text.split()
    count = max(len(words), 1)
    lines = list(filter(None, map(str.strip, text.split("\n"))))
    paragraphs = list(filter(None, map(str.strip, PARAGRAPHS.split(text))))
    kinds = set(words)
    lettered = {word for word in kinds if word.isalpha() or LETTER.search(word)}
    rows, characters = max(len(lines), 1), max(len(text), 1)
    line_share, line_characters = _repeated(lines, characters)
    paragraph_share, paragraph_characters = _repeated(paragraphs, characters)
    return {
        "words": len(words),
        "word_length": sum(map(len, words)) / count,
        "symbols": max(text.count("#"), text.count("...") + text.count("…")) / count,
        "bullets": sum(map(methodcaller("startswith", BULLETS), lines)) / rows,
        "ellipses": sum(map(methodcaller("endswith", ELLIPSES), lines)) / rows,
        "letters": sum(map(lettered.__contains__, words)) / count,
        "stop_words": len(STOP_WORDS & set(map(str.lower, kinds))),
        "repeated_lines": line_share,
        "repeated_line_characters": line_characters,
        "line_characters": line_characters,
        "repeated_paragraphs": paragraph_share,
        "repeated_paragraph_characters": paragraph_characters,
        "line_punctuation": sum(map(methodcaller("endswith", ENDS), lines)) / rows,
        "short_lines": sum(map(SHORT_LINE.__ge__, map(len, lines))) / rows,
        "newlines": text.count("\n") / count,
        "tags": sum(1 for _ in TAG.finditer(text)) / count if "<" in text else 0.0,
        "braces": (text.count("{") + text.count("}") + text.count(";")) / count,
    }


def _repeated(pieces, characters):
    """Returns the fractions of pieces, and of characters in pieces, that repeat an earlier piece."""
    again = len(pieces) - len(set(pieces))
    if not again:
        return 0.0, 0.0
    seen, length = set(), 0
    for piece in pieces:
        if piece in seen:
            length += len(piece)
        seen.add(piece)
    return again / len(pieces), length / characters


def sequence_values(hashes, places, lengths):
    """Returns {name: float64 (N,)}: how much of the texts are repeated sequences of words.

    Args:
        hashes, places, lengths: from `tokens_and_lengths`, of at most `TOKENS` tokens.
    """
    count, values = len(places) - 1, {}
    before = np.concatenate([[0], np.cumsum(lengths)])
    total = np.maximum(before[places[1:]] - before[places[:-1]], 1)
    for n in (*TOP, *REPEATED):
        shingles, owners = token_shingles(hashes, places, n)
        starts = _starts(places, n)
        keys = mix(shingles ^ mix(owners.astype(np.uint64)))
        packed = np.sort((keys >> np.uint64(BITS) << np.uint64(BITS)) | np.arange(len(keys), dtype=np.uint64))
        order = (packed & np.uint64(TOKENS - 1)).astype(np.int64)
        new = np.ones(len(order), bool)
        new[1:] = packed[1:] >> np.uint64(BITS) != packed[:-1] >> np.uint64(BITS)
        size = before[starts + n] - before[starts]
        if n in TOP:
            values[f"top_grams_{n}"] = _most(new, order, owners, size, count) / total
        else:
            values[f"repeated_grams_{n}"] = _covered(starts[order[~new]], n, before, places) / total
    return values


def _starts(places, n):
    """Returns the position of the first token of each sequence of `n` tokens that `token_shingles` returns."""
    first = np.arange(places[-1])
    ends = np.repeat(places[1:], np.diff(places))
    return first[first + n <= ends]


def _most(new, order, owners, size, count):
    """Returns, for each text, the characters in all occurrences of its most frequent sequence; 0 without repetition."""
    made = np.zeros(count)
    heads = np.flatnonzero(new)
    times = np.diff(np.append(heads, len(new)))
    heads, times = heads[times > 1], times[times > 1]
    np.maximum.at(made, owners[order[heads]], times * size[order[heads]])
    return made


def _covered(starts, n, before, places):
    """Returns, for each text, the characters in sequences of `n` tokens at these positions, each counted once."""
    change = np.zeros(len(before) + n, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + n, -1)
    inside = np.cumsum(change)[: len(before) - 1] > 0
    covered = np.concatenate([[0], np.cumsum(np.where(inside, np.diff(before), 0))])
    return covered[places[1:]] - covered[places[:-1]]


def image_values(image):
    """Returns {name: value} of an image, uint8 (H, W, C)."""
    from PIL import Image

    height, width = image.shape[:2]
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("L")
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)).astype(np.int64)
    padded = np.pad(small, 1, "edge")
    near = sum(padded[i : i + 32, j : j + 32] for i in range(3) for j in range(3))
    return {
        "side": min(height, width),
        "aspect": max(height, width) / min(height, width),
        "contrast": float(small.std() / 255),
        "dark": float(np.quantile(small, 0.99) / 255),
        "sharpness": float((9 * small - near).std() / (9 * 255)),
    }


def sound_values(waveform, rate):
    """Returns {name: value} of a clip, int16 (T,)."""
    power = float(np.mean(np.square(waveform.astype(np.float64)))) if len(waveform) else 0.0
    return {
        "seconds": len(waveform) / rate,
        "loudness": 10 * np.log10(max(power, 1e-6) / 2**30),
        "clipped": float(np.mean(np.abs(waveform.astype(np.int32)) >= 0.999 * (2**15 - 1))) if len(waveform) else 0.0,
    }
