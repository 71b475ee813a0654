"""pretrain → encoder → fine-tune → evaluate, from Python and the command line."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil
import threading
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import objectives
from ssl_keras.cli import main
from ssl_keras.cli.flags import defaults as with_defaults
from ssl_keras.data.readers.text import from_texts
from ssl_keras.data.splits import from_arrays
from ssl_keras.downstream import finetune, grids, report
from ssl_keras.downstream.table import evaluate
from ssl_keras.encoders import load_classifier, load_encoder
from ssl_keras.encoders.initialize import initialize
from ssl_keras.engine.config import Training
from ssl_keras.networks.dense import classifier_head
from ssl_keras.objectives.autoencoder import Settings
from ssl_keras.objectives.classifier import Classifier
from ssl_keras.training.compare import compare
from ssl_keras.training.optimizer import make
from ssl_keras.training.pretrain import pretrain
from ssl_keras.training.run import compile_objective, summarize_data
from ssl_keras.training.strategy import strategy

QUICK = {"steps": 20, "eval_every": 5, "tensorboard": False}
FLAGS = ["--steps", "20", "--eval-every", "5", "--no-tensorboard"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The outcome of a short run in a temporary folder."""
    return pretrain("autoencoder", training=Training(**QUICK, runs=str(tmp_path_factory.mktemp("trained"))))


@pytest.fixture
def run(trained, tmp_path):
    """The outcome of a short run, copied to ./runs for each test."""
    folder = pathlib.Path("runs", pathlib.Path(trained["folder"]).name)
    shutil.copytree(trained["folder"], folder)
    return trained | {"folder": str(folder)}


