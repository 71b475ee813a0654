"""Curation as a whole: what is removed and kept, equal bytes however it is run, resuming, inputs that are wrong."""

import gzip
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from PIL import Image

from ssl_keras.curation import curate as curation
from ssl_keras.curation import engines, items
from ssl_keras.curation.settings import Settings
from ssl_keras.data import near_duplicates
from ssl_keras.data.sources import load

PLAIN = Settings(rules=("off",), parts=(0.6, 0.2, 0.2))
KINDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgklmnrst"]


def prose(random, count=120):
    return " ".join(random.choice(KINDS, count)).capitalize() + "."


def texts_below(folder, random, count=60):
    """Writes documents, some of which are copies: 0 = 1 but for case, 2 is near 3, 4 and 5 are short and near."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = [prose(random) for _ in range(count)]
    documents[1] = documents[0].upper()
    words = documents[2].split()
    documents[3] = " ".join([*words[:60], "changed", *words[61:]])
    documents[4], documents[5] = "A short text that is here twice", "A short text, that is here twize"
    for number, text in enumerate(documents):
        (folder / f"{number:03}.txt").write_text(text)
    return documents


def run(inputs, out, settings=PLAIN, engine=None, **options):
    return curation.curate(
        [inputs] if isinstance(inputs, str) else inputs, out, settings, engine or engines.Local(), **options
    )


def hashes(out):
    about = json.loads((out / "curation.json").read_text())
    for name, digest in about["sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    return about["sha256"]


def removed(out):
    with gzip.open(out / "removed.jsonl.gz") as file:
        return {row["name"]: row for row in map(json.loads, file)}


@pytest.fixture
def texts(tmp_path, rng):
    texts_below(tmp_path / "in", rng)
    return f"text:{tmp_path}/in"


def test_copies_are_removed(texts, tmp_path):
    result = run(texts, tmp_path / "out")
    assert result.funnel == {"": 57, "exact copy": 1, "near copy": 2}
    gone = removed(tmp_path / "out")
    assert set(gone) <= {f"{number:03}.txt" for number in range(6)}
    assert sum(result.splits.values()) == 57
    splits = load(f"curated:{tmp_path}/out")
    assert [len(part) for part in splits] == list(result.splits.values())
    found = sorted(text for part in splits for text in part.column("text"))
    kept = [p.read_text() for p in sorted((tmp_path / "in").iterdir()) if p.name not in gone]
    assert found == sorted(kept)
    assert splits.train.column("text")[[2, 0]].tolist() == list(splits.train.column("text")[[2, 0]])
    assert not any(map(len, near_duplicates.leaks(splits).values()))
    assert splits.train.short_name == "out"


def test_tensorflow_datasets_opens_it(texts, tmp_path):
    import tensorflow_datasets as tfds

    run(texts, tmp_path / "out")
    source = tfds.builder_from_directory(tmp_path / "out").as_data_source("train")
    splits = load(f"curated:{tmp_path}/out")
    assert len(source) == len(splits.train)
    assert [row["text"].decode() for row in source.__getitems__([1, 0])] == splits.train.column("text")[[1, 0]].tolist()


def test_the_bytes_are_the_same_however_it_is_run(tmp_path, rng, monkeypatch):
    texts_below(tmp_path / "in", rng)
    run(f"text:{tmp_path}/in", tmp_path / "one", shard_bytes=9_000)
    (tmp_path / "moved").mkdir()
    (tmp_path / "in").rename(tmp_path / "moved" / "in")
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Backwards(scan(path)))
    monkeypatch.setattr(engines, "PARTITION", 100)
    run(f"text:{tmp_path}/moved/in", tmp_path / "two", shard_bytes=9_000)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert len(hashes(tmp_path / "one")) > 6


class Backwards(list):
    """The entries of a folder, the last ones first."""

    def __init__(self, entries):
        super().__init__(sorted(entries, key=lambda each: each.name, reverse=True))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.slow
def test_the_bytes_are_the_same_in_two_processes(tmp_path, rng):
    """`make test` covers one process with other partitions and another order of files."""
    texts_below(tmp_path / "in", rng)
    run(f"text:{tmp_path}/in", tmp_path / "one", shard_bytes=9_000)
    run(f"text:{tmp_path}/in", tmp_path / "two", engine=engines.Local(2), shard_bytes=9_000)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize("keep", ["longest", "first"])
def test_the_copy_that_is_kept(tmp_path, rng, keep):
    documents = texts_below(tmp_path / "in", rng)
    (tmp_path / "in" / "900.txt").write_text(documents[10] + " And a little more.")
    run(f"text:{tmp_path}/in", tmp_path / "out", Settings(rules=("off",), parts=(1.0,), keep=keep))
    gone = removed(tmp_path / "out")
    assert ("010.txt" in gone, "900.txt" in gone) == ((True, False) if keep == "longest" else (False, True))


def test_evaluation_texts_are_removed(tmp_path, rng):
    documents = texts_below(tmp_path / "in", rng)
    evaluation = tmp_path / "eval"
    evaluation.mkdir()
    quoted = documents[20].split()[30:60]
    (evaluation / "quote.txt").write_text(" ".join([*prose(rng).split(), *map(str.upper, quoted), *prose(rng).split()]))
    (evaluation / "whole.txt").write_text(documents[21])
    (evaluation / "short.txt").write_text("two words")
    (tmp_path / "in" / "short.txt").write_text("Two words!")
    result = run(f"text:{tmp_path}/in", tmp_path / "out", against=[f"text:{evaluation}"])
    gone = removed(tmp_path / "out")
    assert gone["020.txt"]["reason"] == gone["021.txt"]["reason"] == "evaluation text"
    assert gone["short.txt"]["reason"] == "evaluation example"
    assert result.funnel["evaluation text"] + result.funnel["evaluation example"] == 3


def test_near_copies_do_not_straddle_splits(tmp_path, rng):
    """Chains of near copies, of which every other one stays, are in one split."""
    folder = tmp_path / "in"
    folder.mkdir()
    for chain in range(30):
        words = prose(rng, 200).split()
        for link in range(5):
            (folder / f"{chain:02}-{link}.txt").write_text(" ".join(words))
            words[link * 40 : link * 40 + 5] = rng.choice(KINDS, 5)
    result = run(f"text:{folder}", tmp_path / "out", look=lambda work, result: None)
    part, group = result.examples.part, result.group
    assert sum(result.splits.values()) < 100
    for one in set(group.tolist()):
        assert len(set(part[(group == one) & (part >= 0)].tolist())) <= 1
    kept = np.flatnonzero(part >= 0)
    assert len(set(group[kept].tolist())) < len(kept)  # some groups keep several


def test_images(tmp_path, rng):
    folder = tmp_path / "in"
    for number in range(40):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8))
        picture.save(folder / "ab"[number % 2] / f"{number:02}.png")
        if number < 4:
            picture.resize((48, 48), Image.Resampling.BICUBIC).save(folder / "a" / f"copy{number}.png")
    Image.fromarray(np.full((24, 24), 9, np.uint8)).save(folder / "a" / "blank.png")
    (folder / "a" / "cut.png").write_bytes((folder / "a" / "00.png").read_bytes()[:300])
    result = run(f"folder:{folder}", tmp_path / "out", Settings(parts=(0.6, 0.2, 0.2)))
    assert result.funnel == {"": 40, "unreadable": 1, "contrast": 1, "near copy": 4}
    splits = load(f"curated:{tmp_path}/out", 24)
    assert splits.train.classes == ("a", "b")
    assert sum(map(len, splits)) == 40
    with pytest.raises(ValueError, match="images of different sizes"):
        load(f"curated:{tmp_path}/out")


def test_audio(tmp_path, rng):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        soundfile.write(folder / f"{number:02}.wav", rng.normal(0, 0.1, 4_000 + number), 8_000)
    (folder / "copy.wav").write_bytes((folder / "03.wav").read_bytes())
    soundfile.write(folder / "silent.wav", np.zeros(4_000), 8_000)
    (folder / "bad.wav").write_bytes(b"RIFF....WAVE")
    result = run(f"audio:{folder}", tmp_path / "out", Settings(parts=(0.6, 0.2, 0.2)))
    assert result.funnel == {"": 20, "unreadable": 1, "loudness": 1, "exact copy": 1}
    splits = load(f"curated:{tmp_path}/out")
    assert splits.train.rate == 8_000
    assert sorted(length for part in splits for length in part.lengths) == list(range(4_000, 4_020))


def test_tables_and_captions(tmp_path, rng):
    rows = [f'"{prose(rng, 12)}",{"ab"[i % 2]}' for i in range(40)]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join([*rows, rows[3]]))
    run(f"table:{tmp_path}/t.csv", tmp_path / "table")
    splits = load(f"curated:{tmp_path}/table")
    assert splits.train.classes == ("a", "b")
    assert sum(map(len, splits)) == 40
    for number in range(30):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(tmp_path / f"{number}.png")
    lines = [json.dumps({"image": f"{i}.png", "caption": [f"picture {i}", "thing"]}) for i in range(30)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    run(f"captions:{tmp_path}/c.jsonl", tmp_path / "captions")
    splits = load(f"curated:{tmp_path}/captions")
    assert {text.split("\n")[1] for part in splits for text in part.column("caption")} == {"thing"}


def test_a_dry_run_writes_nothing(texts, tmp_path):
    seen = []
    result = run(texts, tmp_path / "dry", dry_run=True, look=lambda work, result: seen.append(sorted(work.iterdir())))
    assert result.funnel[""] == 57
    assert seen[0]
    assert not list((tmp_path / "dry").iterdir())


def test_large_files_of_lines_are_cut(tmp_path, rng):
    (tmp_path / "in").mkdir()
    texts = [prose(rng) for _ in range(50)]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    run(f"text:{tmp_path}/in", tmp_path / "one")
    run(f"text:{tmp_path}/in", tmp_path / "many", shard_bytes=3_000)
    for out in ("one", "many"):
        splits = load(f"curated:{tmp_path}/{out}")
        assert sorted(text for part in splits for text in part.column("text")) == sorted(texts)


CODE = """
import pathlib, sys, time
from ssl_keras.curation import curate, engines, settings
if sys.argv[3:]:
    from ssl_keras import files
    replace = pathlib.Path.replace
    pathlib.Path.replace = lambda self, other: (time.sleep(0.05), replace(self, other))[1]
