"""Resuming compares the content of the data, encoder and tokenizer, not their names."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from ssl_keras.data.readers.text import from_texts
from ssl_keras.data.sources import load
from ssl_keras.data.splits import from_arrays
from ssl_keras.engine.config import Training
from ssl_keras.training import run_folder

TRAINING = Training(batch_size=2, run="mine", resume=True)


def opened(splits, kind="pretrain autoencoder", settings=None, training=TRAINING):
    """Starts or resumes a run on these data; returns its saved settings."""
    with run_folder.open_run(training, splits, tf.distribute.get_strategy(), kind, settings or {}, "x") as (folder, _):
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "step-0000000001.safetensors").touch()
        return json.loads((folder / "settings.json").read_text())


@pytest.fixture
def data(tmp_path):
    """A folder with small datasets: text, a table, pairs, and sound."""
    folder = tmp_path / "data"
    (folder / "corpus").mkdir(parents=True)
    (folder / "corpus" / "a.txt").write_text("".join(f"the quick brown fox {i} jumps\n" for i in range(400)))
    lines = [f"word{i}\t{i % 2}" for i in range(60)]
    (folder / "table.tsv").write_text("\n".join(["text\tlabel", *lines]))
    (folder / "pairs.tsv").write_text("\n".join(lines))
    (folder / "sound").mkdir()
    for i in range(10):
        soundfile.write(folder / "sound" / f"{i}.wav", 0.1 * np.sin(np.arange(2_000) * (i + 1) / 50), 8_000)
    return folder


@pytest.mark.parametrize("name", ["text:{}/corpus", "table:{}/table.tsv", "pairs:{}/pairs.tsv", "audio:{}/sound"])
def test_data_may_have_another_path(data, monkeypatch, caplog, name):
    monkeypatch.chdir(data.parent)
    opened(load(name.format("data")))
    slash = "/" if (data / name.rpartition("/")[2]).is_dir() else ""
    for other in (data, "./data", "data/../data"):
        opened(load(name.format(other) + slash))
    data.rename(data.with_name("moved"))
    settings = opened(load(name.format("moved")))
    assert "moved" in settings["data"]
    assert "The content is the same, so the run resumes" in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_warning_names_another_run_with_the_same_data_and_settings(data, monkeypatch, caplog):
    """The default name depends on the data's folder, which may have been renamed."""
    monkeypatch.chdir(data.parent)
    (data.parent / "runs" / "notes").mkdir(parents=True)
    (data.parent / "runs" / "notes" / "settings.json").write_text("[]")
    opened(load("audio:data/sound"))
    opened(load("pairs:data/pairs.tsv"), training=dataclasses.replace(TRAINING, run="others"))
    assert "starts from step 0" not in caplog.text
    opened(load("audio:data/sound"), training=dataclasses.replace(TRAINING, run="again"))
    assert "runs/again has no checkpoint and starts from step 0. runs/mine has the same data" in caplog.text


def test_changed_data_are_refused_under_any_name(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    opened(load("table:data/table.tsv"))
    table = data / "table.tsv"
    about = table.stat()
    table.write_text(table.read_text().replace("word17\t1", "word17\t0"))
    os.utime(table, ns=(about.st_atime_ns, about.st_mtime_ns))
    for name in ("table:data/table.tsv", f"table:{table}"):
        with pytest.raises(ValueError, match="(?s)belongs to a run on other data:.*(fingerprint|held_out): was"):
            opened(load(name))


def test_every_example_is_compared(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    image, label = np.random.default_rng(0).random((300, 4, 4)).astype(np.float32), np.arange(300) % 3
    opened(from_arrays(image, label))
    for row in (7, 133, 299):
        other = image.copy()
        other[row] = 0
        with pytest.raises(ValueError, match="on other data"):
            opened(from_arrays(other, label))
    swapped = label.copy()
    swapped[[10, 11]] = swapped[[11, 10]]
    with pytest.raises(ValueError, match="on other data"):
        opened(from_arrays(image, swapped))
    opened(from_arrays(image, label))


@pytest.mark.parametrize(("name", "key"), [("encoder", "encoder_weights"), ("tokenizer", "tokenizer_sha256")])
def test_encoders_and_tokenizers_are_compared_by_content(monkeypatch, tmp_path, name, key):
    monkeypatch.chdir(tmp_path)
    splits = from_texts([f"text {i}" for i in range(20)])
    opened(splits, "finetune", {name: "a/b", key: "12"})
    assert opened(splits, "finetune", {name: "/x/a/b", key: "12"})[name] == "/x/a/b"
    with pytest.raises(ValueError, match=f"{key}: was .12., is now .13."):
        opened(splits, "finetune", {name: "/x/a/b", key: "13"})


def test_init_is_compared_by_its_weights(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shipped = sorted(pathlib.Path(__file__).parents[2].glob("saved_models/*/card.json"))[0].parent
    shutil.copytree(shipped, "copy")
    splits = from_texts([f"text {i}" for i in range(20)])
    opened(splits, training=dataclasses.replace(TRAINING, init=shipped.name))
    opened(splits, training=dataclasses.replace(TRAINING, init="copy"))
    card = json.loads(pathlib.Path("copy/card.json").read_text())
    card["weights"]["sha256"] = "0" * 64
    pathlib.Path("copy/card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="init_weights: was"):
        opened(splits, training=dataclasses.replace(TRAINING, init="copy"))


def test_workers_with_other_names_for_the_same_data_agree(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    values = []
    monkeypatch.setattr(run_folder.Workers, "agree", lambda self, what, value: values.append(value))
    splits = from_texts([f"text {i}" for i in range(20)])
    opened(splits)
    opened(type(splits)(*(dataclasses.replace(part, name=f"text:/mnt/{part.name}") for part in splits)))
    opened(from_texts([f"text {i}" for i in range(20)][::-1]), training=dataclasses.replace(TRAINING, run="other"))
    assert values[0] == values[1] != values[2]


def test_run_of_another_version_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    splits = from_texts([f"text {i}" for i in range(20)])
    path = pathlib.Path("runs/mine/settings.json")
    settings = opened(splits)
    path.write_text(json.dumps(settings | {"format": 2}))
    with pytest.raises(ValueError, match="another ssl_keras version. Expected .* 4. Received: 2"):
        opened(splits)
