"""TensorBoard events of a short run, read back over HTTP from a TensorBoard server."""

import io
import json
import re
import subprocess
import sys
import time
import types
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ssl_keras.engine.config import Training
from ssl_keras.engine.report import Report
from ssl_keras.pictures import neighbors, picture_grid
from ssl_keras.training.pretrain import pretrain
from ssl_keras.training.tensorboard import TensorBoard

RUN = "autoencoder-digits/tensorboard"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address of a TensorBoard server, outcome of the run that it shows)."""
    folder = tmp_path_factory.mktemp("board")
    outcome = pretrain("autoencoder", training=Training(steps=20, eval_every=5, report_every=2, runs=str(folder)))
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0", "--load_fast=false"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            found = re.search(r"http://localhost:\d+", line)
            if found:
                break
        else:
            raise AssertionError("TensorBoard did not start")
        wait_for_data(found.group())
        yield found.group(), outcome
    finally:
        process.kill()
        process.wait()


def wait_for_data(address):
    for _ in range(100):
        if read(address, "scalars/tags").get(RUN, {}).get("outcome/seconds"):
            return
        time.sleep(0.2)
    raise AssertionError("TensorBoard shows no run")


def fetch(address, path, **query):
    query.setdefault("run", RUN)
    url = f"{address}/data/plugin/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


def read(address, path, **query):
    return json.loads(fetch(address, path, **query))


@pytest.mark.fit
def test_scalars(server):
    address, outcome = server
    tags = set(read(address, "scalars/tags")[RUN])
    assert {
        "loss/train",
        "loss/validation",
        "loss/learning_rate",
        "quality/mse_train",
        "quality/mse_validation",
        "quality/knn_accuracy",
        "quality/rankme",
        "health/gradient_norm",
        "health/feature_sd",
        "health/alignment",
        "health/uniformity",
        "speed/examples_per_second",
        "speed/milliseconds_per_step",
        "outcome/test_loss",
    } <= tags
    validation = read(address, "scalars/scalars", tag="loss/validation")
    assert [step for _, step, _ in validation] == [5, 10, 15, 20]
    assert validation[-1][2] == pytest.approx(outcome["val_loss"])
    speed = read(address, "scalars/scalars", tag="speed/examples_per_second")
    assert all(value > 0 for *_, value in speed)
    assert len(read(address, "scalars/scalars", tag="quality/knn_accuracy")) >= 2


@pytest.mark.fit
@pytest.mark.parametrize(("name", "rows"), [("reconstructions", 2), ("neighbors", 6)])
def test_pictures(server, name, rows):
    address, _ = server
    shown = read(address, "images/images", tag=f"pictures/{name}", sample=0)
    content = fetch(address, "images/individualImage", **dict(urllib.parse.parse_qsl(shown[-1]["query"])))
    assert Image.open(io.BytesIO(content)).size == (8 * 28, rows * 28)


def test_neighbors_are_the_most_similar_others(rng):
    features, images = rng.normal(size=(20, 4)), rng.integers(0, 256, (20, 3, 3, 1), np.uint8)
    rows = neighbors(images, features)
    cosine = features @ features.T / np.outer(*[np.linalg.norm(features, axis=1)] * 2)
    for column, query in enumerate(np.linspace(0, 19, 8).astype(int)):
        order = [i for i in np.argsort(-cosine[query]) if i != query]
        np.testing.assert_allclose(rows[0][column], images[query] / 255, atol=1e-6)
        for rank in range(5):
            np.testing.assert_allclose(rows[1 + rank][column], images[order[rank]] / 255, atol=1e-6)


@pytest.mark.fit
def test_histograms_of_every_weight(server):
    address, _ = server
    tags = read(address, "histograms/tags")[RUN]
    assert len(tags) == 12
    assert "weights/encoder/dense_0/kernel" in tags
    step, buckets = read(address, "histograms/histograms", tag="weights/encoder/dense_0/kernel")[-1][1:3]
    assert sum(count for *_, count in buckets) == -(-784 * 256 // 3)  # every third value of a large weight


@pytest.mark.fit
def test_graph(server):
    address, _ = server
    assert b"dense_2" in fetch(address, "graphs/graph")


@pytest.mark.fit
def test_settings(server):
    address, _ = server
    request = urllib.request.Request(
        f"{address}/data/plugin/hparams/session_groups",
        json.dumps(
            {
                "startIndex": 0,
                "sliceSize": 10,
                "colParams": [],
                "allowedStatuses": ["STATUS_RUNNING", "STATUS_SUCCESS", "STATUS_UNKNOWN"],
            }
        ).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        groups = json.loads(answer.read())["sessionGroups"]
    assert groups[0]["hparams"]["batch_size"] == 256
    assert groups[0]["hparams"]["data"] == "digits"


@pytest.mark.fit
def test_projector(server):
    address, _ = server
    name = "validation features"
    info = read(address, "projector/info")["embeddings"][0]
    assert info["tensorName"] == name
    tensor = np.frombuffer(fetch(address, "projector/tensor", name=name), np.float32)
    assert tensor.size == 143 * 64
    labels = fetch(address, "projector/metadata", name=name).decode().split()
    assert len(labels) == 143
    assert set(labels) == set("0123456789")
    sprite = Image.open(io.BytesIO(fetch(address, "projector/sprite_image", name=name)))
    assert sprite.size == (12 * 28, 12 * 28)


def test_picture_grid_puts_rows_below_each_other(rng):
    rows = [rng.random((3, 2, 4, 1)), rng.random((3, 2, 4, 1))]
    grid = picture_grid(rows).numpy()
    assert grid.shape == (4, 12, 1)
    np.testing.assert_array_equal(grid[2:, 4:8], rows[1][1])


def test_non_finite_features_log_a_warning_and_do_not_stop_the_run(digits, tmp_path, caplog):
    board, same = TensorBoard(tmp_path, digits, Training(), {}), lambda batch, random: batch
    board.embed = lambda image: tf.fill((tf.shape(image)[0], 3), np.nan)
    objective = types.SimpleNamespace(
        preprocess=same, preprocess_eval=same, report=lambda *_: Report(), layers=[], step=tf.Variable(7)
    )
    with board.writer.as_default(step=7):
        board._report(objective)
    assert "step 7: the features are not finite. Skipping the feature metrics." in caplog.text
