"""The tutorials run, in short form; at length `make tutorials` runs them, and fails where a promise is not kept."""

import logging
import pathlib
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
# Their short forms take up to a minute each; the same paths are tested by test_language, test_flow, test_seq2seq,
# test_wav2vec2, test_image_text, test_workers.
LONG = ("03_masked_lm", "07_few_labels", "09_seq2seq", "10_speech", "11_image_text", "12_many_devices")


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