@pytest.mark.fit
def test_pretraining_learns_and_writes_all_files(run):
    folder = pathlib.Path(run["folder"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"settings.json", "metrics.csv", "checkpoints", "encoder", "summary.json", "data.json"}
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5", "10", "15", "20"]
    losses = [float(row["val_loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert run["best_val_loss"] == losses[-1]
    assert 0.3 < run["test_loss"] < losses[0]
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "best.safetensors",
        "step-0000000015.safetensors",
        "step-0000000020.safetensors",
    ]
    card = json.loads((folder / "encoder" / "card.json").read_text())
    assert (card["name"], card["features"]) == ("autoencoder-digits", 64)
    assert card["trained_by"]["objective"] == "autoencoder"
    about = card["trained_by"]["data"]
    assert (about["name"], about["examples"]) == ("digits[train]", 1295)
    parts = {"train": 1295, "validation": 143, "test": 359}
    assert about["summary"]["parts"] == parts
    kept = json.loads((folder / "data.json").read_text())
    assert {name: part["examples"] for name, part in kept["parts"].items()} == parts
    assert not {"data.json", "summary"} & json.loads((folder / "settings.json").read_text()).keys()


def test_equal_examples_are_refused_before_anything_is_written():
    data = from_arrays(np.full((40, 8, 8), 7, np.uint8), np.arange(40) % 2)
    with pytest.raises(ValueError, match="all 29 examples of the training split are equal"):
        pretrain("autoencoder", training=Training(**QUICK), data=data)
    assert not pathlib.Path("runs").exists()


def test_run_logs_a_summary_of_its_data(digits, caplog):
    caplog.set_level("INFO")
    assert summarize_data(digits, digits)["parts"]["train"]["examples"] == 1295
    assert "digits: train 1,295, validation 143, test 359 examples" in caplog.messages


@pytest.mark.fit
def test_a_run_is_reproduced_from_its_settings(run):
    again = pretrain("autoencoder", training=Training(**QUICK, run="again"))
    other = pretrain("autoencoder", training=Training(**QUICK, run="other", seed=1))
    differs = {"folder", "seconds", "examples_per_second", "mfu"}
    assert {key: again[key] for key in again.keys() - differs} == {key: run[key] for key in run.keys() - differs}
    assert other["test_loss"] != run["test_loss"]


@pytest.mark.fit
def test_other_settings_are_refused_and_shown(run):
    with pytest.raises(ValueError, match=r"other settings:\n  learning_rate: was 0.001, is now 0.01\nChoose"):
        pretrain("autoencoder", training=Training(**QUICK, learning_rate=0.01, resume=True))
    with pytest.raises(ValueError, match="has started. Add --resume"):
        pretrain("autoencoder", training=Training(**QUICK))
    assert pretrain("autoencoder", training=Training(**QUICK, resume=True))["test_loss"] == run["test_loss"]


@pytest.mark.fit
def test_what_a_run_shows_may_change_on_resume(run):
    assert not pathlib.Path(run["folder"], "tensorboard").exists()
    shown = Training(**{**QUICK, "tensorboard": True}, resume=True)
    assert pretrain("autoencoder", training=shown)["test_loss"] == run["test_loss"]
    assert list(pathlib.Path(run["folder"], "tensorboard").glob("events*"))


@pytest.mark.fit
def test_refused_run_leaves_its_name_free():
    with pytest.raises(ValueError, match="fewer than a batch of 2000"):
        pretrain("autoencoder", training=Training(**QUICK, batch_size=2000))
    with pytest.raises(ValueError, match="No runs in runs"):
        compare(pathlib.Path("runs"))
    assert pretrain("autoencoder", training=Training(**QUICK))["step"] == 20


def of_a_project(folder):
    (folder / "encoder").mkdir(parents=True)
    (folder / "encoder" / "precious.py").write_text("x = 1")
    (folder / "settings.json").write_text('{"mine": 1}')
    (folder / "metrics.csv").write_text("mine\n")


def of_another_kind(folder):
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"kind": "User"}')
    (folder / "summary.json").write_text("{}")


def of_other_checkpoints(folder):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "model.safetensors").write_text("")
    (folder / "metrics.csv").write_text("mine\n")


def of_one_file(folder):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("mine\n")


def of_half_a_file(folder):
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"mine": ')


def with_a_foreign_encoder(folder):
    (folder / "encoder").mkdir(parents=True)
    (folder / "encoder" / "precious.py").write_text("x = 1")
    (folder / "settings.json").write_text('{"kind": "pretrain autoencoder"}')


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            of_a_project,
            "src was not made by a run. Expected .* folder with encoder, metrics.csv, settings.json",
        ),
        (of_another_kind, "src was not made by a run"),
        (of_other_checkpoints, "src was not made by a run"),
        (of_one_file, "src was not made by a run"),
        (of_half_a_file, "src was not made by a run"),
        (with_a_foreign_encoder, "src/encoder is not a saved encoder and would be overwritten"),
    ],
)
def test_folder_of_something_else_is_left_unchanged(make, message, resume, capsys):
    src = pathlib.Path("proj/src")
    make(src)
    before = {path: path.is_file() and path.read_text() for path in src.rglob("*")}
    flags = ["--runs", "proj", "--run", "src", *FLAGS, *(["--resume"] if resume else [])]
    assert main(["pretrain", "autoencoder", *flags]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error
    assert {path: path.is_file() and path.read_text() for path in src.rglob("*")} == before


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", " ", "a\\b", "x/"])
def test_paths_are_refused_as_run_names(name, tmp_path, capsys):
    assert main(["pretrain", "autoencoder", *FLAGS, "--run", name]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: run must be a plain name.* Received: .* --runs \(runs=\)\.\n", error)
    assert not list(tmp_path.iterdir())


def test_names_that_cannot_be_saved_are_refused_before_training(rng, tmp_path):
    images = rng.integers(0, 256, (60, 8, 8), np.uint8)
    for classes, name in ((("a", "b\udce9"), "mine"), (("a", "b"), "m\udce9")):
        data = from_arrays(images, rng.integers(0, 2, 60), classes=classes, name=name)
        with pytest.raises(ValueError, match=r"The name '.*\\udce9.*' is not UTF-8"):
            pretrain("autoencoder", training=Training(**QUICK, batch_size=8, run="x"), data=data)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_detected_before_training(rng, tmp_path, monkeypatch):
    usage = type(shutil.disk_usage("."))(10**9, 10**9, 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    data = from_arrays(rng.integers(0, 256, (60, 8, 8), np.uint8))
    with pytest.raises(OSError, match=r"runs/x: the run needs at least 3 MB, and 0 MB are free"):
        pretrain("autoencoder", training=Training(**QUICK, batch_size=8, run="x"), data=data)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.fit
def test_leftovers_of_a_killed_start_do_not_block_a_run():
    folder = pathlib.Path("runs/left")
    (folder / "checkpoints").mkdir(parents=True)
    pretrain("autoencoder", training=Training(**QUICK, run="left"))
    for name in (".lock", ".settings.json.123.partial", ".writable.7"):
        folder = pathlib.Path(f"runs/left{name}")
        folder.mkdir()
        (folder / name).write_text("process 1 on elsewhere\n")
    pretrain("autoencoder", training=Training(**QUICK, run="left.lock"))
    assert not pathlib.Path("runs/left.lock/.lock").exists()
    # The settings of another run, which was refused after they were written.
    folder = pathlib.Path("runs/refused")
    folder.mkdir()
    (folder / "settings.json").write_text('{"kind": "finetune"}')
    pretrain("autoencoder", training=Training(**QUICK, run="refused"))


def test_resume_without_settings(run):
    path = pathlib.Path(run["folder"], "settings.json")
    path.unlink()
    assert pretrain("autoencoder", training=Training(**QUICK, resume=True))["test_loss"] == run["test_loss"]
    assert json.loads(path.read_text())["kind"] == "pretrain autoencoder"


def test_files_beside_the_encoder_are_kept(run):
    note = pathlib.Path(run["folder"], "encoder", "README.md")
    note.write_text("mine")
    pretrain("autoencoder", training=Training(**QUICK, resume=True))
    assert note.read_text() == "mine"
    load_encoder("autoencoder-digits")


@pytest.mark.fit
@pytest.mark.parametrize("resume", [False, True])
def test_second_run_in_a_folder_is_refused(resume):
    refused = []

    class Second(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if not refused:
                held = pathlib.Path("runs/same/settings.json").read_text()
                with pytest.raises(ValueError, match=f"in use by another run: process {os.getpid()} on ") as error:
                    pretrain("autoencoder", training=Training(**QUICK, run="same", seed=1, resume=resume))
                refused.append(str(error.value))
                assert pathlib.Path("runs/same/settings.json").read_text() == held

    outcome = pretrain("autoencoder", training=Training(**QUICK, run="same"), callbacks=[Second()])
    assert refused
    assert "\n" not in refused[0]
    card = json.loads(pathlib.Path(outcome["folder"], "encoder", "card.json").read_text())
    assert card["trained_by"]["settings"]["seed"] == 0
    assert json.loads(pathlib.Path("runs/same/settings.json").read_text())["seed"] == 0


@pytest.mark.fit
def test_failed_run_releases_its_folder(run):
    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain("autoencoder", training=Training(**QUICK, run="fails"), callbacks=[Fails()])
    assert pretrain("autoencoder", training=Training(**QUICK, run="fails"))["test_loss"] == run["test_loss"]


@pytest.mark.fit
def test_other_data_under_the_same_name_is_refused(rng):
    settings = Training(steps=4, eval_every=2, batch_size=20, tensorboard=False, resume=True)
    pretrain("autoencoder", training=settings, data=from_arrays(rng.random((100, 6, 6))))
    with pytest.raises(ValueError, match="fingerprint: was"):
        pretrain("autoencoder", training=settings, data=from_arrays(rng.random((100, 6, 6))))


@pytest.mark.fit
def test_a_callback_may_stop_the_run():
    stop = keras.callbacks.EarlyStopping("val_loss", mode="max", patience=1)
    assert pretrain("autoencoder", training=Training(**QUICK), callbacks=[stop])["step"] == 10


@pytest.mark.fit
def test_precision_is_restored():
    pretrain("autoencoder", training=Training(**QUICK, precision="mixed_bfloat16"))
    assert keras.config.dtype_policy().name == "float32"
    assert load_encoder("autoencoder-digits").compute_dtype == "float32"
    finetune.finetune("autoencoder-digits", training=Training(**QUICK, precision="mixed_bfloat16"))
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.fit
def test_damaged_best_checkpoint_leaves_the_last_weights(run):
    best = pathlib.Path(run["folder"], "checkpoints", "best.safetensors")
    best.write_bytes(best.read_bytes()[:-9])
    again = pretrain("autoencoder", training=Training(**QUICK, resume=True))
    assert again["test_loss"] == run["test_loss"]  # the last weights were the best


@pytest.mark.fit
def test_early_stopping_keeps_the_best_weights():
    """The learning rate is far too high, so the loss rises; the encoder is that of the best evaluation."""
    training = Training(steps=200, eval_every=5, patience=2, learning_rate=0.3, tensorboard=False)
    outcome = pretrain("autoencoder", training=training)
    assert outcome["stopped_early"]
    assert outcome["step"] == outcome["best_step"] + 2 * 5
    assert outcome["best_val_loss"] < outcome["val_loss"]
    again = pretrain("autoencoder", training=Training(**{**vars(training), "resume": True}))
    assert again["step"] == outcome["step"]


@pytest.mark.fit
def test_non_finite_loss_raises_with_the_step_and_keeps_the_last_good_checkpoint(monkeypatch):
    from ssl_keras.objectives import autoencoder

    plain = autoencoder.Autoencoder.batch_loss

    def explode(self, batch, training):
        total, weight = plain(self, batch, training)
        return tf.where(self.step == 12, np.inf, 1.0) * total, weight

    monkeypatch.setattr(autoencoder.Autoencoder, "batch_loss", explode)
    with pytest.raises(FloatingPointError, match="at step 12"):
        pretrain("autoencoder", training=Training(**QUICK))
    kept = [path.name for path in sorted(pathlib.Path("runs/autoencoder-digits/checkpoints").glob("step*"))]
    assert kept == ["step-0000000005.safetensors", "step-0000000010.safetensors"]


@pytest.mark.fit
def test_arrays_and_a_custom_encoder(rng):
    splits = from_arrays(rng.random((200, 10, 10)).astype(np.float32))

    def mine(settings, spec):
        image = keras.Input(spec["image"][0], name="image")
        return keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(image)), name="mine")

    quick = Training(steps=4, batch_size=20, tensorboard=False)
    outcome = pretrain("autoencoder", training=quick, data=splits, encoder=mine)
    loaded = load_encoder(outcome["folder"], network=mine(None, splits.train.spec()))
    assert loaded.output_shape == (None, 5)

    labeled = from_arrays(rng.random((200, 10, 10)).astype(np.float32), np.arange(200) % 2)
    fresh = lambda: mine(None, splits.train.spec())  # noqa: E731
    tuned = finetune.finetune(outcome["folder"], training=quick, data=labeled, network=fresh)
    assert load_encoder(tuned["folder"], network=fresh()).output_shape == (None, 5)
    table = evaluate(outcome["folder"], labeled, (3,), (0,), trained=False, network=fresh)
    assert list(table)[-1] == "autoencoder-arrays, frozen"


@pytest.mark.fit
def test_pretraining_works_off_the_main_thread():
    """Only the main thread can set signal handlers; a notebook or server may use another one."""
    result = []
    thread = threading.Thread(target=lambda: result.append(pretrain("autoencoder", training=Training(**QUICK))))
    thread.start()
    thread.join()
    assert result[0]["step"] == 20


@pytest.mark.fit
def test_initialize_lists_weights_that_do_not_fit(run, caplog):
    from ssl_keras.networks.dense import dense_encoder

    same = dense_encoder((28, 28, 1))
    assert initialize(same, "autoencoder-digits") == ([], [])
    for ours, theirs in zip(same.variables, load_encoder("autoencoder-digits").variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    left = initialize(dense_encoder((28, 28, 1), (256, 100)), "autoencoder-digits")
    assert left == (
        ["dense_1/bias", "dense_1/kernel"],
        ["dense_1/bias", "dense_1/kernel", "dense_2/bias", "dense_2/kernel"],
    )
    assert "Not initialized: ['dense_1/bias', 'dense_1/kernel']" in caplog.text
    with pytest.raises(ValueError, match="No weight of the encoder autoencoder-digits fits"):
        initialize(dense_encoder((10, 10, 1), (7,)), "autoencoder-digits")


@pytest.mark.fit
def test_init_starts_from_the_saved_weights(run):
    """After one tiny step the weights are still close to those of the saved encoder."""
    settings = {"steps": 1, "learning_rate": 1e-6, "tensorboard": False}
    pretrain("autoencoder", training=Training(**settings, run="warm", init="autoencoder-digits"))
    before = load_encoder("autoencoder-digits")
    after = load_encoder("warm")
    for a, b in zip(before.variables, after.variables):
        assert 0 < np.abs(a.numpy() - b.numpy()).max() < 1e-5


@pytest.mark.fit
@pytest.mark.parametrize("freeze", [False, True])
def test_finetuning(run, freeze, digits):
    training = Training(steps=200, eval_every=50, batch_size=64, learning_rate=1e-2, tensorboard=False)
    settings = finetune.Settings(labels_per_class=10, freeze=freeze)
    outcome = finetune.finetune("autoencoder-digits", settings, training)
    assert outcome["test_accuracy"] > 0.5
    before, after = load_encoder("autoencoder-digits"), load_encoder(outcome["folder"])
    moved = max(np.abs(a.numpy() - b.numpy()).max() for a, b in zip(before.variables, after.variables))
    assert (moved == 0) == freeze
    classifier = load_classifier(outcome["folder"])
    predicted = classifier.predict(digits.test.column("image") / np.float32(255), verbose=0).argmax(1)
    assert np.mean(predicted == digits.test.column("label")) == pytest.approx(outcome["test_accuracy"])


@pytest.mark.fit
def test_encoder_learning_rate_is_a_fraction_of_the_heads(run):
    objective = Classifier(load_encoder("autoencoder-digits"), classifier_head(64, 10))
    training = Training(learning_rate=1e-2)
    objective.compile(make(training, 10, []), make(training, 10, [], share=0.01))
    rates = [float(optimizer.learning_rate) for optimizer, _ in objective.optimizer_groups()]
    assert rates == pytest.approx([1e-2, 1e-4])


@pytest.mark.fit
def test_finetuning_refuses_data_and_settings_that_do_not_fit(run, rng):
    with pytest.raises(ValueError, match="takes images"):
        finetune.finetune("autoencoder-digits", data=from_texts(["one two", "three"] * 40, [0, 1] * 40))
    with pytest.raises(ValueError, match="init must be None"):
        finetune.finetune("autoencoder-digits", training=Training(init="other"))
    with pytest.raises(ValueError, match="has no labels"):
        finetune.finetune("autoencoder-digits", data=from_arrays(rng.random((50, 28, 28))))


@pytest.mark.fit
def test_the_downstream_table(run, digits, monkeypatch, tmp_path):
    quick = dataclasses.replace(
        grids.GRIDS["dense"], few_label_steps=(10, 20, 40), all_label_epochs=(1, 2, 3), rates=(1e-3, 3e-3)
    )
    monkeypatch.setitem(grids.GRIDS, "dense", quick)
    table = evaluate("autoencoder-digits", digits, budgets=(5,), seeds=(0, 1))
    assert list(table) == [
        "pixels",
        "random init",
        "autoencoder-digits, frozen",
        "autoencoder-digits, fine-tuned",
        "scratch",
    ]
    for name, row in table.items():
        assert row["all"][0] > 0.6, name
        assert 0.3 < row["5 per class"][0] <= row["all"][0], name
    assert sum(row["5 per class"][1] > 0 for row in table.values()) >= 4  # two draws may tie
    assert all(len(grid.rates) * len(grid.few_label_steps) >= 6 for grid in grids.GRIDS.values())
    report.save(table, tmp_path / "out", "digits")
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == {
        row: {column: list(value) for column, value in columns.items()} for row, columns in table.items()
    }
    assert (tmp_path / "out" / "table.png").read_bytes()[:4] == b"\x89PNG"
    markdown = (tmp_path / "out" / "table.md").read_text()
    assert markdown.count("\n| ") == 6
    assert "±" in markdown


# ----- the command line ------------------------------------------------------


@pytest.mark.fit
def test_the_commands(capsys):
    assert main(["pretrain", "autoencoder", *FLAGS, "--widths", "32", "16"]) == 0
    assert main(["finetune", "autoencoder-digits", *FLAGS, "--labels-per-class", "10"]) == 0
    assert main(["embed", "autoencoder-digits", "--split", "validation"]) == 0
    assert np.load("features.npy").shape == (143, 16)
    assert main(["export", "autoencoder-digits"]) == 0
    served = tf.saved_model.load("autoencoder-digits.savedmodel")
    images = np.zeros((2, 28, 28, 1), np.float32)
    np.testing.assert_allclose(served.serve(images), load_encoder("autoencoder-digits")(images), atol=1e-6)
    evaluate = ["evaluate", "autoencoder-digits", "--budgets", "5", "--seeds", "2", "--no-trained"]
    assert main(evaluate) == 0
    assert os.path.exists("results/autoencoder-digits-digits/table.md")
    assert main(evaluate) == 0  # overwrites its own output
    pathlib.Path("mine").mkdir()
    pathlib.Path("mine/table.csv").write_text("mine")
    assert main([*evaluate, "--out", "mine"]) == 1
    assert [(path.name, path.read_text()) for path in pathlib.Path("mine").iterdir()] == [("table.csv", "mine")]
    capsys.readouterr()
    assert main(["list"]) == 0
    assert "autoencoder-digits" in capsys.readouterr().out
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "finetune-autoencoder-digits-digits" in out
    assert "batch_size" in out  # they differ in it
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "telepathy"], "Unknown objective 'telepathy'. Expected one of autoencoder, "),
        (["pretrain", "autoencoder", "--data", "mnist"], "Unknown data 'mnist'. Expected digits or folder:PATH"),
        (["pretrain", "autoencoder", "--batch-size", "2000"], "1295 examples, fewer than a batch of 2000"),
        (
            ["pretrain", "autoencoder", "--batch-size", "10", "--accumulate", "3"],
            "does not divide among 1 replicas × 3",
        ),
        (["pretrain", "autoencoder", "--runs", "/proc/runs"], "Cannot write to /proc/runs"),
        (["finetune", "nothing"], "Unknown encoder 'nothing'. Expected one of "),
        (["evaluate", "nothing"], "Unknown encoder 'nothing'. Expected one of "),
        (["runs"], "No runs in runs"),
        (["pretrain", "autoencoder", "--image-size", "0"], "image_size must be 1 to 13377 pixels"),
        (
            ["evaluate", "autoencoder-fashion_mnist", "--budgets", "-1"],
            "budgets must be a sequence whose entries are at least 1. Received: (-1,)",
        ),
        (["evaluate", "autoencoder-fashion_mnist", "--budgets", "5000"], "Expected at least 5000"),
        (["evaluate", "autoencoder-fashion_mnist", "--seeds", "0"], "seeds must be at least 1. Received: 0"),
        (["evaluate", "autoencoder-fashion_mnist", "--out", "/proc/x"], "Cannot write to /proc/x"),
        (["embed", "autoencoder-fashion_mnist", "--out", "/proc/x/f.npy"], "Cannot write to /proc/x"),
    ],
)
def test_errors_are_printed_in_one_line(capsys, arguments, message):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_lost_worker_is_reported_in_one_line(monkeypatch, capsys):
    def lost(arguments):
        raise tf.errors.InternalError(None, None, "Graph execution error:\n\n …\nCollective ops is aborted by …")

    monkeypatch.setattr("ssl_keras.cli.encoders.list_command", lost)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == (
        "error: Another worker has died, or cannot be reached. Use --resume to continue from the last checkpoint.\n"
    )


