"""Curation as a whole: what is removed and what is kept, of each kind of data."""

import gzip
import hashlib
import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from ssl_keras.curation import curate as curation
from ssl_keras.curation import engines
from ssl_keras.curation.rules import TextRules
from ssl_keras.curation.settings import Settings
from ssl_keras.data import near_duplicates, records
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


def test_a_rule_that_removes_most_is_named(tmp_path, rng, caplog):
    texts_below(tmp_path / "in", rng, count=20)
    run(f"text:{tmp_path}/in", tmp_path / "out", Settings(text=TextRules(words=(121, 10_000))), dry_run=True)
    assert "words removes 20 of 20 examples. If these are good (Gopher's rules are for documents" in caplog.text
    assert "change --words" in caplog.text


def test_labels_are_left_out_if_some_are_missing(tmp_path, rng, caplog):
    rows = [f"{prose(rng)},{'ab'[i % 2] if i else ''}" for i in range(20)]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    run(f"table:{tmp_path}/t.csv", tmp_path / "out")
    assert "Some examples have no label, so the result has no labels." in caplog.text
    assert not load(f"curated:{tmp_path}/out").train.classes


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


@pytest.mark.slow
def test_grain_reads_it(texts, tmp_path):
    grain = pytest.importorskip("grain", reason="Grain: `make test-all` installs it")
    run(texts, tmp_path / "out")
    ours = records.Records(tmp_path / "out", "train")
    files = sorted(map(str, (tmp_path / "out").glob("curated-train.array_record-*")))
    found = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files)).map(records.parse)
    assert [found[row] for row in range(len(found))] == ours[range(len(ours))]


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


def test_zero_width_characters_and_shuffled_paragraphs_are_found(tmp_path, rng):
    folder = tmp_path / "in"
    texts_below(folder, rng)
    paragraphs = [prose(rng, 60) for _ in range(6)]
    (folder / "a.txt").write_text("\n\n".join(paragraphs))
    (folder / "shuffled.txt").write_text("\n\n".join(paragraphs[::-1]))
    (folder / "zero.txt").write_text("\n\n".join(paragraphs).replace("a", "a\u200b"))
    run(f"text:{folder}", tmp_path / "out")
    assert len({"a.txt", "shuffled.txt", "zero.txt"} & set(removed(tmp_path / "out"))) == 2
