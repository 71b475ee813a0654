"""Inputs, settings and folders that are wrong: an error before any work, or dropped and counted."""

import gzip
import json
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_curate import KINDS, hashes, prose, removed, run, texts_below

from ssl_keras.curation import items
from ssl_keras.curation.listing import listing
from ssl_keras.curation.rules import ImageRules, SoundRules, TextRules
from ssl_keras.curation.settings import Settings
from ssl_keras.data.near_duplicates import grouping
from ssl_keras.data.sources import load


@pytest.fixture
def texts(tmp_path, rng):
    texts_below(tmp_path / "in", rng)
    return f"text:{tmp_path}/in"


BAD = {
    "binary.txt": b"\0\1\2" * 400,
    "utf16.txt": "some words in UTF-16".encode("utf-16"),
    "latin.txt": "été à la plage ".encode("latin-1") * 40,
    "nul.txt": b"words\0" * 40,
    "bomb.txt.gz": gzip.compress(b"a" * (20 << 20)),
    "cut.txt.gz": gzip.compress(b"abc" * 9_000)[:-20],
    "empty.txt": b"",
    "blank.txt": b" \n \n",
    "long.jsonl": b'{"text": "' + b"x" * (17 << 20) + b'"}\n{"text": "a good line"}\n',
    "broken.jsonl": b'{"text": "open\n{"text": 7}\n{"text": null}\n' + b"[" * 5_000 + b"\n",
    "bom.txt": b"\xef\xbb\xbfa text with a byte order mark",
    "surrogate.jsonl": b'{"text": "half \\ud800 and half, ' + b"word " * 60 + b'"}',
}


REASONS = {
    "binary.txt": "not text",
    "utf16.txt": "not text",
    "latin.txt": "not text",
    "nul.txt": "not text",
    "bomb.txt.gz": "too long",
    "cut.txt.gz": "unreadable",
    "empty.txt": "empty",
    "blank.txt": "empty",
    "long.jsonl:0": "too long",
}


