"""Thresholds of curation: what is removed, and who proposed the numbers.

Gopher: Rae et al. 2021, appendix A1.1. FineWeb: Penedo et al. 2024, section 3.6. DataComp: Gadre et al. 2023. Those
without a name were measured on data of this project (docs/curation.md).
"""

import dataclasses
from typing import Annotated

from ssl_keras.data.ranges import Range

Fraction = Annotated[float, Range(0, 1)]


@dataclasses.dataclass(frozen=True)
class TextRules:
    """Rules for texts. A text is removed if a value is beyond its threshold."""

    words: tuple[int, int] = (50, 100_000)
    """Minimum and maximum number of words (Gopher)."""
    word_length: tuple[float, float] = (3.0, 10.0)
    """Minimum and maximum mean length of a word, in characters (Gopher)."""
    symbols: float = 0.1
    """Maximum number of # signs, or of ellipses, per word (Gopher)."""
    bullets: Fraction = 0.9
    """Maximum fraction of lines that begin with a bullet (Gopher)."""
    ellipses: Fraction = 0.3
    """Maximum fraction of lines that end with an ellipsis (Gopher)."""
    letters: Fraction = 0.8
    """Minimum fraction of words with a letter (Gopher)."""
    stop_words: Annotated[int, Range(0, 8)] = 2
    """Minimum number of different words among the, be, to, of, and, that, have, with (Gopher). Used only for English,
    or without --language."""
    repeated_lines: Fraction = 0.3
    """Maximum fraction of lines that repeat an earlier one (Gopher)."""
    repeated_line_characters: Fraction = 0.2
    """Maximum fraction of characters in lines that repeat an earlier one (Gopher)."""
    repeated_paragraphs: Fraction = 0.3
    """Maximum fraction of paragraphs that repeat an earlier one (Gopher)."""
    repeated_paragraph_characters: Fraction = 0.2
    """Maximum fraction of characters in paragraphs that repeat an earlier one (Gopher)."""
    top_grams: tuple[Fraction, Fraction, Fraction] = (0.2, 0.18, 0.16)
    """Maximum fraction of characters in the most frequent sequence of 2, 3 and 4 words (Gopher)."""
    repeated_grams: tuple[Fraction, Fraction, Fraction, Fraction, Fraction, Fraction] = (
        0.15,
        0.14,
        0.13,
        0.12,
        0.11,
        0.1,
    )
    """Maximum fraction of characters in sequences of 5, 6, 7, 8, 9 and 10 words that repeat an earlier one (Gopher)."""
    line_punctuation: Fraction = 0.12
    """Minimum fraction of lines that end in punctuation (FineWeb)."""
    short_lines: Fraction = 0.67
    """Maximum fraction of lines of at most 30 characters (FineWeb)."""
    line_characters: Fraction = 0.1
    """Maximum fraction of characters in lines that repeat an earlier one (FineWeb's paper; its code has 0.01)."""
    newlines: float = 0.3
    """Maximum number of line ends per word (FineWeb)."""
    tags: float = 0.05
    """Maximum number of HTML tags per word (ours, rule markup)."""
    braces: float = 0.1
    """Maximum number of braces and semicolons per word (ours, rule markup)."""


@dataclasses.dataclass(frozen=True)
class ImageRules:
    """Rules for images. An image is removed if a value is beyond its threshold."""

    side: Annotated[int, Range(1)] = 8
    """Minimum length, in pixels, of the shorter side. DataComp uses 200 for photographs of the web."""
    aspect: Annotated[float, Range(1)] = 3.0
    """Maximum ratio of the longer side to the shorter one (DataComp)."""
    pixels: Annotated[int, Range(1, 178_956_970)] = 1 << 25
    """Maximum number of pixels. Larger images are not decoded."""
    contrast: Fraction = 0.01
    """Minimum standard deviation of the luminance, on a scale of 1; images below it are blank."""
    dark: Fraction = 0.05
    """Minimum 99% quantile of the luminance, on a scale of 1; images below it are dark."""
    sharpness: Annotated[float, Range(0)] = 0.0
    """Minimum standard deviation of the details (pixels minus the mean of their neighborhood, at 32×32 pixels), on a
    scale of 1. 0 keeps blurred images: the threshold depends on the data, and the report shows its 1% quantile."""


@dataclasses.dataclass(frozen=True)
class SoundRules:
    """Rules for audio. A clip is removed if a value is beyond its threshold."""

    seconds: tuple[float, float] = (0.02, 60.0)
    """Minimum and maximum duration of a clip, in seconds."""
    loudness: float = -60.0
    """Minimum root mean square of the samples, in decibels relative to full scale; clips below it are silent."""
    clipped: Fraction = 0.01
    """Maximum fraction of samples at 0.999 of full scale or above."""


def text_checks(rules, families, english):
    """Returns {name of a value: (minimum, maximum)}; None stands for no bound."""
    gopher = {
        "words": rules.words,
        "word_length": rules.word_length,
        "symbols": (None, rules.symbols),
        "bullets": (None, rules.bullets),
        "ellipses": (None, rules.ellipses),
        "letters": (rules.letters, None),
        "repeated_lines": (None, rules.repeated_lines),
        "repeated_line_characters": (None, rules.repeated_line_characters),
        "repeated_paragraphs": (None, rules.repeated_paragraphs),
        "repeated_paragraph_characters": (None, rules.repeated_paragraph_characters),
        **{f"top_grams_{n}": (None, most) for n, most in zip((2, 3, 4), rules.top_grams)},
        **{f"repeated_grams_{n}": (None, most) for n, most in zip(range(5, 11), rules.repeated_grams)},
    }
    if english:
        gopher["stop_words"] = (rules.stop_words, None)
    fineweb = {
        "line_punctuation": (rules.line_punctuation, None),
        "short_lines": (None, rules.short_lines),
        "line_characters": (None, rules.line_characters),
        "newlines": (None, rules.newlines),
    }
    markup = {"tags": (None, rules.tags), "braces": (None, rules.braces)}
    checks = {}
    for family, each in (("gopher", gopher), ("fineweb", fineweb), ("markup", markup)):
        checks |= each if family in families else {}
    return checks


def image_checks(rules):
    """Returns {name of a value: (minimum, maximum)}; None stands for no bound."""
    return {
        "side": (rules.side, None),
        "aspect": (None, rules.aspect),
        "contrast": (rules.contrast, None),
        "dark": (rules.dark, None),
        "sharpness": (rules.sharpness, None),
    }


def sound_checks(rules):
    """Returns {name of a value: (minimum, maximum)}; None stands for no bound."""
    return {"seconds": rules.seconds, "loudness": (rules.loudness, None), "clipped": (None, rules.clipped)}


def broken(values, checks):
    """Returns (name, value) of the first value beyond its bounds, or None. Values that were not computed pass."""
    for name, (least, most) in checks.items():
        value = values.get(name)
        if value is not None and ((least is not None and value < least) or (most is not None and value > most)):
            return name, float(value)
    return None
