"""The order of rows with and without labels, and the recommendation of each kind of winner."""

import pytest

from ssl_keras.choosing import ranking
from ssl_keras.choosing.choose import Question

QUESTION = Question("folder:my images", 32)
COMMAND = ["ssl-keras", "pretrain", "rotation", "--steps", "7"]


def arm(*probe, **more):
    return {"probe": list(probe), "kNN": [0.5], "curve": [], **more}


def baseline(kind, *probe, **more):
    return {"probe": list(probe), "kind": kind, "from": "", **more}


def test_rows_are_ranked_by_the_probe_then_by_the_neighbors():
    arms = {"a": arm(0.6, 0.8), "b": arm(0.7, 0.7, kNN=[0.6]), "c": arm(0.2, 0.3)}
    rows = ranking.rank(arms, {"pixels": baseline("features", 0.9, 0.9)}, 5)
    assert [row["row"] for row in rows] == ["pixels", "b", "a", "c"]
    assert rows[0]["behind"] is None
    assert rows[3]["behind"]["mean"] == pytest.approx(0.65)


def test_rows_with_fewer_label_seeds_are_compared_on_those_they_share():
    rows = ranking.rank({"a": arm(0.9, 0.8, 0.1)}, {"scratch": baseline("scratch", 0.95, 0.9)}, 5)
    assert [row["row"] for row in rows] == ["scratch", "a"]
    assert rows[1]["behind"]["mean"] == pytest.approx(0.075)


def test_without_labels_only_arms_are_ranked():
    arms = {"a": {"LiDAR": 5.0, "curve": []}, "b": {"LiDAR": 7.0, "curve": []}}
    rows = ranking.rank(arms, {"random init": {"LiDAR": 90.0, "kind": "random"}, "TF-IDF": {"kind": "features"}}, 0)
    assert [row["row"] for row in rows] == ["b", "a", "random init", "TF-IDF"]
    assert "weak evidence" in " ".join(ranking.recommendation(rows, QUESTION, 0, COMMAND))


def test_rows_that_cannot_be_told_apart_are_named():
    arms = {"a": arm(0.9, 0.7, 0.8), "b": arm(0.7, 0.9, 0.7), "c": arm(0.3, 0.1, 0.2)}
    rows = ranking.rank(arms, {}, 5)
    assert ranking.equals(rows) == ["b"]
    assert "cannot tell a from: b. The" in " ".join(ranking.recommendation(rows, QUESTION, 5, COMMAND))


def test_what_needs_no_pretraining_comes_first_among_equals():
    arms, scratch = {"a": arm(1.0, 1.0), "b": arm(1.0, 0.9)}, {"scratch": baseline("scratch", 1.0)}
    rows = ranking.rank(arms, scratch, 5)
    assert [row["row"] for row in rows] == ["scratch", "a", "b"]
    assert ranking.equals(rows) == ["a", "b"]  # on the one draw that they share
    assert ranking.equals(ranking.rank(arms, {"scratch": baseline("scratch", 0.9)}, 5)) == ["b"]


def test_arms_that_were_left_out_are_named():
    rows = ranking.rank({"a": arm(0.9, 0.7)}, {}, 5)
    said = ranking.recommendation(rows, QUESTION, 5, COMMAND, {"b": "too slow", "a": "failed later", "c": "too slow"})
    assert "Only 1 of 3 arms were trained" in said[-1]
    assert "Left out: b, c." in said[-1]


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("features", {}, "a linear classifier on them needs no network"),
        ("random", {}, "better than the untrained network"),
        ("scratch", {}, "alone in this time, from random weights."),
        (
            "scratch",
            {"from": "out/encoder"},
            "ssl-keras finetune out/encoder --data 'folder:my images' --image-size 32 --labels-per-class 5 --scratch",
        ),
        ("encoder", {"from": "vit"}, "ssl-keras finetune vit --data 'folder:my images' --image-size 32"),
    ],
)
def test_a_baseline_that_wins_is_the_recommendation(kind, more, words):
    rows = ranking.rank({"a": arm(0.5, 0.4)}, {"winner": baseline(kind, 0.9, 0.9) | more}, 5)
    said = ranking.recommendation(rows, QUESTION, 5, COMMAND)
    assert words in " ".join(said)
    assert "The best of what was pretrained is a:" in said
    assert "ssl-keras pretrain rotation --steps 7" in said
