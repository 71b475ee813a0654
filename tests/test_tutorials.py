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
def test_the_autoencoder_in_full(fashion_mnist, tmp_path):
    """Its numbers land where its first lines say."""
    done = run(ROOT / "tutorials" / "01_autoencoder.py", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count(": yes") == 3
