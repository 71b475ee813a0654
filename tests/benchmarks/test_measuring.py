"""The file of numbers that the grids of benchmarks share, and their summary."""

import json

import pytest
import scripts

measuring = scripts.benchmark("measuring")


def test_what_is_recorded_is_not_measured_again(tmp_path):
    records = measuring.Records(tmp_path / "numbers.json")
    assert records.get("data", "arm", "0") is None
    assert records.once(lambda: {"accuracy": 0.5}, "data", "arm", "0") == {"accuracy": 0.5}
    assert records.once(lambda: pytest.fail("measured again"), "data", "arm", "0") == {"accuracy": 0.5}
    assert json.loads(records.path.read_text()) == {"data": {"arm": {"0": {"accuracy": 0.5}}}}


def test_two_scripts_add_to_one_file(tmp_path):
    first, second = (measuring.Records(tmp_path / "numbers.json") for _ in range(2))

    def measure():
        second.add(2, "arm", "1")  # while the first one measures
        return 1

    first.once(measure, "arm", "0")
    assert first.get() == second.get() == {"arm": {"0": 1, "1": 2}}


def test_summary_pairs_the_label_seeds():
    arms = {
        "scratch": {"0": {"accuracy": 0.50}, "1": {"accuracy": 0.60}, "2": {"accuracy": 0.70}},
        "pretrained": {"2": {"accuracy": 0.75}, "0": {"accuracy": 0.60}},
    }
    _, _, scratch, pretrained = measuring.summary(arms, "scratch").splitlines()
    assert scratch == "| scratch | 60.0 ± 10.0 | – | 3 |"
    # Differences of 5 and 10 points: their mean, and its t-interval with one degree of freedom, 12.706 · 2.5.
    assert pretrained == "| pretrained | 67.5 ± 10.6 | +7.5 [-24.3, +39.3] | 2 |"


def test_summary_without_the_baseline():
    assert measuring.summary({"arm": {"0": {"accuracy": 0.5}}}, "scratch").splitlines()[-1] == "| arm | 50.0 | – | 1 |"
