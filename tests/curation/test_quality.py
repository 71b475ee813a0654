"""Rules of curation: values against slow references and closed forms, and what is beyond a threshold."""

import collections

import numpy as np
import pytest

from ssl_keras.curation import quality, rules
from ssl_keras.data.near_duplicates import texts


def slow_sequences(words):
    """{name: value} of one text, by dictionaries of tuples."""
    total, values = max(sum(map(len, words)), 1), {}
    for n in (*quality.TOP, *quality.REPEATED):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = collections.Counter(grams)
        if n in quality.TOP:
            most = max((count * sum(map(len, gram)) for gram, count in counts.items() if count > 1), default=0)
            values[f"top_grams_{n}"] = most / total
            continue
        seen, inside = set(), [False] * len(words)
        for i, gram in enumerate(grams):
            if gram in seen:
                inside[i : i + n] = [True] * n
            seen.add(gram)
        values[f"repeated_grams_{n}"] = sum(len(w) for w, there in zip(words, inside) if there) / total
    return values


def test_sequences_equal_a_loop():
    random = np.random.default_rng(0)
    vocabulary = ["a", "bb", "ccc", "dddd", "e"]
    documents = [" ".join(random.choice(vocabulary, count)) for count in (0, 3, 40, 200)] + ["x y z " * 30]
    found = quality.sequence_values(*texts.tokens_and_lengths(documents))
    for row, text in enumerate(documents):
        slow = slow_sequences(text.split())
        assert {name: values[row] for name, values in found.items()} == pytest.approx(slow), row


def test_sequences_of_known_texts():
    once = " ".join(f"word{i}" for i in range(100))
    found = quality.sequence_values(*texts.tokens_and_lengths([once, f"{once} {once}"]))
    assert all(values[0] == 0 for values in found.values())
    assert all(found[f"repeated_grams_{n}"][1] == pytest.approx(0.5) for n in range(5, 11))  # the second half


def test_values_of_known_texts():
    text = "The cat sat.\nThe cat sat.\n\n- a list ...\n\n12 34 # <b>be</b> {x};\n"
    values = quality.text_values(text)
    assert values["words"] == 15
    assert values["word_length"] == pytest.approx(sum(map(len, text.split())) / 15)
    assert values["symbols"] == 1 / 15
    assert values["bullets"] == 1 / 4
    assert values["ellipses"] == 1 / 4
    assert values["letters"] == 10 / 15
    assert values["stop_words"] == 1
    assert values["repeated_lines"] == 1 / 4
    assert values["repeated_line_characters"] == 12 / len(text)
    assert values["line_punctuation"] == 1
    assert values["short_lines"] == 1
    assert values["newlines"] == 6 / 15
    assert values["tags"] == 2 / 15
    assert values["braces"] == 3 / 15
    assert quality.text_values("")["words"] == 0


def test_bounds():
    checks = rules.text_checks(rules.TextRules(), ("gopher",), True)
    assert rules.broken({"words": 49}, checks) == ("words", 49.0)
    assert rules.broken({"words": 50, "letters": 0.79}, checks) == ("letters", pytest.approx(0.79))
    assert rules.broken({"words": 50, "letters": 0.8, "repeated_grams_10": 0.1}, checks) is None
    assert "stop_words" not in rules.text_checks(rules.TextRules(), ("gopher",), False)
    assert set(rules.text_checks(rules.TextRules(), ("markup",), True)) == {"tags", "braces"}
    assert not rules.text_checks(rules.TextRules(), (), True)


def test_values_of_images(rng):
    noise = rng.integers(0, 255, (20, 60, 3)).astype(np.uint8)
    values = quality.image_values(noise)
    assert (values["side"], values["aspect"]) == (20, 3)
    checks = rules.image_checks(rules.ImageRules())
    assert rules.broken(values, checks) is None
    assert rules.broken(quality.image_values(np.full((20, 20, 1), 200, np.uint8)), checks)[0] == "contrast"
    faint = np.tile(np.linspace(0, 12, 20).astype(np.uint8)[:, None, None], (1, 20, 1))
    assert rules.broken(quality.image_values(faint), checks)[0] == "dark"
    assert rules.broken(quality.image_values(noise[:, :, :1].repeat(2, 1)[:10]), checks)[0] == "aspect"
    assert rules.broken(quality.image_values(noise[:5, :5]), checks)[0] == "side"
    smooth = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None, None], (1, 60, 1))
    assert quality.image_values(smooth)["sharpness"] < 0.02 < quality.image_values(noise)["sharpness"]


def test_values_of_sounds():
    tone = np.round(2**14 * np.sin(np.arange(8_000))).astype(np.int16)
    values = quality.sound_values(tone, 8_000)
    assert values["seconds"] == 1
    assert values["loudness"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert values["clipped"] == 0
    checks = rules.sound_checks(rules.SoundRules())
    assert rules.broken(values, checks) is None
    assert rules.broken(quality.sound_values(np.zeros(8_000, np.int16), 8_000), checks)[0] == "loudness"
    loud = np.clip(tone.astype(int) * 9, -(2**15) + 1, 2**15 - 1).astype(np.int16)
    assert rules.broken(quality.sound_values(loud, 8_000), checks)[0] == "clipped"
    assert rules.broken(quality.sound_values(tone[:80], 8_000), checks)[0] == "seconds"
