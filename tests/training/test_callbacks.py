"""`RunCallback` without training: the best evaluation, early stopping, and warnings about metrics."""

import math
import types

import pytest
import tensorflow as tf

from ssl_keras.engine.config import Training
from ssl_keras.training import callbacks
from ssl_keras.training.workers import Workers

NAN, INF = math.nan, math.inf


def intervals(folder, losses, keep_last_checkpoint=False, patience=0, accuracies=None, **metrics):
    """Passes one validation loss per interval to the callback; returns (callback, [whether each was the best])."""
    step = tf.Variable(0, dtype=tf.int64)
    model = types.SimpleNamespace(
        step=step, keep_last_checkpoint=keep_last_checkpoint, warnings=lambda row: [], stop_training=False
    )
    model.best_metric = "accuracy" if accuracies else None
    keeper = callbacks.RunCallback(folder, Training(patience=patience), 100, 1, Workers(tf.distribute.get_strategy()))
    keeper.set_model(model)
    kept = []
    keeper._save = kept.append
    for number, loss in enumerate(losses):
        step.assign_add(1)
        measured = {"val_accuracy": accuracies[number]} if accuracies else {}
        keeper.on_epoch_end(0, {"loss": 1.0, "val_loss": loss} | measured | metrics)
        if model.stop_training:
            break
    return keeper, kept


@pytest.mark.parametrize(
    ("losses", "kept", "best", "at"),
    [
        ([NAN, 3.0, 4.0, 2.0], [False, True, False, True], 2.0, 4),
        ([3.0, NAN, 2.0], [True, False, True], 2.0, 3),
        ([INF, 5.0, 6.0], [False, True, False], 5.0, 2),
        ([-INF, 5.0], [False, True], 5.0, 2),
        ([NAN, NAN], [False, False], None, 0),
    ],
)
def test_non_finite_loss_is_never_the_best_and_logs_a_warning(losses, kept, best, at, tmp_path, caplog):
    keeper, saved = intervals(tmp_path, losses)
    assert saved == kept
    assert (keeper.notes["best"], keeper.notes["best_step"]) == (best, at)
    bad = [i for i, loss in enumerate(losses, 1) if not math.isfinite(loss)]
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [f"step {i}" for i in bad]
    assert len(keeper.notes["warnings"]) == 1
    assert "the validation loss is not finite" in keeper.notes["warnings"][0][1]


def test_non_finite_loss_is_not_the_best_with_keep_last_checkpoint_either(tmp_path):
    assert intervals(tmp_path, [3.0, 4.0, NAN], keep_last_checkpoint=True)[1] == [True, True, False]


@pytest.mark.parametrize(
    ("losses", "accuracies", "kept"),
    [
        ([1.0, 1.5, 2.0], [0.3, 0.5, 0.4], [True, True, False]),  # the loss rises while the accuracy improves
        ([1.0, 1.5, 2.0], [0.5, 0.5, 0.5], [True, True, True]),  # the later of equals
        ([1.0, NAN, 2.0], [0.3, 0.9, 0.2], [True, False, False]),
    ],
)
def test_classes_choose_by_accuracy(losses, accuracies, kept, tmp_path):
    assert intervals(tmp_path, losses, accuracies=accuracies)[1] == kept


def test_patience_counts_equal_accuracies(tmp_path):
    keeper, saved = intervals(tmp_path, [1.0] * 4, accuracies=[0.9] * 4, patience=2)
    assert saved == [True, True, True]
    assert keeper.stop


def test_patience_counts_non_finite_losses(tmp_path):
    keeper, saved = intervals(tmp_path, [NAN, 3.0, NAN, NAN, 1.0], patience=2)
    assert saved == [False, True, False, False]
    assert keeper.stop


def test_last_weights_are_kept_if_no_loss_was_finite(tmp_path, caplog):
    keeper, _ = intervals(tmp_path, [NAN, NAN])
    outcome = keeper.finish(types.SimpleNamespace(step=tf.Variable(2), best_metric=None))
    assert (outcome["best_step"], outcome["best_val_loss"]) == (2, None)
    assert "no validation loss was finite" in caplog.text
    assert len(outcome["warnings"]) == 1


@pytest.mark.parametrize(
    ("metrics", "warning"),
    [
        ({"val_loss": 0.0}, "val_loss is 0 at the first evaluation"),
        ({"loss": 0.0}, "loss is 0 at the first"),
        ({"val_accuracy": 1.0}, "val_accuracy is 100% at"),
        ({"val_loss": 0.0, "val_top1": 1.0}, "val_loss is 0 and val_top1 is 100% at"),
        ({"accuracy": 1.0}, ""),
        ({"val_accuracy": 0.99, "val_codes": 1.0}, ""),
    ],
)
def test_data_that_seem_too_easy_log_one_warning(metrics, warning, tmp_path, caplog):
    keeper, _ = intervals(tmp_path, [metrics.get("val_loss", 1.0)] * 3, **metrics)
    assert not keeper.stop
    assert caplog.text.count("at the first evaluation") == bool(warning)
    assert [warning in text for _, text in keeper.notes["warnings"]] == [True] * bool(warning)
