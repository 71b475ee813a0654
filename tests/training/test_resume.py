"""A run that is killed and resumed ends bit for bit like an uninterrupted run."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import safetensors.numpy

from ssl_keras.curation.curate import curate
from ssl_keras.curation.engines import Local
from ssl_keras.curation.settings import Settings

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "interrupted.py"
pytestmark = [pytest.mark.fit, pytest.mark.budget(120)]  # `runs` is eight processes
# Step 13 is inside an interval of seven steps. The noise makes the random draws matter.
FLAGS = [
    "pretrain",
    "autoencoder",
    "--steps",
    "30",
    "--batch-size",
    "64",
    "--eval-every",
    "7",
    "--widths",
    "32",
    "16",
    "--gaussian-noise",
    "0.1",
    "--steps-per-execution",
    "1",
    "--no-tensorboard",
    "--deterministic",
]
GAME = [
    "pretrain",
    "dcgan",
    "--image-size",
    "16",
    "--width",
    "4",
    "--latent",
    "8",
    "--steps",
    "100",
    "--batch-size",
    "32",
    "--eval-every",
    "20",
    "--steps-per-execution",
    "1",
    "--no-tensorboard",
    "--deterministic",
    "--strategy",
    "mirrored",
    "--replicas",
    "2",
]
TEXTS = [
    "pretrain",
    "causal_lm",
    "--data",
    "curated:clean",
    "--layers",
    "1",
    "--heads",
    "2",
    "--width",
    "16",
    "--context",
    "12",
    "--tokenizer",
    "characters",
    "--steps",
    "30",
    "--batch-size",
    "8",
    "--eval-every",
    "7",
    "--steps-per-execution",
    "1",
    "--no-jit",
    "--no-tensorboard",
    "--deterministic",
]
KILLED = -signal.SIGKILL
INTERRUPTIONS = {"SIGKILL": KILLED, "due": KILLED, "write": KILLED, "SIGTERM": 143, "SIGINT": 130}


def start(how, folder, run=None, runs="", flags=FLAGS, step=13):
    environment = dict(os.environ, PYTHONPATH=str(SCRIPT.parents[2]), RUNS=runs, STEP=str(step))
    flags = flags + ([] if run is None else ["--run", run])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), how, *flags],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{how: (exit code, output, files after the interruption)} of runs that were then resumed; and their folder."""
    folder = tmp_path_factory.mktemp("interrupted")
    codes, _ = start(",".join(("not", *INTERRUPTIONS)), folder).communicate(timeout=300)
    result = {}
    for how, code in (line.split() for line in codes.splitlines()[-1 - len(INTERRUPTIONS) :]):
        output = (folder / f"{how}.txt").read_text()
        checkpoints = sorted((folder / "runs" / how / "checkpoints").glob("*.safetensors"))
        for path in checkpoints:
            safetensors.numpy.load_file(path)  # any file with its final name is complete
        result[how] = int(code), output, [path.name for path in checkpoints]
    resumed = start("resume", folder, runs=" ".join(INTERRUPTIONS))
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    return result, folder / "runs"


@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_run_was_interrupted(runs, how):
    code, output, checkpoints = runs[0][how]
    assert code == INTERRUPTIONS[how], output
    assert "step-0000000030.safetensors" not in checkpoints
    saved_first = how in ("SIGTERM", "SIGINT")
    assert ("step-0000000013.safetensors" in checkpoints) == saved_first
    assert ("step-0000000012.safetensors" in checkpoints) == (how == "due")
    assert ("Saved" in output and "Use --resume to continue" in output) == saved_first


@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_resumed_run_equals_an_uninterrupted_one(runs, how):
    result, folder = runs
    assert result["not"][0] == 0, result["not"][1]
    assert_alike(folder / "not", folder / how)


@pytest.mark.slow
def test_resumed_game_on_two_replicas_equals_an_uninterrupted_one(tmp_path):
    """Two players, two optimizers and the EMA, killed at step 53 of 100 and resumed."""
    assert_killed_equals_alone(tmp_path, GAME, 53, "at step 40 of 100")


@pytest.mark.slow
def test_resumed_run_on_curated_texts_equals_an_uninterrupted_one(tmp_path, rng):
    """Texts that are read by index, killed at step 13 of 30 and resumed."""
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgklmnrst"]
    rows = [{"text": " ".join(rng.choice(words, 60))} for _ in range(60)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    curate([f"text:{tmp_path}/in.jsonl"], tmp_path / "clean", Settings(rules=("off",)), Local())
    assert_killed_equals_alone(tmp_path, TEXTS, 13, "at step 7 of 30")


def assert_killed_equals_alone(tmp_path, flags, step, resumed_at):
    """Asserts that a run that is killed and resumed equals one that is not."""
    processes = [start(how, tmp_path, how, flags=flags, step=step) for how in ("not", "SIGKILL")]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL], outputs
    resumed = start("resume", tmp_path, runs="SIGKILL", flags=flags)
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert resumed_at in output
    assert_alike(tmp_path / "runs" / "not", tmp_path / "runs" / "SIGKILL")


def assert_alike(alone, resumed):
    """Asserts that checkpoints, metrics and encoder of two runs are equal to the last bit."""
    names = [path.name for path in sorted((alone / "checkpoints").iterdir())]
    assert names == [path.name for path in sorted((resumed / "checkpoints").iterdir())]
    for name in names:
        a = safetensors.numpy.load_file(alone / "checkpoints" / name)
        b = safetensors.numpy.load_file(resumed / "checkpoints" / name)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].tobytes() == b[key].tobytes(), (name, key)
    assert (alone / "metrics.csv").read_text() == (resumed / "metrics.csv").read_text()
    encoder = "encoder/encoder.safetensors"
    assert (alone / encoder).read_bytes() == (resumed / encoder).read_bytes()
