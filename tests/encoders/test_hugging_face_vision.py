"""Vision transformers in the Hugging Face layout: the same numbers, in and out.

`tests/support/peers_vision.py` made the checkpoints with `transformers`. The slow tests run against `transformers`
itself (requirements-bench.txt).
"""

import json
import pathlib
import shutil
import sys

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.encoders import hugging_face, hugging_face_vision, vision_layouts
from ssl_keras.networks import Network, description, vit
from ssl_keras.objectives import masked_autoencoder
from tests.encoders.test_hugging_face import edit, rewrite, shard

CHECKPOINTS = pathlib.Path(__file__).parents[1] / "support" / "checkpoints"
FAMILIES = tuple(vision_layouts.FAMILIES)
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def folder(tmp_path, request):
    family = request.getfixturevalue("family")
    shutil.copytree(CHECKPOINTS / family, tmp_path / family)
    return tmp_path / family


def load(folder, **options):
    config = json.loads((folder / "config.json").read_text())
    return hugging_face_vision.load(folder, config, **options)


def states(encoder, image):
    """The states of all tokens after the last norm."""
    return keras.Model(encoder.input, vit.parts(encoder).norm.output)(image).numpy()


def expected_of(folder):
    return safetensors.numpy.load_file(folder / "expected.safetensors")


@every_family
def test_imported_models_compute_what_transformers_does(folder, family):
    """At the native size and at another one, where positions are interpolated."""
    encoder, head, left = load(folder, keep_size=True)
    expected = expected_of(folder)
    for size in ("native", "other"):
        hidden = states(encoder, expected[f"image_{size}"])
        np.testing.assert_allclose(hidden, expected[f"hidden_{size}"], atol=1e-4)
        assert np.abs(hidden).max() > 1
    features = encoder(expected["image_native"]).numpy()
    own = expected["hidden_native"]
    theirs = {"vit_mae": own[:, 1:].mean(1), "siglip_vision_model": expected.get("pooled")}.get(family, own[:, 0])
    np.testing.assert_allclose(features, theirs, atol=1e-4)
    assert (head is not None) == (family == "vit_mae")
    assert set(left) <= {"embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize("family", ["vit_mae"])
@pytest.mark.parametrize("normalize", [False, True])
def test_an_imported_autoencoder_has_the_loss_of_transformers(folder, family, normalize):
    encoder, head, _ = load(folder, keep_size=True)
    expected = expected_of(folder)
    settings = masked_autoencoder.Settings(normalize_pixels=normalize)
    objective = masked_autoencoder.MaskedAutoencoder(settings, encoder, head, visible=6)
    image, noise = tf.constant(expected["image_native"]), tf.constant(expected["noise"])
    found, place = objective.states(objective.pixels(image), noise)
    np.testing.assert_allclose(found, expected["visible"], atol=1e-4)
    np.testing.assert_allclose(head([found, place]), expected["predicted"], atol=1e-4)
    total, count = objective.batch_loss({"image": image, "noise": noise}, training=False)
    np.testing.assert_allclose(total / count, expected[f"loss_{str(normalize).lower()}"][0], atol=1e-4)


@every_family
def test_import_and_export_give_the_same_weights(folder, family, tmp_path, capsys):
    assert main(["import", str(folder), "--out", "saved_models/mine"]) == 0
    assert main(["export", "mine", "--hugging-face", "--out", "back"]) == 0
    back, expected = tmp_path / "back", expected_of(folder)
    encoder, _, _ = load(back, keep_size=True)
    for size in ("native", "other"):
        np.testing.assert_allclose(states(encoder, expected[f"image_{size}"]), expected[f"hidden_{size}"], atol=1e-4)
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (folder, back))
    for key in set(ours) - {"architectures"}:
        assert ours[key] == theirs.get(key, ours[key]), key
    before = safetensors.numpy.load_file(folder / "model.safetensors")
    after = safetensors.numpy.load_file(back / "model.safetensors")
    assert before.keys() - after.keys() <= {"pooler.dense.weight", "pooler.dense.bias"} | _decoder_names(before)
    preprocessor = json.loads((back / "preprocessor_config.json").read_text())
    assert preprocessor["size"] == {"height": 20, "width": 20}
    assert preprocessor["image_mean"] == json.loads((folder / "preprocessor_config.json").read_text())["image_mean"]


def _decoder_names(names):
    """Blocks of the decoder, which have other names since transformers 5."""
    return {name for name in names if name.startswith("decoder.decoder_encoder.")}


