"""Residual networks in the Hugging Face layout: the same numbers, in and out.

`tests/support/peers_resnet.py` made the checkpoints with `transformers`. The slow test runs against `transformers`
itself (requirements-bench.txt).
"""

import json
import pathlib
import shutil
import sys

import keras
import numpy as np
import pytest
import safetensors.numpy

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data.sources import load as load_data
from ssl_keras.encoders import hugging_face, hugging_face_resnet, vision_configs
from ssl_keras.encoders.initialize import initialize
from ssl_keras.encoders.inputs import native_size
from ssl_keras.networks import Network, conv, description
from ssl_keras.objectives import rotation
from tests.encoders.test_hugging_face import edit, rewrite
from tests.encoders.test_hugging_face_vision import check_processor

CHECKPOINTS = pathlib.Path(__file__).parents[1] / "support" / "checkpoints"
every_network = pytest.mark.parametrize("network", ["resnet18", "resnet50"])


@pytest.fixture
def folder(tmp_path, request):
    network = request.getfixturevalue("network")
    shutil.copytree(CHECKPOINTS / network, tmp_path / network)
    return tmp_path / network


def load(folder, **options):
    return hugging_face_resnet.load(folder, json.loads((folder / "config.json").read_text()), **options)


def check_outputs(encoder, expected):
    """Compares stages and features at the native size, and at another one with odd sides."""
    stages = keras.Model(encoder.input, [*conv.stage_maps(encoder), encoder.output])
    for size in ("native", "other"):
        *maps, features = stages(expected[f"image_{size}"], training=False)
        for index, found in enumerate(maps):
            wanted = expected[f"stage_{index}_{size}"]
            np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
            assert wanted.std() > 0.1
        np.testing.assert_allclose(features, expected[f"pooled_{size}"], atol=1e-4)


@every_network
def test_imported_models_compute_what_transformers_does(folder, network):
    encoder, head, left = load(folder, keep_size=True)
    assert head is None
    assert left == []
    assert description(encoder).builder == network
    check_outputs(encoder, safetensors.numpy.load_file(folder / "expected.safetensors"))