found = settings.Settings(rules=("off",), parts=(0.6, 0.2, 0.2))
curate.curate([sys.argv[1]], pathlib.Path(sys.argv[2]), found, engines.Local(), shard_bytes=9_000)
"""


@pytest.mark.slow
def test_a_killed_run_resumes(tmp_path, rng):
    """50 SIGKILLs: the same bytes. `make test` covers a run that is interrupted once, below."""
    texts_below(tmp_path / "in", rng, 150)
    run(f"text:{tmp_path}/in", tmp_path / "whole", shard_bytes=9_000)
    command = [sys.executable, "-c", CODE, f"text:{tmp_path}/in", str(tmp_path / "out")]
    kills = 0
    while kills < 50 and not (tmp_path / "out" / "curation.json").exists():
        process = subprocess.Popen([*command, "slow"])
        deadline = time.time() + 600
        before = _made(tmp_path / "out")
        while process.poll() is None and time.time() < deadline and len(_made(tmp_path / "out") - before) < 1:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert subprocess.run(command).returncode == 0 or (tmp_path / "out" / "curation.json").exists()
    assert kills > 10
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "out")


def _made(out):
    return {path for path in out.rglob("*") if "partial" not in path.name}


def test_an_interrupted_run_resumes(texts, tmp_path, monkeypatch):
    from ssl_keras.curation import stages

    run(texts, tmp_path / "whole", shard_bytes=9_000)
    for name in ("measure_shard", "pair_up", "write_shard"):
        original, count = getattr(stages, name), []

        def stop(*arguments, original=original, count=count):
            count.append(1)
            if len(count) == 2:
                raise OSError(28, "No space left on device")
            return original(*arguments)

        monkeypatch.setattr(stages, name, stop)
        with pytest.raises(OSError, match="No space"):
            run(texts, tmp_path / "out", shard_bytes=9_000)
        monkeypatch.setattr(stages, name, original)
    run(texts, tmp_path / "out", shard_bytes=9_000)
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "out")
    assert not (tmp_path / "out" / "work").exists()


def test_a_full_disk_loses_nothing(texts, tmp_path, monkeypatch):
    original = items.read

    def full(*arguments):
        for number, item in enumerate(original(*arguments)):
            if number == 5 and pathlib.Path(tmp_path / "out" / "work" / "part.npy").exists():
                raise OSError(28, "No space left on device")
            yield item

    monkeypatch.setattr(items, "read", full)
    with pytest.raises(OSError, match="No space"):
        run(texts, tmp_path / "out")
    assert not (tmp_path / "out" / "curation.json").exists()
    with pytest.raises(ValueError, match="not complete: repeat the command"):
        load(f"curated:{tmp_path}/out")
    monkeypatch.setattr(items, "read", original)
    assert run(texts, tmp_path / "out").funnel[""] == 57


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


def test_zero_width_characters_and_shuffled_paragraphs_are_found(tmp_path, rng):
    folder = tmp_path / "in"
    texts_below(folder, rng)
    paragraphs = [prose(rng, 60) for _ in range(6)]
    (folder / "a.txt").write_text("\n\n".join(paragraphs))
    (folder / "shuffled.txt").write_text("\n\n".join(paragraphs[::-1]))
    (folder / "zero.txt").write_text("\n\n".join(paragraphs).replace("a", "a\u200b"))
    run(f"text:{folder}", tmp_path / "out")
    assert len({"a.txt", "shuffled.txt", "zero.txt"} & set(removed(tmp_path / "out"))) == 2


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


def test_two_runs_in_one_folder_are_refused(texts, tmp_path):
    def again(work, result):
        with pytest.raises(ValueError, match="in use by another run"):
            run(texts, tmp_path / "out")

    run(texts, tmp_path / "out", look=again)


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


def test_large_pictures_are_not_decoded(tmp_path, rng, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    Image.new("L", (13_000, 13_000)).save(folder / "bomb.png")
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "png")
    (folder / "renamed.jpg").write_bytes(content.getvalue()[1:])
    Image.new("RGB", (1, 5_000), "red").save(folder / "thin.png")
    result = run(f"folder:{folder}", tmp_path / "out", Settings(parts=(1.0,)))
    assert result.funnel == {"": 20, "unreadable": 1, "pixels": 1, "side": 1}