@pytest.mark.parametrize("family", ["dinov2"])
def test_images_of_any_size_are_resized_to_the_models(folder, family, rng):
    saved = hugging_face.import_encoder(folder, "saved_models/mine")
    card = encoders.catalog.find("mine") and encoders.card.read(saved)
    assert card["network"]["resize"] == 20
    assert card["network"]["mean"] == list(vision_layouts.IMAGENET[0])
    assert card["trained_by"]["left over"] == ["embeddings.mask_token"]
    encoder = encoders.load_encoder("mine")
    expected = expected_of(folder)
    np.testing.assert_allclose(encoder(expected["image_native"]), expected["hidden_native"][:, 0], atol=1e-4)
    assert encoder(rng.random((2, 33, 47, 3), np.float32)).shape == (2, 16)


@pytest.mark.parametrize("family", ["dinov2"])
@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"do_resize": False, "size": 20}, 0),
        ({"size": 24}, 24),
        ({"size": {"shortest_edge": 28}}, 28),
        ({"size": {"shortest_edge": 28}, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}}, 24),
        ({"size": None, "rescale_factor": 0.00392156862745098}, 20),
    ],
)
def test_images_get_the_size_that_the_preprocessor_gives_them(folder, family, changes, size):
    prepare(folder, **changes)
    assert description(load(folder)[0]).keywords["resize"] == size


@pytest.mark.parametrize("family", ["vit_mae"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weights_of_16_bits_and_shards(folder, family, dtype):
    plain = load(folder)[0].get_weights()
    rewrite(folder, lambda tensors: tensors.update({k: v.astype(dtype) for k, v in tensors.items()}))
    shard(folder)
    encoder, head, left = load(folder)
    assert left == []
    assert head is not None
    for ours, theirs in zip(encoder.get_weights(), plain):
        np.testing.assert_allclose(ours, theirs, atol=0.02)
    assert vit.parts(encoder).tokens.options["positions"] == "sine"


def positions_that_were_trained(tensors):
    tensors["vit.embeddings.position_embeddings"][0, 3] += 1


@pytest.mark.parametrize("family", ["vit_mae"])
def test_positions_that_are_no_sines_are_kept(folder, family):
    rewrite(folder, positions_that_were_trained)
    encoder, _, _ = load(folder)
    moved = vit.parts(encoder).tokens.positions
    sines = vit.parts(load(CHECKPOINTS / family)[0]).tokens.positions
    np.testing.assert_allclose(
        (moved - sines)[3 - 1], np.ones(16), atol=1e-5
    )  # the first position is the class token's
    rewrite(folder, lambda tensors: tensors["decoder.decoder_pos_embed"].__imul__(2))
    with pytest.raises(ValueError, match="decoder_pos_embed: expected fixed sine positions"):
        load(folder)


def test_the_image_tower_of_a_whole_clip(tmp_path):
    """Its names have a prefix, and what belongs to the text is listed."""
    folder = tmp_path / "clip"
    shutil.copytree(CHECKPOINTS / "clip_vision_model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": config}))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors = {f"vision_model.{name}": value for name, value in tensors.items()}
    tensors |= {"logit_scale": np.ones((), np.float32), "vision_model.embeddings.position_ids": np.arange(26)}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    encoder, _, left = load(folder, keep_size=True)
    assert left == ["logit_scale"]
    expected = expected_of(folder)
    np.testing.assert_allclose(states(encoder, expected["image_native"]), expected["hidden_native"], atol=1e-4)


def poison(tensors):
    tensors["layernorm.weight"][0] = np.nan


def whole_numbers(tensors):
    tensors["layernorm.weight"] = tensors["layernorm.weight"].astype(np.int8)


def shorten(tensors):
    tensors["embeddings.position_embeddings"] = tensors["embeddings.position_embeddings"][:, :-1].copy()


