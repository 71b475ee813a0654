"""Several workers: they match two replicas, recover from kills, and report what is wrong."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import kills
import numpy as np
import pytest
import safetensors.numpy
import yaml

from ssl_keras.files import locks
from ssl_keras.training import launch, workers
from ssl_keras.training.strategy import strategy

PACKAGE = pathlib.Path(__file__).parents[2]
RUN = [
    "pretrain",
    "autoencoder",
    "--data",
    "digits",
    "--steps",
    "60",
    "--batch-size",
    "64",
    "--eval-every",
    "20",
    "--steps-per-execution",
    "2",
    "--report-every",
    "0",
]


def command(folder, *arguments, **environment):
    """Starts `ssl-keras` in the folder."""
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_keras", *arguments],
        cwd=folder,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ended(process, code=0):
    said, _ = process.communicate(timeout=900)
    assert process.returncode == code, said[-4000:]
    return said


def state(folder):
    """Returns the bytes of a run's last checkpoint and its metrics."""
    run = folder / "runs" / kills.NAME
    last = sorted((run / "checkpoints").glob("step-*.safetensors"))[-1]
    tensors = safetensors.numpy.load_file(last)
    return {name: array.tobytes() for name, array in tensors.items()} | {"csv": (run / "metrics.csv").read_bytes()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The final state of a run on two replicas in one process."""
    folder = tmp_path_factory.mktemp("replicas")
    ended(command(folder, *RUN, "--strategy", "mirrored", "--replicas", "2"))
    return state(folder)


@pytest.mark.slow
def test_two_workers_equal_two_replicas_to_the_last_bit(undisturbed, tmp_path):
    ended(command(tmp_path, "launch", "--workers", "2", *RUN))
    assert state(tmp_path) == undisturbed
    run = tmp_path / "runs" / kills.NAME
    assert len(list((run / "tensorboard").glob("events*"))) == 1  # the chief's
    assert (run / "encoder" / "card.json").exists()
    assert json.loads((run / "summary.json").read_text())["step"] == 60


@pytest.mark.slow
def test_four_workers_equal_four_replicas_to_the_last_bit(tmp_path):
    ended(command(tmp_path / "replicas", *RUN, "--strategy", "mirrored", "--replicas", "4"))
    ended(command(tmp_path / "workers", "launch", "--workers", "4", *RUN))
    assert state(tmp_path / "workers") == state(tmp_path / "replicas")


@pytest.mark.slow
def test_sigterm_saves_on_all_workers_and_the_run_resumes(undisturbed, tmp_path):
    process = command(tmp_path, "launch", "--workers", "2", *RUN)
    kills.wait_for(process, kills.reached, tmp_path, 20)
    assert kills.newest(tmp_path) == 20
    process.send_signal(signal.SIGTERM)
    said = ended(process, 128 + signal.SIGTERM)
    assert "Saved" in said
    ended(command(tmp_path, "launch", "--workers", "2", *RUN, "--resume"))
    ours = state(tmp_path)
    # Resuming inside an interval redistributes the metrics' sums over replicas, which may change their last digit.
    summed = {name for name in undisturbed if name == "csv" or name.startswith("metrics/")}
    assert {name: ours[name] for name in ours.keys() - summed} == {
        name: undisturbed[name] for name in undisturbed.keys() - summed
    }
    rows, others = (np.genfromtxt(each["csv"].decode().splitlines()[1:], delimiter=",") for each in (ours, undisturbed))
    np.testing.assert_allclose(rows, others, rtol=1e-6)


@pytest.mark.slow
def test_one_process_resumes_the_run_of_two_workers(tmp_path):
    ended(command(tmp_path, "launch", "--workers", "2", *RUN))
    whole = state(tmp_path)
    run = tmp_path / "runs" / kills.NAME
    (run / "checkpoints" / "step-0000000060.safetensors").unlink()
    ended(command(tmp_path, *RUN, "--resume"))
    ours = state(tmp_path)
    assert ours.keys() == whole.keys()
    for name in whole.keys() - {"csv"}:
        if name.startswith("weights"):
            a, b = (np.frombuffer(x[name], np.float32) for x in (ours, whole))
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_full_disk_stops_all_workers_and_leaves_the_last_checkpoint(undisturbed, tmp_path):
    writers = os.pathsep.join([str(kills.HERE / "writers"), os.environ.get("PYTHONPATH", "")])
    both = ["launch", "--workers", "2", *RUN]
    process = command(tmp_path, *both, PYTHONPATH=f"{PACKAGE}{os.pathsep}{writers}", TEST_WRITER="full disk")
    assert "No space left on device" in ended(process, 1)
    assert kills.newest(tmp_path) == 20
    assert not kills.partial(tmp_path)
    ended(command(tmp_path, *both, "--resume"))
    assert state(tmp_path) == undisturbed


def each_with(folder, *flags):
    """Starts the workers of one run, each with its own flags."""
    addresses = launch._addresses(len(flags))
    return [
        command(
            folder,
            *RUN,
            "--strategy",
            "multi_worker",
            *own,
            TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}),
        )
        for index, own in enumerate(flags)
    ]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that has ended, with its last two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    ended(command(folder, *RUN, "--strategy", "one"))
    return folder / "runs"


def spoil(checkpoints, how):
    newest = sorted(checkpoints.glob("step-*.safetensors"))[-1]
    content = bytearray(newest.read_bytes())
    if how == "missing":
        newest.unlink()
    elif how == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        content[-9] ^= 1
        newest.write_bytes(content)
    elif how == "all missing":
        for path in checkpoints.iterdir():
            path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "truncated", "flipped", "all missing"])
@pytest.mark.parametrize("where", [0, 1])
def test_workers_that_see_different_checkpoints_are_refused(how, where, stopped, tmp_path):
    for index in range(2):
        shutil.copytree(stopped, tmp_path / str(index))
    spoil(tmp_path / str(where) / kills.NAME / "checkpoints", how)
    for process in each_with(tmp_path, ["--resume", "--runs", "0"], ["--resume", "--runs", "1"]):
        assert "do not have the same newest checkpoint" in ended(process, 1)


@pytest.mark.slow
def test_damaged_settings_are_reported(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "runs")
    path = tmp_path / "runs" / kills.NAME / "settings.json"
    path.write_text(path.read_text()[:100])
    assert "settings.json is damaged" in ended(command(tmp_path, *RUN, "--resume"), 1)


@pytest.mark.slow
def test_incomplete_metrics_lose_only_their_last_row(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "runs")
    run = tmp_path / "runs" / kills.NAME
    whole = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(whole[: whole.index("\n40,") + 9])
    (run / "checkpoints" / "step-0000000060.safetensors").unlink()
    said = ended(command(tmp_path, *RUN, "--resume"))
    assert "metrics.csv is damaged" in said
    assert (run / "metrics.csv").read_text().splitlines()[-1] == whole.splitlines()[-1]


@pytest.mark.slow
def test_missing_worker_is_named(tmp_path):
    config = {"cluster": {"worker": launch._addresses(2)}, "task": {"type": "worker", "index": 0}}
    process = command(tmp_path, *RUN, "--strategy", "multi_worker", TF_CONFIG=json.dumps(config), SSL_KERAS_WAIT="3")
    said = ended(process, workers.EXIT_ALONE)
    assert f"worker 1 ({config['cluster']['worker'][1]})" in said


@pytest.mark.slow
def test_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = {"cluster": {"worker": [address, "127.0.0.1:9"]}, "task": {"type": "worker", "index": 0}}
        said = ended(command(tmp_path, *RUN, "--strategy", "multi_worker", TF_CONFIG=json.dumps(config)), 1)
    assert f"cannot use port {address.partition(':')[2]}" in said


@pytest.mark.slow
def test_workers_with_different_settings_are_refused(tmp_path):
    for process in each_with(tmp_path, ["--learning-rate", "0.001"], ["--learning-rate", "0.002"]):
        assert "do not have the same settings and data" in ended(process, 1)


@pytest.mark.slow
def test_all_workers_stop_if_the_chief_refuses_the_folder(tmp_path):
    """The chief refuses a folder that is not a run's, and a folder that another run uses."""
    (tmp_path / "runs" / kills.NAME).mkdir(parents=True)
    (tmp_path / "runs" / kills.NAME / "metrics.csv").write_text("mine")
    chief, other = (ended(process, 1) for process in each_with(tmp_path, [], []))
    assert "was not made by a run" in chief
    assert "Another worker refused the run" in other
    (tmp_path / "runs" / kills.NAME / "metrics.csv").unlink()
    with locks.alone_in(tmp_path / "runs" / kills.NAME):
        chief, other = (ended(process, 1) for process in each_with(tmp_path, [], []))
    assert "is in use by another run" in chief
    assert "Another worker refused the run" in other


@pytest.mark.slow
def test_second_process_is_refused_while_the_first_exists(tmp_path):
    """This includes a first process that is stopped (SIGSTOP). Once it is killed, the folder is free."""
    first = command(tmp_path, *RUN, "--steps", "20000", "--eval-every", "20000")
    folder = tmp_path / "runs" / kills.NAME
    while not (folder / "settings.json").exists():
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGSTOP)
    for flags in ([], ["--resume"], ["--seed", "1"]):
        assert f"is in use by another run: process {first.pid} on" in ended(command(tmp_path, *RUN, *flags), 1)
    first.kill()
    first.communicate()
    assert (folder / ".lock").exists()
    ended(command(tmp_path, *RUN))
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "not valid"),
        ("[]", "not valid"),
        ("[" * 10**5, "not valid"),
        ('{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}', "not valid"),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "addresses must be lists"),
        ('{"cluster": {"worker": [1]}, "task": {"type": "worker", "index": 0}}', "addresses must be lists"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1e400}}',
            "index must be an integer",
        ),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": true}}', "index must be an integer"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": ["worker"], "index": 0}}', "not valid"),
        ('{"cluster": {"worker": ["a:²"]}, "task": {"type": "worker", "index": 0}}', "no port"),
        ('{"cluster": {"worker": ["a:1"]}}', "not valid"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "index 1"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "no port"),
        ('{"cluster": {"worker": ["a:65536"]}, "task": {"type": "worker", "index": 0}}', "no port"),
        ('{"cluster": {"worker": ["a:0"]}, "task": {"type": "worker", "index": 0}}', "no port"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "twice"),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:2"]}, "task": {"type": "worker", "index": 0}}',
            "supported: ps",
        ),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "not valid"),
    ],
)
def test_a_bad_cluster_is_refused(config, reason, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=reason):
        strategy("multi_worker")


