"""Cards of format 1, as shipped with version 0.1.0, are converted to format 2."""

import json
import pathlib

import numpy as np
import pytest
import safetensors
import tensorflow as tf

import ssl_keras
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import card_v1, load_encoder, load_tokenizer, loading

OLD = sorted((pathlib.Path(__file__).parents[1] / "support" / "cards").glob("*.json"))
SHIPPED = pathlib.Path(ssl_keras.__file__).parents[1] / "saved_models"
every_old_card = pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)


def test_there_are_eleven_old_cards():
    assert len(OLD) == 11


@every_old_card
def test_converted_card_describes_the_network_of_its_file(path):
    card = card_v1.upgrade(json.loads(path.read_text("utf-8")))
    with tf.Graph().as_default():
        expected = {name: tuple(v.shape) for name, v in loading.named_tensors(*loading.build(card)).items()}
    with safetensors.safe_open(SHIPPED / path.stem / "encoder.safetensors", "numpy") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert stored == expected


# Weights that have been stored in 16 bits since.
HALVED = {
    "seq2seq-cmudict": {
        "bytes": 6_006_496,
        "sha256": "5a1f77460896d423498703922fe8f68cb55271c66c0212fce278501a783251d3",
    },
    "image_text-emoji_pairs": {
        "bytes": 3_745_762,
        "sha256": "4a49bf47637afd65361842ecdb2fc9371fe163925cbf57cf0cd8d0be3f8b4a43",
    },
}


@every_old_card
def test_shipped_card_equals_the_converted_one(path):
    old, new = card_v1.upgrade(json.loads(path.read_text("utf-8"))), cards.read(SHIPPED / path.stem)
    assert new.pop("licenses")["data"]
    assert old.pop("licenses") == {}
    for card in (old, new):  # may have been measured since
        card.pop("results")
    old["weights"] |= HALVED.get(path.stem, {})
    for key in ("network", "head"):
        assert cards._network_of(old, key) == cards._network_of(new, key)
        old.pop(key), new.pop(key)
    assert old == new


@pytest.mark.parametrize("name", ["autoencoder-fashion_mnist", "masked_lm-trec"])
def test_a_folder_with_an_old_card_loads(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    for path in (SHIPPED / name).iterdir():
        if path.name != "card.json":
            (folder / path.name).symlink_to(path)
    (folder / "card.json").write_text((OLD[0].parent / f"{name}.json").read_text("utf-8"), "utf-8")
    for old, new in zip(load_encoder(folder).variables, load_encoder(SHIPPED / name).variables):
        np.testing.assert_array_equal(old, new)
    if cards.read(folder)["tokenizer"]:
        assert load_tokenizer(folder).sha256 == load_tokenizer(SHIPPED / name).sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": [1]}, "is not a valid card"),
        ({"settings": {"widths": "ab"}}, "is not a valid card: dense's widths must be"),
        ({"settings": {"widths": [16, -8]}}, "is not a valid card: dense's widths must be"),
        ({"settings": {}}, "is not a valid card: KeyError 'widths'"),
        ({"objective": "telepathy"}, "is not a valid card: KeyError 'network'"),
        ({"head": "objective"}, "is not a valid card: the card has a head, but the objective autoencoder has none"),
        ({"head": "classifier", "classes": 3}, "is not a valid card"),
        ({"input": {}}, "is not a valid card"),
        ({"training": 3}, "is not a valid card"),
    ],
)
def test_broken_old_cards_are_refused(change, message, tmp_path):
    card = json.loads((OLD[0].parent / "autoencoder-fashion_mnist.json").read_text("utf-8"))
    (tmp_path / "card.json").write_text(json.dumps(card | change), "utf-8")
    with pytest.raises(ValueError, match=message):
        cards.read(tmp_path)


@pytest.mark.parametrize(
    ("objective", "settings", "expected"),
    [
        ("classifier", {"labels": False}, "rotation"),
        ("classifier", {"labels": True}, "classifier"),
        ("seq2seq", {"task": "next"}, "recurrent_lm"),
        ("seq2seq", {"task": "pairs"}, "seq2seq"),
        ("speech", {}, "wav2vec2"),
        ("recogniser", {}, "ctc"),
        ("jigsaw", {}, "jigsaw"),
    ],
)
def test_objectives_get_their_current_names(objective, settings, expected):
    assert card_v1._objective(objective, settings) == expected