def test_what_is_not_text_is_dropped_and_counted(tmp_path, rng):
    texts_below(tmp_path / "in", rng)
    for name, content in BAD.items():
        (tmp_path / "in" / name).write_bytes(content)
    for number in range(1_000):
        os.symlink(tmp_path / "in" / "010.txt", tmp_path / "in" / f"link{number}.txt")
    os.symlink(tmp_path / "in", tmp_path / "in" / "loop")
    result = run(f"text:{tmp_path}/in", tmp_path / "out")
    gone = {name: row["reason"] for name, row in removed(tmp_path / "out").items()}
    assert {name: gone.get(name) for name in REASONS} == REASONS
    assert sum(name.startswith("broken.jsonl") for name in gone) == 4
    assert result.funnel[""] == 57 + 3  # a good line, the byte order mark, half a surrogate pair
    texts = [text for part in load(f"curated:{tmp_path}/out") for text in part.column("text")]
    assert "a text with a byte order mark" in texts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": (0.5, 0.4)}, "sum to 1"),
        ({"parts": (0.5, -0.5, 1.0)}, "positive fractions"),
        ({"rules": ("off", "gopher")}, "--rules must be off"),
    ],
)
def test_settings_that_contradict_each_other(texts, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(texts, tmp_path / "out", Settings(**settings))
    assert not (tmp_path / "out").exists()


def test_unknown_languages_are_errors(texts, tmp_path):
    pytest.importorskip("py3langid")
    with pytest.raises(ValueError, match="Unknown language 'english'. Expected an ISO 639-1 code"):
        run(texts, tmp_path / "out", Settings(language="english"))


def test_inputs_that_are_wrong(texts, tmp_path, rng):
    (tmp_path / "none").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.txt").write_bytes(b"\0" * 99)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(tmp_path / "pictures" / "a.png")
    for inputs, message in [
        ([], "Expected at least one dataset"),
        ("text:/nowhere", "no such file or folder"),
        (f"text:{tmp_path}/none", "has no files of text. Received: an empty folder"),
        (f"text:{tmp_path}/bad", "1 of 1 examples cannot be read or are not text: a.txt"),
        ([texts, f"folder:{tmp_path}/pictures"], "Expected inputs of one kind"),
        (f"table:{tmp_path}/none", "no such file"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(inputs, tmp_path / f"out{len(message)}")
    with pytest.raises(ValueError, match="Expected --against of the kind of the inputs, text"):
        run(texts, tmp_path / "other", against=[f"folder:{tmp_path}/pictures"])


def test_folders_that_are_not_replaced(texts, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and is not a curation"):
        run(texts, tmp_path / "full")
    with pytest.raises(ValueError, match="is a file"):
        run(texts, tmp_path / "full" / "mine.txt")
    run(texts, tmp_path / "out")
    before = hashes(tmp_path / "out")
    with pytest.raises(ValueError, match="is complete"):
        run(texts, tmp_path / "out")
    with pytest.raises(ValueError, match="a curation with other settings: near"):
        run(texts, tmp_path / "out", Settings(rules=("off",), parts=(0.6, 0.2, 0.2), near=0.7))
    assert hashes(tmp_path / "out") == before


def test_everything_removed_is_an_error_with_the_funnel(texts, tmp_path):
    with pytest.raises(ValueError, match="Nothing is left for train.*60 examples, words 2, stop_words"):
        run(texts, tmp_path / "out", Settings(rules=("gopher",)))


def test_files_that_change_are_errors(texts, tmp_path):
    def change(work, result):
        path = tmp_path / "in" / "030.txt"
        path.write_text(path.read_text()[::-1])

    with pytest.raises(ValueError, match="030.txt has changed since it was listed"):
        run(texts, tmp_path / "out", look=change)


def test_the_same_file_through_two_inputs_is_one_example(texts, tmp_path):
    result = run([texts, f"text:{tmp_path}/in/../in"], tmp_path / "out")
    assert result.funnel[""] == 57


def test_damaged_folders_are_named(texts, tmp_path):
    run(texts, tmp_path / "out")
    shard = next((tmp_path / "out").glob("*train*"))
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ValueError, match="1 files are missing"):
        load(f"curated:{tmp_path}/out")
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged|expected"):
        load(f"curated:{tmp_path}/out")
    with pytest.raises(ValueError, match="expected a folder that ssl-keras curate wrote"):
        load(f"curated:{tmp_path}/in")


def test_one_template_a_hundred_thousand_times_takes_linear_time(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("ssl_keras.data.near_duplicates.grouping.MAX_LEADERS", 4)
    words = prose(rng, 60).split()
    with open(tmp_path / "a.jsonl", "w") as file:
        for _ in range(400):
            words[::7] = rng.choice(KINDS, len(words[::7]))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    result = run(f"text:{tmp_path}/a.jsonl", tmp_path / "out")
    assert result.funnel[""] > 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near": 2}, "near must be 0 to 1. Received: 2"),
        ({"near": -0.1}, "near must be 0 to 1. Received: -0.1"),
        ({"near_text": 0}, "near_text must be in"),
        ({"near_image": 1.5}, "near_image must be in"),
        ({"rules": ("fine",)}, "rules must be a sequence whose entries are one of gopher, fineweb, markup, off"),
        ({"keep": "last"}, "keep must be one of longest, first. Received: 'last'"),
        ({"parts": (1.5,)}, "sum to 1"),
        ({"parts": ()}, "1 to 3 positive fractions"),
        ({"text": TextRules(letters=2)}, "letters must be 0 to 1"),
        ({"image": ImageRules(side=0)}, "side must be at least 1"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run("text:none", tmp_path / "out", Settings(**settings))
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_an_error_with_the_funnel(tmp_path, rng):
    """Near copies are in one split, so of two there is nothing for the other."""
    (tmp_path / "in").mkdir()
    text = prose(rng)
    for number in range(2):
        (tmp_path / "in" / f"{number}.txt").write_text(f"{text} {number}")
    with pytest.raises(ValueError, match=r"Nothing is left for \w+, \w+: 2 examples, near copy 1, kept 1"):
        run(f"text:{tmp_path}/in", tmp_path / "out")


def test_memory_does_not_grow_with_a_line_or_a_document(tmp_path, monkeypatch):
    """Both are 100 times the limit; a line goes through many shards."""
    monkeypatch.setattr(items, "MAX_BYTES", 1 << 16)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "document.txt").write_bytes(b"word " * (20 << 16))
    good = b'{"text": "a good line"}\n'
    (tmp_path / "in" / "line.jsonl").write_bytes(good + b'{"text": "' + b"x" * (100 << 16) + b'"}\n' + good)
    shards = listing([f"text:{tmp_path}/in"], 1 << 20).shards
    assert len(shards) > 5
    tracemalloc.start()
    try:
        found = [(item.problem, item.content) for shard in shards for item in items.read(shard, "text")]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [("too long", None), ("", "a good line"), ("too long", None), ("", "a good line")]
    assert peak < 1 << 20


def test_a_file_that_cannot_be_opened_is_named(texts, tmp_path, monkeypatch):
    def refuse(path, *arguments):
        if str(path).endswith("033.txt"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *arguments)

    monkeypatch.setattr(items, "open", refuse, raising=False)
    assert run(texts, tmp_path / "out").funnel["unreadable"] == 1
    assert removed(tmp_path / "out")["033.txt"]["reason"] == "unreadable"


def test_a_file_that_changes_but_for_its_size_and_time_is_an_error(texts, tmp_path):
    def change(work, result):
        path = tmp_path / "in" / "030.txt"
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_text(path.read_text()[::-1])
        os.utime(path, ns=times)

    with pytest.raises(ValueError, match="030.txt has changed since it was measured"):
        run(texts, tmp_path / "out", look=change)


def test_equal_lines_are_compared_once_each(tmp_path, monkeypatch):
    compared, plain = [], grouping.compare

    def count(similar, i, j):
        compared.append(len(i))
        return plain(similar, i, j)

    monkeypatch.setattr(grouping, "compare", count)
    (tmp_path / "a.jsonl").write_text('{"text": "the same line each time"}\n' * 2_000)
    result = run(f"text:{tmp_path}/a.jsonl", tmp_path / "out", Settings(rules=("off",), parts=(1.0,)))
    assert result.funnel == {"": 1, "exact copy": 1_999}
    assert sum(compared) == 1_999
    assert result.examples.copies.max() == 2_000


@pytest.mark.slow
def test_a_million_equal_lines(tmp_path):
    """`make test` covers 2,000, above."""
    (tmp_path / "a.jsonl").write_text('{"text": "the same line each time"}\n' * 1_000_000)
    result = run(f"text:{tmp_path}/a.jsonl", tmp_path / "out", Settings(rules=("off",), parts=(1.0,)))
    assert result.funnel == {"": 1, "exact copy": 999_999}


def test_an_evaluation_dataset_inside_the_input_is_removed(tmp_path, rng):
    texts_below(tmp_path / "in", rng)
    texts_below(tmp_path / "in" / "held", rng, 12)
    run(f"text:{tmp_path}/in", tmp_path / "out", against=[f"text:{tmp_path}/in/held"])
    gone = {name for name, row in removed(tmp_path / "out").items() if row["reason"].startswith("evaluation")}
    held_out = {f"held/{number:03}.txt" for number in range(12)}
    assert gone == held_out | {"004.txt", "005.txt"}  # the short texts are in both folders


def test_homoglyphs_and_contained_documents_stay(tmp_path, rng):
    """What docs/curation.md says is not found."""
    texts_below(tmp_path / "in", rng)
    text, rest = prose(rng), prose(rng, 480)
    for name, content in {"a": text, "latin": text.replace("a", "а"), "inside": f"{rest} {text}"}.items():
        (tmp_path / "in" / f"{name}.txt").write_text(content)
    run(f"text:{tmp_path}/in", tmp_path / "out")
    assert not {"a.txt", "latin.txt", "inside.txt"} & set(removed(tmp_path / "out"))


def test_images_that_are_damaged_or_promise_too_much(tmp_path, rng):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:900])
    (folder / "empty.png").touch()
    (folder / "huge.png").write_bytes(png_header(30_000, 30_000))
    (folder / "large.png").write_bytes(png_header(13_000, 13_000))
    (folder / "thin.png").write_bytes(png_header(1, 50_000))
    (folder / "renamed.jpg").write_bytes((folder / "0.png").read_bytes()[1:])
    Image.new("RGB", (1, 5_000), "red").save(folder / "line.png")
    frames = [Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)) for _ in range(500)]
    frames[0].resize((24, 24)).save(folder / "frames.gif", save_all=True, append_images=frames[1:])
    run(f"folder:{folder}", tmp_path / "out", Settings(parts=(1.0,)))
    reasons = {name: row["reason"] for name, row in removed(tmp_path / "out").items()}
    assert reasons == {
        "cut.jpg": "unreadable",
        "empty.png": "unreadable",
        "huge.png": "pixels",
        "large.png": "pixels",
        "thin.png": "unreadable",
        "renamed.jpg": "unreadable",
        "line.png": "side",
    }
    assert sum(map(len, load(f"curated:{tmp_path}/out", 24))) == 13


