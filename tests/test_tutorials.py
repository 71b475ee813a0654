"""The tutorials run, in their short form, and at length as a reader would run them."""

import logging
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
# Their short forms take about a minute each; the same paths are tested by test_seq2seq, test_speech, test_image_text,
# test_workers.
LONG = ("09_seq2seq", "10_speech", "11_image_text", "12_many_devices")


@pytest.mark.parametrize("script", [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else []) for path in TUTORIALS
])
def test_smoke(script, tmp_path, monkeypatch):
    """In this process: TensorFlow starts slowly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke"])
    level = logging.getLogger("absl").level
    code = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        logging.getLogger("absl").setLevel(level)
    assert code == 0
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize(("tutorial", "promises"), [
    ("01_autoencoder", 3), ("02_causal_lm", 2), ("03_masked_lm", 2), ("04_classifier", 3), ("05_jigsaw", 3),
    ("06_contrastive", 3), ("07_few_labels", 4), ("08_dcgan", 4), ("09_seq2seq", 4), ("10_speech", 5),
    ("11_image_text", 2), ("12_many_devices", 3),
])
def test_in_full(tutorial, promises, fashion_mnist, tfds_folder, tmp_path):
    """Its numbers land where its first lines say."""
    emoji = pathlib.Path(os.environ.get("SSL_KERAS_DATA", "/nowhere")) / "emoji_pairs"
    if tutorial == "11_image_text" and not emoji.is_dir():
        pytest.skip("real data: $SSL_KERAS_DATA holds no emoji_pairs")
    script = ROOT / "tutorials" / f"{tutorial}.py"
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True,
        text=True, timeout=2400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count(": yes") == promises
