"""Two replicas and two workers equal one device, for every objective."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "support" / "strategies.py"
PACKAGE = SCRIPT.parents[2]
pytestmark = [pytest.mark.fit, pytest.mark.budget(900)]  # `replicas` is all of them


def start(mode, out, **environment):
    """Runs tests/support/strategies.py in the folder of its report."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(PACKAGE), str(SCRIPT.parent)]), **environment)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), mode, str(out)],
        env=environment,
        cwd=out.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process):
    _, stderr = process.communicate(timeout=1800)
    assert process.returncode == 0, stderr.decode()[-4000:]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    out = tmp_path_factory.mktemp("replicas") / "report.json"
    finish(start("replicas", out))
    return json.loads(out.read_text())


def test_two_replicas_equal_one(replicas):
    agree(replicas)


@pytest.mark.slow
def test_variants_too(tmp_path):
    finish(start("more", tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    agree(report)
    compiled_agree(report)
    float16_scales(report)
    assert report["local negatives"]["weights"] > 1e-3  # of image_text; of contrastive see below
    assert min(d["difference"] for n, d in report.items() if n.endswith("weights matter")) > 1e-3


def agree(report):
    cases = {n: d for n, d in report.items() if "logs" in d and n != "local negatives"}
    assert cases
    assert sum("held out" in differences for differences in cases.values()) >= 5
    for name, differences in cases.items():
        assert max(differences.values()) <= 1e-5, (name, differences)


def test_negatives_of_one_replica_alone_are_caught(replicas):
    """Checks the test above: it must fail if each replica uses only its own examples as negatives."""
    assert replicas["local negatives"]["weights"] > 1e-4


def test_unequal_weights_were_put_to_the_test(replicas):
    matter = {name: value["difference"] for name, value in replicas.items() if name.endswith("weights matter")}
    assert matter
    assert min(matter.values()) > 1e-3


def test_the_commands_work_on_two_replicas_and_find_the_same(replicas):
    one, two = replicas["flow"]["one"], replicas["flow"]["two"]
    assert one["codes"] == two["codes"] == [0, 0, 0]
    assert min(each["results"][0]["mfu"] for each in (one, two)) > 0
    for key in ("val_loss", "test_loss", "test_mse"):
        assert two["results"][0][key] == pytest.approx(one["results"][0][key], abs=1e-5)
    assert two["results"][1]["test_loss"] == pytest.approx(one["results"][1]["test_loss"], abs=1e-4)
    for row, columns in one["results"][2].items():
        for column, (mean, _) in columns.items():
            # Accuracies on 359 images; an image or two may tip over.
            tolerance = 0.01 if column not in ("RankMe", "feature sd") else 0.01 * mean
            assert two["results"][2][row.replace("one", "two", 1)][column][0] == pytest.approx(mean, abs=tolerance)


def test_metrics_sum_up_to_the_same(replicas):
    sums = replicas["metric sums"]
    assert sums["two"] == pytest.approx(sums["one"], rel=1e-5)
    assert min(sums["one"]) > 0


def test_xla_equals_plain(replicas):
    compiled_agree(replicas)


def compiled_agree(report):
    outcomes = {name: value for name, value in report.items() if name.endswith("xla")}
    assert outcomes
    assert all(outcome["compiled"] for outcome in outcomes.values())
    assert max(outcome["difference"] for outcome in outcomes.values()) <= 1e-5


def test_replicas_share_each_batch(replicas):
    assert replicas["batches"] == [True] * 3


def test_float16_scales_the_loss_under_replicas(replicas):
    float16_scales(replicas)


def float16_scales(report):
    assert report["float16"]
    for name, outcome in report["float16"].items():
        assert 0 < outcome["loss"] < 10
        assert outcome["scale"] == 2.0**118  # two overflows, each halves it
        assert outcome["moved"] == 0
        assert outcome["optimizers"] == (2 if name == "dcgan" else 1)


def run_workers(mode, *outs):
    """Starts two workers, each with its own report."""
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (a, b)]
    workers = [
        start(
            mode,
            out,
            TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}),
        )
        for index, out in enumerate(outs)
    ]
    for process in workers:
        finish(process)


