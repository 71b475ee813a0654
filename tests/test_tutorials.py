"""The tutorials run, in their short form, as a reader would run them."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))


def run(script, folder, *flags):
    return subprocess.run(
        [sys.executable, script, *flags], cwd=folder, env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, timeout=1200,
    )


@pytest.mark.parametrize("script", TUTORIALS, ids=lambda path: path.stem)
def test_smoke(script, tmp_path):
    done = run(script, tmp_path, "--smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize(("tutorial", "promises"), [
    ("01_autoencoder", 3), ("02_causal_lm", 2), ("03_masked_lm", 2), ("04_classifier", 3), ("05_jigsaw", 3),
    ("06_contrastive", 3), ("07_few_labels", 4), ("08_dcgan", 4), ("09_seq2seq", 4),
])
def test_in_full(tutorial, promises, fashion_mnist, tfds_folder, tmp_path):
    """Its numbers land where its first lines say."""
    done = run(ROOT / "tutorials" / f"{tutorial}.py", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count(": yes") == promises
