"""Shared fixtures. Real data is taken from `$TFDS_DATA_DIR`; what is absent is skipped."""

import contextlib
import os
import pathlib

# Where the peers are installed: PyTorch's triton crashes if it is loaded after TensorFlow.
with contextlib.suppress(ImportError):
    import triton._C.libtriton  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.data.sources import load
from ssl_keras.engine.objective import Objective

tf.config.experimental.enable_op_determinism()


def pytest_addoption(parser):
    parser.addoption(
        "--budget",
        type=float,
        default=None,
        metavar="SECONDS",
        help="fail a test that takes longer, its fixtures included; one that is marked `budget` has its own",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.seconds = getattr(item, "seconds", 0.0) + call.duration
    budget = item.config.getoption("budget")
    if budget and report.when == "call" and report.passed and not item.get_closest_marker("slow"):
        own = item.get_closest_marker("budget")
        most = max(budget, own.args[0]) if own else budget
        if item.seconds > most:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} took {item.seconds:.0f} s, more than its budget of {most:.0f} s."
    return report


# The longest first: two processes share the files, and neither is to wait for the other's last one.
LONGEST = ("strategies", "contract", "workers", "tutorials")


def pytest_collection_modifyitems(items):
    files = [f"test_{name}.py" for name in LONGEST]
    items.sort(key=lambda item: files.index(item.path.name) if item.path.name in files else len(files))


def refuse(*_, **__):
    pytest.fail("This test trains: mark it with @pytest.mark.fit, so that `make test-fast` leaves it out.")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path, request):
    """Each test starts in an empty folder, with seeds and precision as new; only those that are marked may train."""
    if not any(request.node.get_closest_marker(name) for name in ("fit", "slow")):
        monkeypatch.setattr(Objective, "fit", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_KERAS_CACHE", str(tmp_path / "cache"))
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def digits():
    """`Splits` of the 1,797 digits."""
    return load("digits")


@pytest.fixture(scope="session")
def fashion_mnist():
    """`Splits` of Fashion-MNIST, where it is prepared."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not (pathlib.Path(folder) / "fashion_mnist").is_dir():
        pytest.skip("real data: $TFDS_DATA_DIR holds no fashion_mnist")
    return load("tfds:fashion_mnist")


@pytest.fixture(scope="session")
def tfds_folder():
    """Where TFDS has its data, with the text sets prepared."""
    folder = os.environ.get("TFDS_DATA_DIR")
    missing = [n for n in ("tiny_shakespeare", "trec") if not folder or not (pathlib.Path(folder) / n).is_dir()]
    if missing:
        pytest.skip(f"real data: $TFDS_DATA_DIR holds no {', '.join(missing)}")
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(0)