def png_header(width, height):
    """The bytes of a PNG file of this size whose pixels are missing."""
    start = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [start, b"IDAT" + zlib.compress(b"\0" * 99), b"IEND"]
    packed = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_clips_that_are_damaged_or_promise_too_much(tmp_path, rng):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", rng.normal(0, 0.1, 2_000), 8_000)
    hours = bytearray((folder / "0.wav").read_bytes()[:-1_000])
    hours[40:44] = struct.pack("<I", 2 * 8_000 * 36_000)  # the header states 10 h
    (folder / "hours.wav").write_bytes(hours)
    soundfile.write(folder / "none.wav", np.zeros(0), 8_000)
    soundfile.write(folder / "nan.wav", np.full(2_000, np.nan), 8_000, subtype="FLOAT")
    soundfile.write(folder / "channels.wav", rng.normal(0, 0.1, (48_000, 8)), 192_000)
    soundfile.write(folder / "long.wav", rng.normal(0, 0.1, 2 * 8_000), 8_000)
    (folder / "empty.wav").touch()
    settings = Settings(parts=(1.0,), sound=SoundRules(seconds=(0.02, 1.0)))
    run(f"audio:{folder}", tmp_path / "out", settings)
    reasons = {name: row["reason"] for name, row in removed(tmp_path / "out").items()}
    assert reasons == {
        "none.wav": "unreadable",
        "nan.wav": "unreadable",
        "long.wav": "too long",
        "empty.wav": "unreadable",
    }
    lengths = [length for part in load(f"curated:{tmp_path}/out") for length in part.lengths.tolist()]
    assert sorted(lengths) == [1_500, *[2_000] * 13]