def test_other_lost_connections_are_reported_as_they_are(monkeypatch, capsys):
    def lost(arguments):
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr("ssl_keras.cli.encoders.list_command", lost)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == "error: Connection reset by peer\n"


@pytest.mark.parametrize("name", objectives.names())
def test_steps_and_epochs_exclude_each_other_only_if_both_are_given(name):
    defaults = objectives.module(name).DEFAULTS
    assert with_defaults(defaults, ["--steps", "3"]).epochs == 0
    assert with_defaults(defaults, ["--epochs=3"]).steps == 0
    assert with_defaults(defaults, ["--run", "x"]) == defaults


@pytest.mark.parametrize(
    ("lengths", "compiles", "warns"), [(None, True, False), (np.arange(90), False, False), (np.arange(90), True, True)]
)
def test_jit_with_many_lengths_logs_a_warning(digits, lengths, compiles, warns, caplog):
    """The objective is a stand-in, since Keras does not compile with deterministic ops, which the tests use."""
    splits = digits._replace(train=dataclasses.replace(digits.train, lengths=lengths))
    objective = types.SimpleNamespace(
        name="",
        settings=None,
        min_batch_size=1,
        keep_last_checkpoint=False,
        optimizers=lambda make: [],
        jit_compile=compiles,
        compile=lambda **_: None,
    )
    compile_objective(objective, Training(), splits)
    assert ("compiles the step again for each batch length" in caplog.text) == warns


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "autoencoder", "--learning-rate", "-1"],
        ["pretrain", "autoencoder", "--depth", "3"],
        ["pretrain", "autoencoder", "--optimizer", "sgd"],
        ["pretrain", "causal_lm", "--weight-decay", "-1"],
        ["pretrain", "causal_lm", "--schedule", "linear"],
        ["embed", "autoencoder-fashion_mnist", "--split", "rest"],
        ["recall", "some", "--data", "digits", "--part", "train"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_unknown_command(capsys):
    assert main(["train"]) == 2
    assert "Expected one of: pretrain, finetune" in capsys.readouterr().err


def test_strategies_by_name():
    assert strategy("one") is tf.distribute.get_strategy()
    with pytest.raises(ValueError, match="must be one of auto, one, mirrored, multi_worker. Received: 'two'"):
        strategy("two")
    with pytest.raises(ValueError, match="'one' has one replica"):
        strategy("one", replicas=2)
    tf.zeros(1)
    with pytest.raises(RuntimeError, match="TensorFlow has already started"):
        strategy("mirrored", replicas=3)


@pytest.mark.fit
def test_runs_are_compared(run):
    pretrain("autoencoder", Settings(masking_noise=0.2), Training(**QUICK, run="noisy"))
    table = compare(pathlib.Path("runs"))
    assert "masking_noise" in table.splitlines()[0]
    assert "learning_rate" not in table.splitlines()[0]
    assert table.count("\n") == 3