def test_no_cluster_is_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    with pytest.raises(ValueError, match="needs TF_CONFIG or Slurm"):
        strategy("multi_worker")
    with pytest.raises(ValueError, match="replicas=2"):
        strategy("multi_worker", 2)


@pytest.mark.parametrize(
    "variables", [{"SLURM_PROCID": "x"}, {"SLURM_PROCID": "1"}, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "two"}]
)
def test_invalid_slurm_variables_are_refused(variables, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Slurm's variables .* do not describe a cluster: "):
        workers.cluster()


def test_cluster_is_read_from_slurm(monkeypatch):
    for name, value in {
        "SLURM_PROCID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    resolver = workers.cluster()
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
    assert len(resolver.cluster_spec().as_dict()["worker"]) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Received: none"),
        (["embed", "x"], "Received: embed"),
        (["pretrain", "autoencoder", "--strategy", "one"], "--strategy"),
        (["pretrain", "autoencoder", "--replicas=2"], "--replicas"),
    ],
)
def test_invalid_launch_arguments_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        launch.launch(launch.Launch(), arguments)


def test_cluster_files_are_valid():
    cluster = PACKAGE / "docs" / "cluster"
    subprocess.run(["bash", "-n", str(cluster / "slurm.sh")], check=True)
    policy, service, job = yaml.safe_load_all((cluster / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    workers_alone = {"podSelector": {"matchLabels": service["spec"]["selector"]}}
    assert policy["spec"] == workers_alone | {"policyTypes": ["Ingress"], "ingress": [{"from": [workers_alone]}]}
    assert service["metadata"]["name"] == pod["subdomain"]
    script = pod["containers"][0]["args"][0]
    # The shell expands the script to a valid TF_CONFIG and an existing command.
    shown = script.replace("exec ssl-keras", 'printf "%s\\n" "$TF_CONFIG"')
    config = subprocess.run(
        ["/bin/sh", "-c", shown], check=True, capture_output=True, text=True, env={"JOB_COMPLETION_INDEX": "3"}
    ).stdout.partition("\npretrain")[0]
    workers._check(config)
    found = json.loads(config)
    assert found["task"]["index"] == 3
    assert len(found["cluster"]["worker"]) == job["spec"]["completions"]


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers must be"):
        launch.Launch(workers=0)
    with pytest.raises(ValueError, match="restarts"):
        launch.Launch(restarts=-1)


@pytest.mark.slow
def test_fifty_kills_leave_no_trace(tmp_path):
    """Weights, optimizer, metrics and metrics.csv equal those of an undisturbed run to the last bit."""
    count = int(os.environ.get("KILLS", "50"))
    process = kills.start(tmp_path / "killed", count)
    done = kills.kill(process, tmp_path / "killed", count)
    log = tmp_path / "killed" / "log"
    assert process.wait(timeout=900) == 0, log.read_text()[-4000:]
    assert "Skipping a checkpoint" not in log.read_text()
    assert sum(each.progress for each in done) >= 0.8 * count
    assert sum(each.writing for each in done) >= 0.2 * count
    assert {each.kind for each in done} == set(kills.KINDS)
    ended(
        command(
            tmp_path / "calm",
            *kills.RUN,
            "--steps",
            str(kills.steps(count)),
            "--strategy",
            "mirrored",
            "--replicas",
            "2",
        )
    )
    assert state(tmp_path / "killed") == state(tmp_path / "calm")


@pytest.mark.slow
def test_non_atomic_writer_is_detected(tmp_path):
    """Checks the test above: it must fail if checkpoints are not written atomically."""
    process = kills.start(tmp_path, 1, writer="in place")
    folder = tmp_path / "runs" / kills.NAME / "checkpoints"
    chief, _ = kills.wait_for(process, kills.both, process)
    kills.wait_for(process, lambda: (folder / "step-0000000020.safetensors").exists(), pause=0.001)
    os.kill(chief, signal.SIGKILL)
    process.wait(timeout=900)
    assert "Skipping a checkpoint" in (tmp_path / "log").read_text()


class Processes:
    """A stand-in for workers that returns the given exit codes, one for each start."""

    def __init__(self, *codes):
        self.codes, self.starts = list(codes), []

    def __call__(self, count, arguments, popen_arguments):
        self.starts.append(list(arguments))
        return self.codes.pop(0)


@pytest.mark.parametrize(
    ("codes", "outcome", "starts"),
    [
        ((0,), 0, 1),
        ((137, 0), 0, 2),
        ((137, 134, 139), 139, 3),
        ((1,), 1, 1),
        ((75,), 75, 1),
        ((143,), 143, 1),
        ((130,), 130, 1),
    ],
)
def test_only_killed_workers_are_restarted(codes, outcome, starts, monkeypatch):
    processes = Processes(*codes)
    monkeypatch.setattr(launch, "_run_workers", processes)
    assert launch.launch(launch.Launch(restarts=2), ["pretrain", "autoencoder"]) == outcome
    assert len(processes.starts) == starts
    assert ["--resume" in arguments for arguments in processes.starts] == [False] + [True] * (starts - 1)


def test_single_process():
    alone = workers.Workers(strategy("one"))
    assert alone.is_chief
    assert alone.all_gather(7).tolist() == [7]
    alone.agree("weather", "rain")
