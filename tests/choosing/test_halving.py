"""Successive halving on arms that only pretend to train: the budget, the survivors, and resuming after a kill."""

import itertools
import json

import pytest

from ssl_keras.choosing import halving
from ssl_keras.choosing.choose import EMPTY
from ssl_keras.choosing.halving import Halving, Speed
from ssl_keras.choosing.state import State

STEP = {"slow": 0.5, "fast": 0.01, "best": 0.1, "other": 0.05, "worst": 0.02, "sixth": 0.04}
LIMIT = {"slow": 0.7, "fast": 0.5, "best": 0.9, "other": 0.6, "worst": 0.2, "sixth": 0.3}
OVERHEAD = 3.0


class Killed(BaseException):
    """What a kill looks like to the loop."""


class World:
    """Arms of a known speed and quality, and a clock that only they move.

    Args:
        kill_at: number of the run, counted from 0, at whose beginning the process is killed; None is never.
    """

    def __init__(self, now=0.0, kill_at=None, slowdown=1.0):
        self.now, self.kill_at, self.slowdown = now, kill_at, slowdown
        self.count, self.trained, self.calls = itertools.count(), {}, []

    def pilot(self, name):
        self.now += 1 + OVERHEAD
        return Speed(STEP[name], OVERHEAD)

    def train(self, name, steps, every):
        if next(self.count) == self.kill_at:
            raise Killed
        assert steps % every == 0
        done = self.trained.get(name, 0)
        seconds = self.slowdown * STEP[name] * (steps - done) + OVERHEAD
        self.now += seconds
        self.trained[name] = steps
        self.calls.append((name, steps))
        quality = LIMIT[name] - 0.5 / (1 + STEP[name] * steps)
        train_seconds = self.slowdown * STEP[name] * steps
        step = self.slowdown * STEP[name]
        times = {"seconds": seconds, "train_seconds": train_seconds, "step_seconds": step}
        return {"probe": [quality], "RankMe": 10 * quality, "loss": 1 - quality, **times}


def search(world, path=None, minutes=10.0, names=tuple(STEP), asked=None, kept=0.0):
    state = State(path, asked or {}, EMPTY, clock=lambda: world.now)
    loop = Halving(state, world.train, lambda measured: measured["probe"][0], 60 * minutes, kept)
    loop.pilots(names, world.pilot)
    return loop.run(names), state


@pytest.mark.parametrize(
    ("minutes", "slowdown", "names"),
    [
        (10, 1.0, tuple(STEP)),
        (30, 1.0, tuple(STEP)),
        (30, 1.3, tuple(STEP)),
        (5, 1.0, ("best", "other")),
        (4, 1.0, ("best",)),
    ],
)
def test_the_plan_adds_up_to_the_budget(minutes, slowdown, names):
    world = World(slowdown=slowdown)
    search(world, minutes=minutes, names=names)
    assert world.now == pytest.approx(60 * minutes, rel=0.1)


def test_the_best_arm_survives_and_gets_most_of_the_time():
    found, state = search(World())
    assert state["layout"]["sizes"] == [6, 3, 2, 1]
    assert max(found, key=lambda name: found[name]["probe"][0]) == "best"
    assert found["best"]["rung"] == 4
    assert {name for name in found if found[name]["rung"] == 1} == {"sixth", "worst", "fast"}
    seconds = {name: measured["train_seconds"] for name, measured in found.items()}
    assert seconds["best"] > 0.3 * sum(seconds.values())
    curve = found["best"]["curve"]
    assert [point["steps"] for point in curve] == sorted({point["steps"] for point in curve})
    for point in curve:
        assert (point["RankMe"], point["loss"]) == pytest.approx((10 * point["score"], 1 - point["score"]))


def test_arms_of_a_rung_train_for_equal_time():
    _, state = search(World(), minutes=60)
    for rung in state["rungs"]:
        times = [measured["train_seconds"] for measured in rung["measured"].values()]
        assert max(times) == pytest.approx(min(times), rel=0.25)


def test_a_search_that_is_killed_at_any_run_ends_like_one_that_is_not(tmp_path):
    whole = World()
    expected, _ = search(whole, tmp_path / "whole.json")
    for kill_at in range(len(whole.calls)):
        path = tmp_path / f"{kill_at}.json"
        first = World(kill_at=kill_at)
        with pytest.raises(Killed):
            search(first, path)
        assert json.loads(path.read_text())["spent"] <= first.now
        second = World(now=1000.0)
        second.trained = dict(first.trained)
        found, state = search(second, path)
        assert found == expected, kill_at
        assert first.calls + second.calls == whole.calls
        assert state.spent() == pytest.approx(whole.now)


def test_an_arm_that_fails_is_left_out_and_the_others_go_on():
    world, train, pilot = World(), World.train, World.pilot

    def failing(name, steps, every):
        if name == "best":
            raise FloatingPointError("The loss is not finite at step 7. Lower the rate.")
        return train(world, name, steps, every)

    def failing_pilot(name):
        if name == "slow":
            raise MemoryError("out of memory")
        return pilot(world, name)

    world.train, world.pilot = failing, failing_pilot
    found, state = search(world)
    assert state["dropped"] == {"slow": "out of memory", "best": "The loss is not finite at step 7"}
    assert max(found, key=lambda name: found[name]["probe"][0]) == "other"


def test_arms_that_are_too_slow_are_left_out():
    STEP_OF = dict(STEP)
    try:
        STEP["slow"] = 50.0
        _, state = search(World())
    finally:
        STEP.update(STEP_OF)
    assert list(state["dropped"]) == ["slow"]
    assert "8 steps and measuring take 403 s" in state["dropped"]["slow"]


def test_the_last_arms_are_not_tried_if_the_first_ones_take_half_of_the_time():
    found, state = search(World(), minutes=0.6)
    assert len(state["speeds"]) == 5
    assert state["dropped"].pop("sixth") == "the arms before it left no time to try it"
    assert found


@pytest.mark.parametrize("kept", [0.0, 60.0])
def test_a_budget_that_is_too_short_names_the_least_one(kept):
    words = r"Expected at least --minutes \d+\.\d, by the speeds measured here\. Received: 0\.1$"
    with pytest.raises(ValueError, match=words) as caught:
        search(World(), minutes=0.1, kept=kept)
    least = float(str(caught.value).split("--minutes ")[1].split(",")[0])
    assert least > 0.1 + kept / 60
    found, _ = search(World(), minutes=least, kept=kept)
    assert found


def test_layouts_of_rungs():
    assert halving.rung_sizes(9, 2, 4) == [9, 5, 3, 2, 1]
    assert halving.rung_sizes(10, 3, 4) == [10, 4, 2, 1]
    assert halving.rung_sizes(3, 2, 4) == [3, 3, 2, 1]
    assert halving.rung_sizes(1, 2, 4) == [1, 1, 1, 1]
    assert halving.rung_sizes(9, 0, 1) == [9]
    assert halving.shares(5, 2) == [1, 1, 2, 4, 8]
    speeds = [Speed(0.1, 10.0)] * 9
    assert halving.layout(speeds, 1600.0)[0] == [9, 5, 3, 2, 1]  # 200 s of overhead
    assert halving.layout(speeds, 150.0)[0] == [9]


def test_a_state_of_another_search_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "search.json"
    search(World(), path, asked={"data": "digits", "minutes": 10})
    with pytest.raises(ValueError, match="has a search that differs in minutes. Add --overwrite"):
        search(World(), path, asked={"data": "digits", "minutes": 20})
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"search\.json is damaged"):
        search(World(), path)
