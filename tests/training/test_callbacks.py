"""Which interval is the best, and what is said of an evaluation: without training."""

import math
import types

import pytest
import tensorflow as tf

from ssl_keras.engine.config import Training
from ssl_keras.training import callbacks
from ssl_keras.training.workers import Workers

NAN, INF = math.nan, math.inf


def intervals(folder, losses, keep_last_checkpoint=False, patience=0, **metrics):
    """(the callback, [whether an interval was saved as the best]) after held-out losses, one for each interval."""
    step = tf.Variable(0, dtype=tf.int64)
    model = types.SimpleNamespace(
        step=step, keep_last_checkpoint=keep_last_checkpoint, warnings=lambda row: [], stop_training=False
    )
    keeper = callbacks.RunCallback(folder, Training(patience=patience), 100, 1, Workers(tf.distribute.get_strategy()))
    keeper.set_model(model)
    kept = []
    keeper._save = kept.append
    for loss in losses:
        step.assign_add(1)
        keeper.on_epoch_end(0, {"loss": 1.0, "val_loss": loss} | metrics)
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
def test_a_loss_that_is_not_finite_is_never_the_best_and_is_said(losses, kept, best, at, tmp_path, caplog):
    keeper, saved = intervals(tmp_path, losses)
    assert saved == kept
    assert (keeper.notes["best"], keeper.notes["best_step"]) == (best, at)
    bad = [i for i, loss in enumerate(losses, 1) if not math.isfinite(loss)]
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [f"step {i}" for i in bad]
    assert len(keeper.notes["warnings"]) == 1
    assert "the held-out loss is not finite" in keeper.notes["warnings"][0][1]


def test_nor_is_it_of_a_game_whose_latest_weights_are_kept(tmp_path):
    assert intervals(tmp_path, [3.0, 4.0, NAN], keep_last_checkpoint=True)[1] == [True, True, False]


def test_patience_counts_intervals_that_are_not_finite(tmp_path):
    keeper, saved = intervals(tmp_path, [NAN, 3.0, NAN, NAN, 1.0], patience=2)
    assert saved == [False, True, False, False]
    assert keeper.stop


def test_where_no_loss_was_finite_the_last_weights_are_kept(tmp_path, caplog):
    keeper, _ = intervals(tmp_path, [NAN, NAN])
    outcome = keeper.finish(types.SimpleNamespace(step=tf.Variable(2)))
    assert (outcome["best_step"], outcome["best_val_loss"]) == (2, None)
    assert "No held-out loss of" in caplog.text
    assert len(outcome["warnings"]) == 1


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"val_loss": 0.0}, "val_loss is 0 at the first evaluation"),
        ({"loss": 0.0}, "loss is 0 at the first"),
        ({"val_accuracy": 1.0}, "val_accuracy is 100% at"),
        ({"val_loss": 0.0, "top1": 1.0}, "val_loss is 0 and top1 is 100% at"),
        ({"val_accuracy": 0.99, "val_codes": 1.0}, ""),
    ],
)
def test_what_looks_too_easy_is_said_once(metrics, said, tmp_path, caplog):
    keeper, _ = intervals(tmp_path, [metrics.get("val_loss", 1.0)] * 3, **metrics)
    assert not keeper.stop
    assert caplog.text.count("at the first evaluation") == bool(said)
    assert [said in text for _, text in keeper.notes["warnings"]] == [True] * bool(said)