@every_network
def test_import_and_export_give_the_same_files(folder, network, tmp_path):
    assert main(["import", str(folder), "--out", "saved_models/mine"]) == 0
    assert main(["export", "mine", "--hugging-face", "--out", "back"]) == 0
    before, after = (safetensors.numpy.load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    assert ours == {name: theirs[name] for name in ours}
    preprocessor = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert preprocessor["do_resize"] is True
    assert preprocessor["size"] == {"height": 48, "width": 48}
    assert preprocessor["image_mean"] == list(vision_configs.IMAGENET[0])


@pytest.mark.parametrize("network", ["resnet18"])
def test_images_keep_their_size_if_asked(folder, network, tmp_path):
    """In the commands on the encoder too, and after export."""
    card = encoders.card.read(hugging_face.import_encoder(folder, "saved_models/mine", keep_size=True))
    assert native_size(card) is None
    back = hugging_face.export("mine", tmp_path / "back")
    assert description(load(back)[0]).keywords["resize"] == 0


@pytest.mark.parametrize("network", ["resnet18"])
def test_a_classifier_is_not_exported_in_silence(folder, network, capsys):
    hugging_face.import_encoder(folder, "saved_models/mine")
    assert main(["export", "mine", "--hugging-face", "--classifier"]) == 1
    assert "Expected --hugging-face without --classifier" in capsys.readouterr().err


@pytest.mark.parametrize("network", ["resnet18"])
def test_images_of_any_size_are_resized_to_the_models(folder, network, rng):
    card = encoders.card.read(hugging_face.import_encoder(folder, "saved_models/mine"))
    assert card["network"]["resize"] == 48
    expected = safetensors.numpy.load_file(folder / "expected.safetensors")
    encoder = encoders.load_encoder("mine")
    np.testing.assert_allclose(encoder(expected["image_native"]), expected["pooled_native"], atol=1e-4)
    assert encoder(rng.random((2, 33, 57, 3), np.float32)).shape == (2, 16)


def head_too(tensors):
    """What a model with a classifier has: a prefix, and the classifier."""
    named = {f"resnet.{name}": value for name, value in tensors.items()}
    tensors.clear()
    tensors.update(named | {"classifier.1.weight": np.ones((5, 16), np.float32)})


@pytest.mark.parametrize("network", ["resnet18"])
def test_a_classifiers_head_is_left_over(folder, network):
    rewrite(folder, head_too)
    assert load(folder)[2] == ["classifier.1.weight"]


def poison(tensors):
    tensors["embedder.embedder.normalization.running_var"][0] = np.inf


def turn(tensors):
    tensors["encoder.stages.2.layers.1.layer.0.normalization.running_var"] *= -1


@pytest.mark.parametrize("network", ["resnet18"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, depths=[2, 2, 2]), r"of basic \[2, 2, 2, 2\]; .*Received: basic \[2, 2, 2\]"),
        (lambda f: edit(f, depths=7), "Received: basic 7"),
        (lambda f: edit(f, depths=[[2], 2, 2, 2]), r"Received: basic \[\[2\], 2, 2, 2\]"),
        (lambda f: edit(f, layer_type=["basic"]), "Expected a layer_type and depths"),
        (lambda f: edit(f, hidden_sizes=[2, 4, 8, 8]), r"hidden_sizes \[2, 4, 8, 16\] .* Received: \[2, 4, 8, 8\]"),
        (lambda f: edit(f, embedding_size=0), "Expected an integer of 1 to 65536 .* for embedding_size"),
        (lambda f: edit(f, hidden_act="gelu"), "resnet model with hidden_act = 'relu'. Received: 'gelu'"),
        (lambda f: edit(f, downsample_in_first_stage=True), "downsample_in_first_stage = False. Received: True"),
        (lambda f: edit(f, quantization_config={}), "Received: a quantized model"),
        (lambda f: edit(f, depths=[3, 4, 6, 3]), "has no tensor 'encoder.stages.0.layers.2."),
        (lambda f: edit(f, num_channels=1), "Expected 1 numbers for image_mean"),
        (lambda f: edit(f, embedding_size=4, hidden_sizes=[4, 8, 16, 32]), r"shape \(4, 3, 7, 7\). .* \(2, 3, 7, 7\)"),
        (lambda f: rewrite(f, poison), "running_var: expected finite numbers"),
        (
            lambda f: rewrite(f, turn),
            "stages.2.layers.1.layer.0.normalization.running_var: expected variances of at least 0",
        ),
        (
            lambda f: rewrite(f, lambda t: t.update({"encoder.stages.4.layers.0.shortcut.weight": np.ones(1, "f4")})),
            "expected 4 stages, .* Received the weights of more: encoder.stages.4",
        ),
        (lambda f: rewrite(f, lambda t: t.pop("embedder.embedder.normalization.running_mean")), "has no tensor"),
    ],
)
def test_broken_checkpoints_are_refused(folder, network, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        hugging_face.import_encoder(folder, "saved_models/broken")
    assert not pathlib.Path("saved_models/broken").exists()


@pytest.mark.parametrize("network", ["resnet50"])
def test_weights_of_more_blocks_are_refused(folder, network):
    """A network with a block less in its last stage would have all that it needs."""
    rewrite(folder, lambda t: t.update({"encoder.stages.3.layers.3.layer.0.convolution.weight": np.ones(1, "f4")}))
    with pytest.raises(
        ValueError, match="expected 3 blocks, .* Received the weights of more: encoder.stages.3.layers.3"
    ):
        load(folder)


@pytest.mark.parametrize("network", ["resnet18"])
def test_pretraining_goes_on_from_an_imported_network(folder, network):
    """With its stem, padding, colors and size; gray images get its channels."""
    hugging_face.import_encoder(folder, "saved_models/mine")
    settings, splits = rotation.prepare(rotation.Settings(), load_data("digits"), "mine")
    assert splits.train.spec()["image"][0] == (28, 28, 3)
    objective = rotation.build(settings, splits.train.spec())
    initialize(objective.encoder, "mine")
    saved = encoders.load_encoder("mine")
    assert description(objective.encoder) == description(saved)
    for ours, theirs in zip(objective.encoder.get_weights(), saved.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="The network is taken from mine. Leave out width"):
        rotation.prepare(rotation.Settings(width=4), splits, "mine")


@pytest.mark.parametrize(("options", "received"), [({}, "'padding': 'same'"), ({"pool_grid": 2}, "'pool_grid': 2")])
def test_other_networks_are_not_exported(options, received, tmp_path):
    network = Network("resnet18", image_shape=(16, 16, 3), width=2, **options).build()
    encoders.save_encoder("saved_models/own", network, spec={"image": ((16, 16, 3), np.uint8)})
    with pytest.raises(ValueError, match=f"expected an imported ResNet, .*{received}"):
        hugging_face.export("own", tmp_path / "back")


@pytest.mark.slow  # test_import_and_export_give_the_same_files compares what was written with theirs
@every_network
def test_transformers_loads_what_is_exported(network, tmp_path):
    transformers = pytest.importorskip("transformers")
    sys.path.insert(0, str(CHECKPOINTS.parent))
    import peers_resnet

    hugging_face.import_encoder(CHECKPOINTS / network, "saved_models/mine")
    back = hugging_face.export("mine", tmp_path / "back")
    check_processor(back, "center")
    made, loading = transformers.ResNetModel.from_pretrained(back, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    found = peers_resnet.expected(made.eval())
    for name, value in safetensors.numpy.load_file(CHECKPOINTS / network / "expected.safetensors").items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)
