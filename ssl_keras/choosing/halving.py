"""Successive halving (Jamieson & Talwalkar 2016, Li et al. 2017 "Hyperband") under a budget of seconds.

All arms start. After each rung the better ones stay, and train longer: the training time of an arm after rung k is
proportional to ηᵏ. So most of the budget goes to few arms, and each rung costs about the same.

Arms are compared after equal time, not equal steps. The steps of a rung follow from the measured speed of each arm and
from the time that is left when the rung starts; they are written down, so that a resumed search takes the same ones.
"""

import logging
import typing

from ssl_keras.choosing.arms import first_sentence

# η and the least number of rungs, which are points of the winner's curve. Later ones start fewer runs, for short
# budgets; the last one trains every arm once.
LAYOUTS = ((2, 4), (3, 4), (3, 3), (4, 2), (8, 2), (0, 1))
MAX_OVERHEAD = 0.4  # fraction of the budget that may go to starting and measuring runs before a later layout is taken
MAX_PILOTS = 0.5  # fraction of the budget after which no further arm is started
MIN_STEPS = 8  # of an arm in the first rung
EVALUATIONS = 2  # held-out evaluations of a run in the first rung
POINT = ("steps", "train_seconds", "score", "RankMe", "loss")  # of a curve
FAILURES = (ValueError, FloatingPointError, MemoryError)  # of one arm, which ends its part and not the search
log = logging.getLogger(__name__)


class Speed(typing.NamedTuple):
    """The cost of an arm's runs."""

    step: float  # seconds
    overhead: float  # seconds to start, evaluate, save and measure a run


def rung_sizes(count, factor, rungs):
    """Returns the number of arms in each of at least `rungs` rungs, such as 9, 5, 3, 2, 1; a factor of 0 has one."""
    sizes = [count]
    while factor and sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // factor))
    more = max(0, rungs - len(sizes))
    return [count] * more + sizes if count <= 3 else sizes + [1] * more


def shares(rungs, factor):
    """Returns the training time that each rung adds to an arm, in units of the first rung's."""
    return [1] + [factor**k - factor ** (k - 1) for k in range(1, rungs)]


def unit(k, sizes, factor, speeds, left):
    """Returns (the seconds of a unit of training time, the seconds of all overheads) from rung `k` on.

    Args:
        sizes: arms in each rung.
        factor: η.
        speeds: [`Speed`] of the arms of rung k; later rungs are assumed to have their mean.
        left: seconds for the rungs that are left.
    """
    mean = sum(each.overhead for each in speeds) / len(speeds)
    overhead = mean * sum(sizes[k:])
    each = shares(len(sizes), factor)
    return (left - overhead) / sum(size * share for size, share in zip(sizes[k:], each[k:])), overhead


def layout(speeds, left):
    """Returns (sizes, factor, seconds of a unit): of the first of `LAYOUTS` with a small overhead, or else the last."""
    for factor, rungs in LAYOUTS:
        sizes = rung_sizes(len(speeds), factor, rungs)
        seconds, overhead = unit(0, sizes, factor, speeds, left)
        if overhead <= MAX_OVERHEAD * left:
            break
    return sizes, factor, seconds


def least_seconds(speeds):
    """Returns the seconds in which the cheapest arm could be trained once."""
    return min(map(cost, speeds))


def cost(speed):
    """Returns the seconds of the shortest run."""
    return speed.overhead + MIN_STEPS * speed.step