ROUNDED = 0.02  # bfloat16 has eight binary digits
# Two workers and two replicas: whose sums do not depend on what else a process's threads do (those of convolutions do).
TO_THE_LAST_BIT = ("autoencoder", "finetune", "dcgan", "causal_lm", "masked_lm")


@pytest.mark.slow
def test_every_case_gives_the_same_weights_everywhere(tmp_path):
    """Compares one device, two replicas, two workers, two workers with two replicas each, micro-batches, and 16 bits.

    The workers of a run always agree bit for bit.
    """
    for how in ("one", "two", "accumulated", "bfloat16"):
        finish(start(f"all-{how}", tmp_path / f"{how}.npz"))
    for how in ("workers", "two-by-two"):
        run_workers(f"all-{how}", tmp_path / f"{how}.npz", tmp_path / f"{how}, second.npz")
    found = {path.stem: np.load(path) for path in tmp_path.glob("*.npz")}
    pairs = (("two", "one"), ("workers", "two"), ("two-by-two", "one"), ("accumulated", "one"), ("bfloat16", "one"))
    furthest = {}
    for name in found["one"].files:
        for how in ("workers", "two-by-two"):
            assert found[how][name].tobytes() == found[f"{how}, second"][name].tobytes(), name
        apart = furthest.setdefault(name.rpartition("/")[0], {pair: 0.0 for pair in pairs if name in found[pair[0]]})
        for pair in apart:
            a, b = (found[each][name] for each in pair)
            # A loss of hundreds cannot agree to 1e-5; its digits can.
            unit = max(1.0, abs(float(b))) if name.endswith("held out") else 1.0
            apart[pair] = max(apart[pair], float(np.abs(a - b).max(initial=0.0)) / unit)
    print("| | " + " | ".join(f"{a} and {b}" for a, b in pairs) + " |")
    print(
        "\n".join(
            f"| {case} | " + " | ".join(f"{apart[pair]:.1e}" if pair in apart else "refused" for pair in pairs) + " |"
            for case, apart in furthest.items()
        )
    )
    assert len(furthest) > 15
    rounded = [apart.pop(("bfloat16", "one")) for apart in furthest.values()]
    assert max(rounded) <= ROUNDED
    assert min(rounded) > 1e-6  # 16 bit it was
    assert max(max(apart.values()) for apart in furthest.values()) <= 1e-5
    assert sum(("accumulated", "one") in apart for apart in furthest.values()) > 5
    exact = [apart["workers", "two"] for case, apart in furthest.items() if case.partition(",")[0] in TO_THE_LAST_BIT]
    assert len(exact) > 5
    assert not any(exact)


@pytest.mark.slow
def test_the_commands_work_on_two_workers_and_find_the_same(replicas, tmp_path):
    run_workers("commands", tmp_path / "0.json", tmp_path / "1.json")
    first, second = (json.loads((tmp_path / f"{index}.json").read_text())["workers"] for index in range(2))
    assert first == second
    assert first["codes"] == [0, 0, 0]
    ours, theirs = first["results"], replicas["flow"]["two"]["results"]
    for index, key in ((0, "test_loss"), (0, "test_mse"), (1, "test_loss"), (1, "test_accuracy")):
        assert ours[index][key] == pytest.approx(theirs[index][key], abs=1e-5), key
    for row, columns in theirs[2].items():
        for column, (mean, _) in columns.items():
            tolerance = 0.003 if column not in ("RankMe", "feature sd") else 0.01 * mean
            found = ours[2][row.replace("two", "workers", 1)][column][0]
            assert found == pytest.approx(mean, abs=tolerance), (row, column)


def test_two_workers_equal_two_replicas_to_the_last_bit(replicas, tmp_path):
    run_workers("worker", tmp_path / "0.json", tmp_path / "1.json")
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    assert first == second
    two = replicas["two replicas"]
    for name, outcome in first.items():
        if name.startswith("autoencoder"):
            assert outcome == two[name]
            continue
        # Convolutions add in an order that depends on what else the threads do.
        for a, b in zip(outcome["weights"], two[name]["weights"]):
            np.testing.assert_allclose(*(np.frombuffer(bytes.fromhex(w), np.float32) for w in (a, b)), atol=1e-5)
        for key, value in outcome["logs"].items():
            assert value == pytest.approx(two[name]["logs"][key], rel=1e-5)