def prepare(folder, **changes):
    """Changes the preprocessor's config."""
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickle_alone(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize("family", ["dinov2"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, model_type="swin"), "Expected a model_type .*dinov2_with_registers.*Received: 'swin'"),
        (lambda f: edit(f, quantization_config={}), "Received: a quantized model"),
        (lambda f: edit(f, use_swiglu_ffn=True), "dinov2 model with use_swiglu_ffn = False. Received: True"),
        (lambda f: edit(f, hidden_size=None), "Expected an integer of 1 to 65536 in config.json for hidden_size"),
        (lambda f: edit(f, image_size=[20, 20, 3]), "for image_size. Received: \\[20, 20, 3\\]"),
        (lambda f: edit(f, patch_size=[4, 2]), "Expected square patches"),
        (lambda f: edit(f, num_hidden_layers=3), "has no tensor 'encoder.layer.2."),
        (lambda f: edit(f, num_hidden_layers=10_000), "layers must be 1 to 128"),
        (
            lambda f: edit(f, num_hidden_layers=1),
            "expected 1 blocks, .* Received the weights of more: encoder.layer.1.",
        ),
        (lambda f: edit(f, image_size=1 << 16), "at most 16384 patches. Received: 268435456"),
        (lambda f: edit(f, image_size=24), r"position_embeddings: expected the shape \(1, 37, 16\). Received: \(1, 26"),
        (lambda f: rewrite(f, shorten), r"position_embeddings: expected the shape \(1, 26, 16\). Received: \(1, 25"),
        (lambda f: rewrite(f, poison), "layernorm.weight: expected finite numbers"),
        (lambda f: rewrite(f, whole_numbers), "layernorm.weight: expected floats of 16, 32 or 64 bits. Received: I8"),
        (pickle_alone, r"Pickled weights \(pytorch_model.bin\) are not supported; save the model with safetensors"),
        (
            lambda f: (f / "preprocessor_config.json").write_text('{"image_mean": ["a"]}'),
            "Expected 3 numbers for image_mean",
        ),
        (lambda f: (f / "preprocessor_config.json").write_text("["), "is not a valid preprocessor config"),
        (lambda f: prepare(f, size={"height": 20, "width": 40}), "Expected a square size in preprocessor_config.json"),
        (lambda f: prepare(f, size={"longest_edge": 20}), "Expected height and width, or shortest_edge"),
        (lambda f: prepare(f, do_rescale=False), "Expected do_rescale with the factor 1/255"),
        (lambda f: prepare(f, rescale_factor=0.5), "Received: True, 0.5"),
    ],
)
def test_broken_checkpoints_are_refused(folder, family, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        hugging_face.import_encoder(folder, "saved_models/broken")
    assert not pathlib.Path("saved_models/broken").exists()


def test_text_has_no_size(tmp_path):
    with pytest.raises(ValueError, match="keep_size is for images. Received: a gpt2 model"):
        hugging_face.import_encoder(CHECKPOINTS / "gpt2", "saved_models/mine", keep_size=True)


@pytest.mark.parametrize(
    ("options", "family"),
    [
        ({}, "vit"),
        ({"layer_scale": 0.1, "features": "class"}, "dinov2"),
        ({"layer_scale": 0.1, "registers": 2, "antialias": True}, "dinov2_with_registers"),
        ({"input_norm": True, "patch_bias": False, "positions": "learned"}, "clip_vision_model"),
        ({"registers": 1}, "deit"),
        ({"class_token": False}, "siglip_vision_model"),
        ({"class_token": False, "features": "probe"}, "siglip_vision_model"),
        ({"registers": 2}, "registers.*2"),
        ({"layer_scale": 0.1, "gelu": "quick"}, "gelu.*quick"),
        ({"antialias": True}, "antialias.*True"),
        ({"features": "probe"}, "features.*probe"),
    ],
)
def test_a_network_has_the_family_that_computes_the_same(options, family):
    keywords = Network("vit", image_shape=(16, 16, 3), width=8, **options).keywords
    if family in FAMILIES:
        assert hugging_face_vision.family_for(keywords, False) == family
        assert hugging_face_vision.family_for(keywords, True) == {"vit": "vit_mae"}.get(family, family)
    else:
        with pytest.raises(ValueError, match=f"Expected a network that one of .*{family}"):
            hugging_face_vision.family_for(keywords, False)


def check_processor(folder, layer):
    """Compares the processor that transformers finds in a folder with the first layer of the encoder `mine`.

    Pillow rounds to 8 bits after each axis, so the image is smooth: nothing overshoots.
    """
    transformers = pytest.importorskip("transformers")
    rows, columns, colors = np.mgrid[:33, :57, :3]
    image = np.uint8(127 + 80 * np.sin(rows / 6 + colors) * np.cos(columns / 9))
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)(image, return_tensors="np")["pixel_values"]
    encoder = encoders.load_encoder("mine")
    first = keras.Model(encoder.input, encoder.get_layer(layer).output)
    ours = first(image[None] / np.float32(255)).numpy().transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours, theirs, atol=0.03)


@pytest.mark.slow  # test_import_and_export_give_the_same_weights reads what was written
@every_family
def test_transformers_loads_what_is_exported(family, tmp_path):
    """Without a missing weight except the pooler's, and with the same hidden states."""
    transformers = pytest.importorskip("transformers")
    sys.path.insert(0, str(CHECKPOINTS.parent))
    import peers_vision

    hugging_face.import_encoder(CHECKPOINTS / family, "saved_models/mine")
    back = hugging_face.export("mine", tmp_path / "back")
    check_processor(back, "pixels")
    network = getattr(transformers, peers_vision.OF[family][1])
    made, loading = network.from_pretrained(back, output_loading_info=True)
    assert {name for name in loading["missing_keys"] if "pooler" not in name} == set()
    assert set(loading["unexpected_keys"]) == set()
    found = peers_vision.expected(family, made.eval())
    for name, value in expected_of(CHECKPOINTS / family).items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)
