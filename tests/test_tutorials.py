"""The tutorials run, in short form; at length `make tutorials` runs them, and fails where a promise is not kept."""

import logging
import pathlib
import runpy
import sys

import pytest

pytestmark = [pytest.mark.fit, pytest.mark.budget(60)]
ROOT = pathlib.Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
# Short forms take up to a minute each; the same paths are tested by test_language, test_flow, test_seq2seq,
# test_wav2vec2, test_image_text, test_contrastive, test_classifier, test_dcgan, test_workers.
QUICKEST = "01_autoencoder"


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, id=path.stem, marks=[] if path.stem == QUICKEST else [pytest.mark.slow]) for path in TUTORIALS],
)
def test_smoke(script, tmp_path, monkeypatch):
    """In this process: TensorFlow starts slowly. Where a tutorial has runs, a second start finds them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke"])
    assert start(script) == 0
    assert list(tmp_path.rglob("*.png"))
    if list(tmp_path.rglob("settings.json")):
        assert start(script) == 0


def start(script):
    """Runs a script; returns its exit code or message."""
    level = logging.getLogger("absl").level
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        logging.getLogger("absl").setLevel(level)
    return 0
