"""Objectives pretrain on curated data of each kind."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_curate import run, texts_below

from ssl_keras import objectives
from ssl_keras.curation.settings import Settings
from ssl_keras.training.pretrain import pretrain

SMALL = {"width": 16, "layers": 1, "heads": 2}


def write_texts(folder, random):
    texts_below(folder / "in", random)
    return f"text:{folder}/in"


def write_table(folder, random):
    texts_below(folder / "in", random)
    texts = [path.read_text() for path in sorted((folder / "in").iterdir())]
    lines = [json.dumps({"text": text, "label": "ab"[number % 2]}) for number, text in enumerate(texts)]
    (folder / "table.jsonl").write_text("\n".join(lines))
    return f"table:{folder}/table.jsonl"


def write_images(folder, random):
    for number in range(60):
        path = folder / "in" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(path)
    return f"folder:{folder}/in"


def write_captions(folder, random):
    write_images(folder, random)
    names = sorted(path.relative_to(folder) for path in (folder / "in").rglob("*.png"))
    rows = [{"image": str(name), "caption": [f"picture {name.stem}", f"number {name.stem}"]} for name in names]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"captions:{folder}/captions.jsonl"


def write_clips(folder, random):
    (folder / "in").mkdir()
    for number in range(60):
        soundfile.write(folder / "in" / f"{number}.wav", random.normal(0, 0.1, 2_000 + number), 8_000)
    return f"audio:{folder}/in"


CASES = {
    "text": (write_texts, "causal_lm", {**SMALL, "hidden": 16, "context": 12, "tokenizer": "characters"}),
    "images": (write_images, "autoencoder", {"widths": (8, 4)}),
    "text with labels": (write_table, "masked_lm", {**SMALL, "hidden": 16, "context": 12, "tokenizer": "characters"}),
    "images, augmented": (write_images, "contrastive", {"network": "cnn", "width": 4, "projection": (8,)}),
    "captions": (
        write_captions,
        "image_text",
        {"width": 4, "text_layers": 1, "text_heads": 2, "text_width": 16, "projection": 8, "tokenizer": "characters"},
    ),
    "audio": (
        write_clips,
        "wav2vec2",
        {**SMALL, "channels": 8, "codes": 8, "projection": 16, "seconds": 0.2, "cross_clip_negatives": 4},
    ),
}
DEFAULT = ("text", "images")


@pytest.mark.fit
@pytest.mark.parametrize(
    "kind", [each if each in DEFAULT else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)
def test_an_objective_pretrains_on_curated_data(tmp_path, rng, monkeypatch, kind):
    """`make test` covers texts, read by index, and images, decoded once."""
    monkeypatch.chdir(tmp_path)
    write, name, settings = CASES[kind]
    run(write(tmp_path, rng), tmp_path / "clean", Settings(rules=("off",), parts=(0.6, 0.2, 0.2)))
    module = objectives.module(name)
    training = dataclasses.replace(
        module.DEFAULTS,
        data="curated:clean",
        epochs=0,
        steps=2,
        eval_every=2,
        batch_size=8,
        jit=False,
        tensorboard=False,
    )
    outcome = pretrain(name, module.Settings(**settings), training)
    assert np.isfinite(outcome["loss"])
    assert np.isfinite(outcome["test_loss"])
    assert pathlib.Path(outcome["folder"], "encoder", "card.json").exists()