class Halving:
    """The search: a plain loop over runs, whose state is a small JSON.

    Args:
        state: `State`, which has the entries "speeds", "dropped", "layout" and "rungs".
        train: function (name, steps, steps between evaluations) that trains a run to `steps`, resuming it, and returns
            its measurements, JSON-serializable, with "seconds" of the call, "step_seconds" of a step (None if too few
            were timed) and "train_seconds" of the whole run.
        score: function of measurements that returns what is compared, larger is better.
        budget: seconds from the start of the command to its end.
        kept: seconds of the budget for what follows the last rung.
    """

    def __init__(self, state, train, score, budget, kept=0.0):
        self.state, self.train, self.score = state, train, score
        self.budget, self.seconds = budget, budget - kept

    def pilots(self, names, pilot):
        """Measures the speed of each arm with `pilot`, a function (name) that returns a `Speed`.

        Arms that fail are dropped, and so are the last ones if the others have taken half of the budget.

        Raises:
            ValueError: every arm fails.
        """
        for place, name in enumerate(names, 1):
            if name in self.state["speeds"] or name in self.state["dropped"]:
                continue
            if self.state["speeds"] and self.state.spent() > MAX_PILOTS * self.seconds:
                self._drop(name, "the arms before it left no time to try it")
                continue
            log.info("measuring the speed of %s, %d of %d", name, place, len(names))
            try:
                self.state["speeds"][name] = list(pilot(name))
            except FAILURES as error:
                self._drop(name, error)
            self.state.save()
        if not self._alive(names):
            reasons = " ".join(f"{name}: {reason}." for name, reason in self.state["dropped"].items())
            raise ValueError(f"No objective can be trained on these data. {reasons} Choose other --data.")

    def run(self, names):
        """Runs the rungs; returns {name: its last measurements, with "rung" and "curve"} of all arms that were trained.

        Raises:
            ValueError: the budget is too short for the first rung.
        """
        if not self.state["layout"]:
            self._lay_out(names)
        names, (sizes, factor) = self._alive(names), (self.state["layout"][key] for key in ("sizes", "factor"))
        for k, size in enumerate(sizes):
            if len(self.state["rungs"]) <= k:
                alive = self._best(k - 1, size) if k else [name for name in names if name in self.state["every"]]
                steps = alive and self._steps(k, sizes, factor, alive)
                if not steps:
                    break
                self.state["rungs"].append({"steps": steps, "measured": {}})
                self.state.save()
            self._rung(k, len(sizes))
        found = self.outcome()
        if not found:
            reasons = " ".join(f"{name}: {reason}." for name, reason in self.state["dropped"].items())
            raise ValueError(f"No objective was trained in this time. {reasons} Use more --minutes.")
        return found

    def outcome(self):
        """Returns what `run` does, of the rungs that have been run."""
        found = {}
        for k, rung in enumerate(self.state["rungs"]):
            for name, measured in rung["measured"].items():
                curve = found.get(name, {}).get("curve", [])
                point = {key: measured[key] for key in POINT if key in measured}
                found[name] = measured | {"rung": k + 1, "curve": [*curve, point]}
        return found

    def _alive(self, names):
        return [name for name in names if name in self.state["speeds"] and name not in self.state["dropped"]]

    def _drop(self, name, error):
        self.state["dropped"][name] = first_sentence(error)
        log.warning("%s is left out: %s", name, self.state["dropped"][name])

    def _left(self):
        return self.seconds - self.state.spent()

    def _lay_out(self, names):
        """Decides on the rungs, and on each arm's steps between evaluations; drops arms that are too slow."""
        names = self._alive(names)
        while names:
            speeds = {name: Speed(*self.state["speeds"][name]) for name in names}
            sizes, factor, seconds = layout(list(speeds.values()), self._left())
            if seconds >= MIN_STEPS * max(speed.step for speed in speeds.values()):
                every = {name: max(1, int(seconds / speeds[name].step) // EVALUATIONS) for name in names}
                self.state["layout"], self.state["every"] = {"sizes": sizes, "factor": factor}, every
                self.state.save()
                return
            if len(names) == 1:
                break
            slowest = max(names, key=lambda name: cost(speeds[name]))
            seconds = cost(speeds[slowest])
            self._drop(
                slowest,
                f"starting it, {MIN_STEPS} steps and measuring take {seconds:.0f} s, more than the budget allows",
            )
            names.remove(slowest)
        least = self.state.spent() + least_seconds([Speed(*each) for each in self.state["speeds"].values()])
        least += self.budget - self.seconds
        raise ValueError(
            f"The budget is too short to compare anything. Expected at least --minutes {least / 60 + 0.1:.1f}, by the "
            f"speeds measured here. Received: {self.budget / 60:g}"
        )

    def _steps(self, k, sizes, factor, names):
        """Returns {name: steps at the end of rung `k`}, multiples of the steps between evaluations; None without time.

        The held-out loss is then evaluated at the same steps in a run of the whole length.
        """
        speeds = {name: Speed(*self.state["speeds"][name]) for name in names}
        seconds, _ = unit(k, [*sizes[:k], len(names), *sizes[k + 1 :]], factor, list(speeds.values()), self._left())
        added = seconds * shares(len(sizes), factor)[k]
        before = self.state["rungs"][-1]["steps"] if k else {}
        steps = {}
        for name in names:
            every = self.state["every"][name]
            steps[name] = before.get(name, 0) + every * round(added / speeds[name].step / every)
        return None if any(steps[name] <= before.get(name, 0) for name in names) else steps

    def _rung(self, k, rungs):
        rung = self.state["rungs"][k]
        for name, steps in rung["steps"].items():
            if name in rung["measured"] or name in self.state["dropped"]:
                continue
            log.info("rung %d of %d: %s, to step %d", k + 1, rungs, name, steps)
            try:
                measured = self.train(name, steps, self.state["every"][name])
                rung["measured"][name] = measured | {"steps": steps, "score": self.score(measured)}
            except FAILURES as error:
                self._drop(name, error)
            else:
                self._learn_speed(k, name)
            self.state.save()
            if name in rung["measured"]:
                minutes = self.state.spent() / 60, self.budget / 60
                log.info("%s: %.4g after %d steps; %.1f of %.1f minutes", name, self.score(measured), steps, *minutes)

    def _learn_speed(self, k, name):
        """Updates the speed of an arm by its last run; all that is not a step counts as overhead."""
        now, before = (self.state["rungs"][each]["measured"].get(name) if each >= 0 else None for each in (k, k - 1))
        step = now["step_seconds"] or self.state["speeds"][name][0]
        added = now["steps"] - (before["steps"] if before else 0)
        self.state["speeds"][name] = [step, max(now["seconds"] - step * added, 0.0)]

    def _best(self, k, size):
        measured = self.state["rungs"][k]["measured"]
        return sorted(measured, key=lambda name: -measured[name]["score"])[:size]
