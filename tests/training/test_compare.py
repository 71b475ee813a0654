"""The table that compares runs, including damaged ones."""

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


def test_nan_is_not_the_best_loss_of_an_unfinished_run(tmp_path):
    add(tmp_path, "a", "step,val_loss\n5,nan\n10,0.5\n15,0.4\n20,inf\n")
    add(tmp_path, "b", "step,val_loss\n5,nan\n")
    found = rows(compare(tmp_path))
    assert found["a"][:3] == ["20 (unfinished)", "0.4", "15"]
    assert found["b"][:3] == ["5 (unfinished)", "–", "–"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"settings": "[]"}, "its settings.json was not written by a run"),
        ({"settings": '{"mine": 1}'}, "its settings.json was not written by a run"),
        ({"settings": '{"kind": '}, "JSONDecodeError"),
        ({"metrics": "step,val_loss\n"}, "its metrics.csv has no rows"),
        ({"metrics": "mine\n1\n"}, "KeyError"),
        ({"metrics": "step,val_loss\n5,x\n"}, "could not convert"),
        ({"summary": "{"}, "JSONDecodeError"),
    ],
)
def test_unreadable_runs_are_skipped_with_a_warning(files, reason, tmp_path, caplog):
    whole = "step,val_loss\n5,1.0\n"
    add(tmp_path, "whole", whole)
    add(tmp_path, "odd", **{"metrics": whole} | files)
    assert list(rows(compare(tmp_path))) == ["whole"]
    assert f"Skipping {tmp_path / 'odd'}: " in caplog.text
    assert reason in caplog.text


def test_special_names_and_incomplete_lines_do_not_break_the_table(tmp_path, caplog):
    add(tmp_path, "a|b", "step,val_loss\n5,1.0\n10,0.")
    add(tmp_path, "old", "", json.dumps({"step": 5, "best_val_loss": float("nan")}))
    lines = compare(tmp_path).splitlines()
    assert lines[2].startswith("| a\\|b | 5 (unfinished) | 1 | 5 |")
    assert lines[3].startswith("| old | 5 | – |")
    assert "its last line is incomplete" in caplog.text
