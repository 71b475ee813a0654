"""The command `choose`: bad input before any training, and whole searches that are killed and resumed."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from ssl_keras import encoders, files
from ssl_keras.choosing import arms, choose, report
from ssl_keras.choosing.runs import Runs
from ssl_keras.cli import main

EVIL = "<script>alert(1)</script>"
SMALL = (
    arms.Arm("small", "autoencoder", {"widths": (16, 8)}),
    arms.Arm("noisy", "autoencoder", {"widths": (16, 8), "masking_noise": 0.3}),
)


def write_images(folder, rng, classes=("bars", "dots"), count=40):
    """Writes images of bars and of dots."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 80, (12, 12), np.uint8)
            if name == classes[0]:
                image[:, number % 12] = 255
            else:
                image[number % 12, (3 * number) % 12] = 255
            Image.fromarray(image).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


@pytest.fixture
def images(tmp_path, rng):
    return write_images(tmp_path / "images", rng)


def refused(capsys, *words):
    """Runs `choose`, which must fail with one line on stderr; returns it."""
    capsys.readouterr()
    assert main(["choose", *words]) == 1
    shown = capsys.readouterr().err.splitlines()
    errors = [line for line in shown if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_a_budget_that_is_too_short_names_the_least(images, capsys):
    assert "The budget is too short. Expected at least --minutes 2." in refused(
        capsys, "--data", images, "--minutes", "0.1"
    )


def test_labels_that_are_not_there_are_refused(tmp_path, rng, capsys):
    (tmp_path / "bare").mkdir()
    for number in range(20):
        Image.fromarray(rng.integers(0, 255, (12, 12), np.uint8)).save(tmp_path / "bare" / f"{number}.png")
    shown = refused(capsys, "--data", f"folder:{tmp_path}/bare", "--labels-per-class", "5")
    assert "has no labels. Expected a column 'label'" in shown


def test_one_class_is_refused(tmp_path, rng, capsys):
    data = write_images(tmp_path / "one", rng, ("bars",))
    shown = refused(capsys, "--data", data)
    assert "Expected at least two classes" in shown
    assert "use --labels-per-class 0" in shown


def test_more_labels_than_there_are_are_refused(images, capsys):
    assert "has too few examples. Expected at least 500" in refused(
        capsys, "--data", images, "--labels-per-class", "500"
    )


def test_encoders_that_are_unknown_or_of_other_data_are_refused(images, capsys):
    assert "Unknown encoder 'nothing'" in refused(capsys, "--data", images, "--encoder", "nothing")
    assert "takes text" in refused(capsys, "--data", images, "--encoder", "masked_lm-trec")


def test_folders_of_something_else_are_refused(images, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert "is not empty, and is not a search" in refused(capsys, "--data", images, "--out", str(tmp_path / "full"))
    (tmp_path / "done").mkdir()
    files.write_json(tmp_path / "done" / choose.CHOICE, {})
    assert "has a finished choice. Add --overwrite" in refused(
        capsys, "--data", images, "--out", str(tmp_path / "done")
    )


def test_overwriting_replaces_another_search_but_resumes_the_same_one(tmp_path):
    asked = {"data": "digits", "seed": 3, "arms": [["small", "rotation", {}]]}
    state = choose._state(tmp_path, asked, 3.0, False, None)
    state["speeds"]["small"] = [0.1, 2.0]
    state.save()
    assert choose._state(tmp_path, asked, 3.0, True, None)["speeds"] == {"small": [0.1, 2.0]}
    for name in ("small", "pilot-small", "mine"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="Add --overwrite to replace it"):
        choose._state(tmp_path, asked | {"seed": 9}, 3.0, False, None)
    assert choose._state(tmp_path, asked | {"seed": 9}, 3.0, True, None)["speeds"] == {}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_more_minutes_bring_back_what_there_was_no_time_for(tmp_path):
    asked = {"data": "digits", "seed": 3, "arms": [["small", "rotation", {}]]}
    state = choose._state(tmp_path, asked, 2.0, False, None)
    state["speeds"]["small"], state["dropped"]["slow"], state["layout"] = [0.1, 2.0], "no time", {"sizes": [1]}
    state.before = 100.0
    state.save()
    again = choose._state(tmp_path, asked, 2.0, False, None)
    assert (again["dropped"], again["layout"], again.spent() > 100) == ({"slow": "no time"}, {"sizes": [1]}, True)
    longer = choose._state(tmp_path, asked, 9.0, False, None)
    assert (longer["dropped"], longer["layout"], longer.spent() < 100) == ({}, {}, True)
    assert longer["speeds"] == {"small": [0.1, 2.0]}  # they are known
    longer["rungs"].append({"steps": {}, "measured": {}})
    longer.save()
    with pytest.raises(ValueError, match=r"with --minutes 9 that has begun to train. Received: 5. Resume it"):
        choose._state(tmp_path, asked, 5.0, False, None)
    assert choose._state(tmp_path, asked, 5.0, True, None)["rungs"] == []


def choice_of(winner, kind, behind=None):
    """A choice as it is written, with names from the data that must be escaped."""
    rows = [
        {"row": winner, "kind": kind, "ranked": True, "score": 0.9, "probe": [0.9, 0.9], "behind": None},
        {"row": EVIL, "kind": "arm", "ranked": True, "score": 0.5, "probe": [0.5, 0.5], "behind": behind, "steps": 7},
    ]
    return {
        "data": EVIL,
        "labels_per_class": 5,
        "label_seeds": 2,
        "minutes": 3.0,
        "seconds": 170.0,
        "rows": rows,
        "recommendation": [EVIL],
        "command": ["ssl-keras", "pretrain", EVIL],
        "expectation": EVIL,
        "curves": {EVIL: [{"train_seconds": 1.0, "score": 0.5, "steps": 7, "RankMe": 3.0, "loss": 0.0}]},
        "not_tried": {EVIL: EVIL},
        "failed": {},
        "layout": {"sizes": [1], "factor": 2},
        "look": {"table": [["", "train"], [EVIL, "7"]], "notes": [EVIL]},
    }


def test_the_page_escapes_what_comes_from_the_data(tmp_path):
    report.write_page(tmp_path / "page.html", choice_of("pixels", "features"))
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") >= 9
    assert "data:image/png;base64" in text


def test_the_picture_has_the_probe_the_rank_and_the_relative_loss():
    choice = choice_of("pixels", "features")
    choice["rows"].append({"row": "random init", "kind": "random", "ranked": False, "RankMe": 12.0})
    points = [{"train_seconds": 1.0, "score": 0.5, "steps": 7, "RankMe": 3.0, "loss": 0.8}]
    points.append({"train_seconds": 2.0, "score": 0.75, "steps": 14, "RankMe": 6.0, "loss": 0.2})
    choice["curves"] = {"arm": points}
    panels = report.plot(choice).axes
    assert [panel.get_title() for panel in panels] == ["probe, %", "RankMe", "held-out loss, relative to the first"]
    drawn = [[list(line.get_ydata()) for line in panel.lines] for panel in panels]
    assert drawn == [[[50.0, 75.0], [90.0, 90.0]], [[3.0, 6.0], [12.0, 12.0]], [[1.0, 0.25]]]
    assert list(panels[0].lines[0].get_xdata()) == [1.0, 2.0]


def test_the_table_leaves_out_what_no_row_has():
    header, *rows = report.table(choice_of("pixels", "features", {"mean": 0.4, "interval": (0.1, 0.7)}))
    assert header == ["", "probe, %", "behind, points", "steps"]
    assert rows[0] == ["pixels", "90.0 ± 0.0", "–", "–"]
    assert rows[1][2] == "40.0 [10.0, 70.0]"


@pytest.mark.slow
def test_a_search_of_images_that_is_killed_resumes_and_its_command_repeats_the_run(
    images, tmp_path, monkeypatch, capsys
):
    """Bad input and the loop itself are in `make test`: the tests above, and `test_halving.py`."""
    monkeypatch.setitem(arms.ARMS, "image", SMALL)
    monkeypatch.setattr(choose, "ARM_SECONDS", 1)
    words = ["choose", "--data", images, "--minutes", "3", "--labels-per-class", "4", "--label-seeds", "2"]
    words += ["--out", str(tmp_path / "out"), "--encoder", "autoencoder-fashion_mnist"]
    train, count = Runs.train, iter(range(100))

    def killed(self, *arguments):
        if next(count) == 1:
            raise KeyboardInterrupt
        return train(self, *arguments)

    monkeypatch.setattr(Runs, "train", killed)
    assert main(words) == 130
    before = json.loads((tmp_path / "out" / "search.json").read_text())
    assert len(before["rungs"][0]["measured"]) == 1
    assert main(words) == 0
    after = json.loads((tmp_path / "out" / "search.json").read_text())
    assert after["rungs"][0]["steps"] == before["rungs"][0]["steps"]
    choice = json.loads((tmp_path / "out" / "choice.json").read_text())
    rows = {row["row"]: row for row in choice["rows"]}
    assert {"small", "noisy", "pixels", "random init", "scratch", "autoencoder-fashion_mnist"} == set(rows)
    assert choice["rows"][0]["score"] == max(row["score"] for row in rows.values())
    assert choice["seconds"] <= 1.15 * 180
    assert (tmp_path / "out" / "choice.html").is_file()
    assert not list((tmp_path / "out" / "runs").glob("pilot-*"))
    assert encoders.load_encoder(choice["encoder"]).output_shape == (None, 8)

    command = choice["command"]
    assert shlex.join(command) in capsys.readouterr().out
    assert main(command[1:]) == 0
    steps = rows[choice["best_arm"]]["steps"]
    ends = [tmp_path / "out" / "runs" / choice["best_arm"], tmp_path / "runs" / f"chosen-{choice['best_arm']}"]
    first, second = (_last_weights(folder, steps) for folder in ends)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=1e-4, err_msg=name)


def _last_weights(folder, steps):
    from safetensors.numpy import load_file

    found = load_file(folder / "checkpoints" / f"step-{steps:010d}.safetensors")
    return {name: value for name, value in found.items() if "encoder" in name and "optimizer" not in name}


@pytest.mark.slow
def test_texts_without_labels(tmp_path, monkeypatch, capsys):
    """Images with labels are in the test above; the loop is in `make test` as `test_halving.py`."""
    monkeypatch.setitem(
        arms.ARMS,
        "text",
        (arms.Arm("tiny", "masked_lm", {"layers": 1, "width": 16, "heads": 2, "vocabulary": 200, "context": 32}),),
    )
    monkeypatch.setattr(choose, "ARM_SECONDS", 1)
    lines = [
        f"{who} {does} the {what} {n}"
        for n in range(30)
        for who in ("she", "he")
        for does in ("sees", "has")
        for what in ("dog", "cat")
    ]
    (tmp_path / "texts.csv").write_text("\n".join(["text", *lines]) + "\n")
    data = f"table:{tmp_path}/texts.csv"
    assert main(["choose", "--data", data, "--minutes", "2", "--out", str(tmp_path / "out")]) == 0
    choice = json.loads((tmp_path / "out" / "choice.json").read_text())
    assert choice["winner"] == "tiny"
    assert choice["labels_per_class"] == 0
    assert choice["rows"][0]["LiDAR"] > 0
    assert "weak evidence" in capsys.readouterr().out
