"""Runs side by side, whole or not."""

import json

import pytest

from ssl_keras.training.compare import compare


def add(root, name, metrics, summary=None, settings='{"kind": "finetune", "seed": 0}'):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(settings)
    (folder / "metrics.csv").write_text(metrics)
    if summary is not None:
        (folder / "summary.json").write_text(summary)


def rows(table):
    return {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in table.splitlines()[2:]}


def test_nan_is_not_the_best_of_a_run_that_goes_on(tmp_path):
    add(tmp_path, "a", "step,val_loss\n5,nan\n10,0.5\n15,0.4\n20,inf\n")
    add(tmp_path, "b", "step,val_loss\n5,nan\n")
    found = rows(compare(tmp_path))
    assert found["a"][:3] == ["20 (unfinished)", "0.4", "15"]
    assert found["b"][:3] == ["5 (unfinished)", "–", "–"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"settings": "[]"}, "its settings.json is no run's"),
        ({"settings": '{"mine": 1}'}, "its settings.json is no run's"),
        ({"settings": '{"kind": '}, "JSONDecodeError"),
        ({"metrics": "step,val_loss\n"}, "its metrics.csv has no rows"),
        ({"metrics": "mine\n1\n"}, "KeyError"),
        ({"metrics": "step,val_loss\n5,x\n"}, "could not convert"),
        ({"summary": "{"}, "JSONDecodeError"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_named(files, reason, tmp_path, caplog):
    whole = "step,val_loss\n5,1.0\n"
    add(tmp_path, "whole", whole)
    add(tmp_path, "odd", **{"metrics": whole} | files)
    assert list(rows(compare(tmp_path))) == ["whole"]
    assert f"{tmp_path / 'odd'} is left out" in caplog.text
    assert reason in caplog.text


def test_names_and_half_lines_leave_the_table_whole(tmp_path, caplog):
    add(tmp_path, "a|b", "step,val_loss\n5,1.0\n10,0.")
    add(tmp_path, "old", "", json.dumps({"step": 5, "best_val_loss": float("nan")}))
    lines = compare(tmp_path).splitlines()
    assert lines[2].startswith("| a\\|b | 5 (unfinished) | 1 | 5 |")
    assert lines[3].startswith("| old | 5 | – |")
    assert "ends within a line" in caplog.text
