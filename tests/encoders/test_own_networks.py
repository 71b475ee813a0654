"""Encoders of a custom architecture are loaded, fine-tuned, evaluated and exported like the built-in ones."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.cli import main
from ssl_keras.data.splits import from_arrays
from ssl_keras.downstream.finetune import check_makes
from ssl_keras.downstream.grids import kind_of
from ssl_keras.encoders import load_classifier, load_encoder, save_encoder
from ssl_keras.engine.config import Training
from ssl_keras.evaluation.features import extract_features
from ssl_keras.networks import Network
from ssl_keras.objectives import rotation
from ssl_keras.training.pretrain import pretrain

SPEC = {"image": ((16, 16, 3), tf.uint8)}
FILE = """
import keras
def make():
    x = keras.Input((16, 16, 3))
    return keras.Model(x, keras.layers.Dense(8)(keras.layers.GlobalAveragePooling2D()(x)))
word = 3
"""


def make():
    x = keras.Input((16, 16, 3))
    return keras.Model(x, keras.layers.Dense(8)(keras.layers.GlobalAveragePooling2D()(x)))


def sequential():
    layers = keras.layers
    return keras.Sequential([keras.Input((16, 16, 3)), layers.GlobalAveragePooling2D(), layers.Dense(8)])


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 16, 16, 3), np.float32)


@pytest.fixture
def tuned(tmp_path):
    """(encoder, head) with a custom architecture, saved as "tuned"."""
    encoder, head = make(), Network("classifier_head", features=8, classes=2).build()
    save_encoder(tmp_path / "tuned", encoder, spec=SPEC, head=head, classes=("a", "b"))
    return encoder, head


@pytest.mark.parametrize("network", [make, sequential, lambda: make()], ids=["function", "sequential", "another"])
def test_classifier_loads_into_a_new_network(tuned, images, network):
    encoder, head = tuned
    for given in (network, network()):
        model = load_classifier("tuned", network=given)
        np.testing.assert_array_equal(model(images), head(encoder(images)))
    np.testing.assert_array_equal(load_encoder("tuned", network=network)(images), encoder(images))


def test_error_without_the_network_tells_what_to_pass(tuned):
    with pytest.raises(ValueError, match=r"Pass a new network with network=…"):
        load_classifier("tuned")


def test_custom_encoder_is_exported_and_embedded_on_the_command_line(tuned, images, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(FILE)
    given = ["--network", "mine.py:make"]
    assert main(["export", "tuned", "--classifier", "--out", "served", *given]) == 0
    encoder, head = tuned
    served = tf.saved_model.load("served")
    np.testing.assert_allclose(served.serve(images), head(encoder(images)), atol=1e-6)
    assert "model.serve(image)" in capsys.readouterr().out
    assert main(["embed", "tuned", *given, "--image-size", "16"]) == 0
    assert np.load("features.npy").shape == (359, 8)
    capsys.readouterr()
    for wrong, message in (
        ("mine.py:nothing", "defines no function 'nothing'"),
        ("mine.py:word", "no function"),
        ("mine.py", "FILE.py:"),
        ("nowhere.py:make", "with a file that exists"),
        ("broken.py:make", "cannot be run: ZeroDivisionError"),
    ):
        (tmp_path / "broken.py").write_text("1 / 0")
        assert main(["embed", "tuned", "--network", wrong, "--out", "other.npy"]) == 1
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1


def test_network_that_does_not_fit_is_refused(tuned):
    def wider():
        x = keras.Input((16, 16, 3))
        return keras.Model(x, keras.layers.Dense(9)(keras.layers.GlobalAveragePooling2D()(x)))

    with pytest.raises(ValueError, match="does not fit its card"):
        load_encoder("tuned", network=wider)


def test_sequential_is_saved_and_evaluated(images, tmp_path):
    encoder = sequential()
    save_encoder(tmp_path / "mine", encoder, spec=SPEC)
    np.testing.assert_array_equal(load_encoder("mine", network=sequential)(images), encoder(images))
    source = from_arrays(np.zeros((40, 16, 16, 3), np.uint8)).test
    assert extract_features(encoder, source).shape == (len(source), 8)


def test_kind_follows_from_the_input():
    assert kind_of(make(), "image") == "dense"
    assert kind_of(make(), "waveform") == "sound"


KEPT = make()


@pytest.mark.parametrize(
    ("network", "message"), [(KEPT, "a Functional"), (3, "an? int"), (lambda: KEPT, "share weights")]
)
def test_functions_that_build_no_new_network_are_refused(network, message):
    """Otherwise the rows "random init" and "scratch" would have the trained weights."""
    check_makes(make)
    with pytest.raises(ValueError, match=message):
        check_makes(network)


class Subclass(keras.Model):
    def call(self, x):
        return keras.ops.mean(x, (1, 2))


def wrong_shape(*_):
    x = keras.Input((8, 8, 3))
    return keras.Model(x, keras.layers.Flatten()(x))


@pytest.mark.parametrize(
    "encoder",
    [Subclass(), lambda *_: Subclass(), keras.Sequential([keras.layers.Flatten()]), wrong_shape(), wrong_shape],
)
@pytest.mark.parametrize("objective", ["autoencoder", "contrastive", "causal_lm"])
def test_unsupported_encoders_leave_no_folder(encoder, objective, tmp_path):
    data = from_arrays(np.random.default_rng(0).integers(0, 256, (80, 16, 16, 3), np.uint8))
    if objective == "causal_lm":
        from ssl_keras.data.readers.text import from_texts

        data = from_texts([f"a few words, and {number} more" for number in range(300)])
    with pytest.raises(ValueError, match=r"[Ee]ncoder"):
        pretrain(objective, training=Training(steps=1, batch_size=8, run="own"), data=data, encoder=encoder)
    assert not (tmp_path / "runs" / "own").exists()


def test_frozen_layers_do_not_change(images):
    from ssl_keras.objectives.classifier import Classifier

    encoder = make()
    encoder.layers[-1].trainable = False
    head = Network("classifier_head", features=8, classes=2).build()
    assert len(Classifier(encoder, head).trainable_variables) == 2
    assert not Classifier(make(), head, frozen=True).encoder.trainable


def test_two_encoders_in_one_model(images, tmp_path):
    heads = [Network("classifier_head", features=8, classes=2).build() for _ in range(2)]
    names = "größe [1]", "-my_ b+c", "größe 2"
    for name, head in zip(names, [*heads, None]):
        encoder = Network("dense", image_shape=(16, 16, 3), widths=(8,)).build()
        save_encoder(tmp_path / name, encoder, spec=SPEC, head=head, classes=("a", "b") if head else ())
        assert encoder.name == "encoder"
    x = keras.Input((16, 16, 3))
    parts = [load_encoder(name) for name in names] + [load_classifier(name) for name in names[:2]]
    parts += [keras.saving.load_model(tmp_path / name / "encoder.keras") for name in names[:1]]
    parts[-1].name += "_again"
    model = keras.Model(x, keras.layers.Concatenate()([part(x) for part in parts]))
    joined = tf.function(lambda x: model(x))(images)  # TensorFlow uses the names as scopes
    np.testing.assert_allclose(joined, np.concatenate([part(images) for part in parts], -1), atol=1e-6)


@pytest.mark.slow  # the documents' examples; the tests above have networks of any other architecture
@pytest.mark.parametrize("name", ["mobile_net", "hub_vit"])
def test_backbones_of_other_libraries(name, tmp_path):
    """The examples in docs/command_line.md, with random weights: one gradient, saved and loaded."""
    if name == "hub_vit":
        pytest.importorskip("keras_hub")
    text = (pathlib.Path(__file__).parents[2] / "docs" / "command_line.md").read_text("utf-8")
    code = re.search(r"```python\n(import keras\n\n\ndef mobile_net.+?)```", text, re.DOTALL)[1]
    found = {}
    exec(compile(code, "command_line.md", "exec"), found)
    spec = {"image": ((64, 64, 3), tf.uint8)}
    objective = rotation.build(rotation.Settings(), spec, found[name]())
    image = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    with tf.GradientTape() as tape:
        total, _ = objective.batch_loss({"image": tf.constant(image)}, training=True)
    gradients = tape.gradient(total, [variable.value for variable in objective.encoder.trainable_variables])
    assert any(np.abs(gradient).max() > 0 for gradient in gradients)
    save_encoder(tmp_path / name, objective.encoder, spec=spec)
    again = load_encoder(tmp_path / name, network=found[name])
    np.testing.assert_allclose(again(image), objective.encoder(image), atol=1e-5)
