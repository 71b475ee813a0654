"""Saved encoders load exactly as they were saved, and broken ones are refused."""

import contextlib
import copy
import hashlib
import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssl_keras
from ssl_keras import encoders, files
from ssl_keras.cli import main
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import card_v1, catalog, load_classifier, load_encoder, save_encoder, saving
from ssl_keras.networks import BUILDERS, Network
from ssl_keras.networks.dense import dense_encoder

SPEC = {"image": ((28, 28, 1), tf.uint8)}


def small():
    """A small encoder of images."""
    return Network("dense", image_shape=(28, 28, 1), widths=(16, 8)).build()


@pytest.fixture
def saved(tmp_path):
    """(folder, encoder) of a small saved encoder."""
    network = small()
    folder = tmp_path / "saved_models" / "small"
    save_encoder(folder, network, spec=SPEC)
    return folder, network


def edit(folder, **changes):
    """Changes the card; `weights__bytes` reaches into `weights`."""
    card = json.loads((folder / "card.json").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        place = card
        for part in path:
            place = place[part]
        place[last] = value
    (folder / "card.json").write_text(json.dumps(card))


def replace_tensors(folder, change):
    """Writes other tensors, with a card whose size and checksum match the file."""
    path = folder / "encoder.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    content = safetensors.numpy.save(tensors)
    path.write_bytes(content)
    edit(folder, weights__bytes=len(content), weights__sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.fit
def test_round_trip_is_exact_and_plain_keras(saved, digits, tmp_path):
    folder, network = saved
    image = digits.test.gather(np.arange(5))["image"] / np.float32(255)
    for name in ("small", folder, str(folder)):
        loaded = load_encoder(name)
        np.testing.assert_array_equal(loaded(image), network(image))
    model = keras.Sequential([loaded, keras.layers.Dense(3)])
    model.compile("adam", "mse")
    model.fit(image, np.zeros((5, 3)), verbose=0)
    model.save(tmp_path / "theirs.keras")
    again = keras.saving.load_model(tmp_path / "theirs.keras")
    np.testing.assert_array_equal(again(image), model(image))
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "encoder.keras", "encoder.safetensors"]


def test_copy_in_16_bits_has_the_rounded_weights(saved, tmp_path):
    folder, network = saved
    encoders.record(folder, "digits", {"kNN": [0.5, 0]})
    encoders.copy_in_float16(folder, tmp_path / "half")
    card, half = cards.read(folder), cards.read(tmp_path / "half")
    assert half["weights"]["bytes"] < 0.6 * card["weights"]["bytes"]
    assert (half["name"], half["results"]) == ("half", {})
    for wanted, found in zip(network.get_weights(), load_encoder(tmp_path / "half").get_weights(), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted.astype(np.float16))
    with pytest.raises(ValueError, match="half"):
        encoders.copy_in_float16(folder, tmp_path / "half")  # nothing is overwritten


@pytest.mark.parametrize("other", ["--hugging-face", "--classifier"])
def test_export_in_16_bits_is_of_a_saved_encoder(saved, other, capsys):
    assert main(["export", str(saved[0]), "--float16", "--out", "half"]) == 0
    assert load_encoder("half").count_params() == saved[1].count_params()
    assert main(["export", str(saved[0]), "--float16", other, "--out", "other"]) == 1
    assert "Expected --float16 without" in capsys.readouterr().err
    assert not pathlib.Path("other").exists()


def test_weights_beyond_16_bits_are_not_rounded(saved, tmp_path):
    network = saved[1]
    network.set_weights([np.full_like(each, 1e5) for each in network.get_weights()])
    save_encoder(tmp_path / "large", network, spec=SPEC)
    with pytest.raises(ValueError, match="beyond 65,504"):
        encoders.copy_in_float16(tmp_path / "large", tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_encoder_with_a_single_layer(tmp_path):
    network = Network("dense", image_shape=(28, 28, 1), widths=(4,)).build()
    save_encoder(tmp_path / "one", network, spec=SPEC)
    image = np.ones((2, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(load_encoder("one")(image), network(image))


def test_unusual_folder_names(tmp_path):
    network = small()
    for name, expected in (("my [1] größe", "my -1- größe"), (".hidden", "hidden"), ("***", "encoder")):
        card = save_encoder(tmp_path / name, network, spec=SPEC)
        assert card["name"] == expected
        load_encoder(tmp_path / name)


def test_classifier_loads_with_its_head(tmp_path, digits):
    network, head = small(), Network("classifier_head", features=8, classes=3).build()
    save_encoder(tmp_path / "tuned", network, spec=SPEC, head=head, classes=("a", "b", "c"))
    image = digits.test.gather(np.arange(5))["image"] / np.float32(255)
    np.testing.assert_array_equal(load_classifier(tmp_path / "tuned")(image), head(network(image)))
    np.testing.assert_array_equal(load_encoder(tmp_path / "tuned")(image), network(image))


def test_old_encoder_stays_until_the_new_one_is_complete(saved, monkeypatch):
    folder, network = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_encoder(folder, network, spec=SPEC)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_encoder_is_restored_after_a_kill_during_replacement(saved, monkeypatch):
    folder, network = saved

    class Killed(BaseException):
        pass

    rename = pathlib.Path.rename

    def once(self, target):
        if self.name.endswith(".partial"):
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", once)
    with pytest.raises(Killed):
        save_encoder(folder, network, spec=SPEC)
    monkeypatch.undo()
    assert not folder.exists()
    load_encoder(folder)
    save_encoder(folder, network, spec=SPEC)
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["notes", "data", "notes/encoder", "run", "small", ".", "../saved_models/small"])
def test_looking_up_a_name_changes_no_files(saved, tmp_path, monkeypatch, name):
    """This holds whatever files have the names that a writer uses."""
    (tmp_path / "runs" / "run").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "saved_models", tmp_path / "notes", tmp_path / "runs" / "run"):
        for hidden in (".notes", ".data", ".encoder", ".run", ".small"):
            for what in ("old", "partial"):
                (place / f"{hidden}.{what}").mkdir(parents=True)
                (place / f"{hidden}.{what}" / "thesis.txt").write_text("ten years")
    before = contents(tmp_path)
    for look_up in (encoders.find, load_encoder, encoders.load_tokenizer, load_classifier):
        with contextlib.suppress(ValueError):  # unknown, or without a tokenizer or a head
            look_up(name)
    assert main(["evaluate", name, "--data", "folder:nothing"]) == 1
    assert contents(tmp_path) == before


def test_reader_finds_the_old_encoder_during_replacement(saved, monkeypatch):
    folder, network = saved
    before = network.variables[1].numpy()
    network.variables[1].assign(before + 1)
    rename, seen = pathlib.Path.rename, []

    def slow(self, target):
        result = rename(self, target)
        seen.append(load_encoder("small").variables[1].numpy())
        return result

    monkeypatch.setattr(pathlib.Path, "rename", slow)
    save_encoder(folder, network, spec=SPEC)
    np.testing.assert_array_equal(seen[0], before)
    np.testing.assert_array_equal(seen[1], before + 1)
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_only_encoders_are_overwritten(saved, tmp_path):
    folder, network = saved
    (folder / "README.md").write_text("mine")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "precious.py").write_text("x = 1")
    save_encoder(folder, network, spec=SPEC)
    assert (folder / "README.md").read_text() == "mine"
    with pytest.raises(ValueError, match=r"src is not a saved encoder .* The new encoder is in .*src\.unsaved"):
        save_encoder(tmp_path / "src", network, spec=SPEC)
    assert [path.name for path in (tmp_path / "src").iterdir()] == ["precious.py"]
    np.testing.assert_array_equal(load_encoder(tmp_path / "src.unsaved").variables[1], network.variables[1])


def test_results_are_recorded_in_the_current_card(saved, monkeypatch):
    """Two writers do not overwrite each other's changes."""
    folder, network = saved
    encoders.record("small", "one", {"a": 1})
    find = encoders.find
    replaced = threading.Thread(
        target=lambda: save_encoder(folder, network, spec=SPEC, trained_by={"data": {"name": "new"}})
    )

    def slow(name):
        found = find(name)
        if not replaced.ident:
            replaced.start()
            replaced.join(0.5)
        return found

    monkeypatch.setattr(saving, "find", slow)
    encoders.record("small", "two", {"b": 2})
    replaced.join()
    assert cards.read(folder)["trained_by"]["data"] == {"name": "new"}
    load_encoder(folder)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_saved_encoder_computes_in_float32_after_any_precision(tmp_path, digits, precision):
    keras.config.set_dtype_policy(precision)
    network = small()
    save_encoder(tmp_path / "half", network, spec=SPEC)
    image = digits.test.gather(np.arange(5))["image"] / np.float32(255)
    plain, ours = load_encoder(tmp_path / "half" / "encoder.keras", trusted=True), load_encoder(tmp_path / "half")
    assert plain(image).dtype == ours(image).dtype == "float32"
    np.testing.assert_array_equal(plain(image), ours(image))
    half = load_encoder(tmp_path / "half", precision=precision)(image)
    assert half.dtype == "float32"
    assert not np.array_equal(half, ours(image))
    np.testing.assert_allclose(half, ours(image), atol=0.05)
    assert keras.config.dtype_policy().name == precision


def test_weights_that_are_not_finite_are_not_saved(saved):
    folder, network = saved
    network.variables[0].assign(np.full((784, 16), np.nan))
    with pytest.raises(
        ValueError, match=r"small was not saved, because it has weights that are not finite: \['dense_0/kernel'\]"
    ):
        save_encoder(folder, network, spec=SPEC)
    load_encoder(folder)


def truncated(folder):
    path = folder / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def bit_flipped(folder):
    path = folder / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def oversized(folder):
    with open(folder / "encoder.safetensors", "ab") as file:
        file.truncate(1 << 33)  # a sparse file of 8 GB, which must not be read


def wrong_shape(folder):
    replace_tensors(folder, lambda t: t.update({"dense_1/kernel": np.zeros((16, 9), np.float32)}))


def wrong_dtype(folder):
    replace_tensors(folder, lambda t: t.update({"dense_1/kernel": np.zeros((16, 8), np.float64)}))


def not_finite(folder):
    replace_tensors(folder, lambda t: t["dense_1/bias"].__setitem__(0, np.inf))


def lacking(folder):
    replace_tensors(folder, lambda t: t.pop("dense_0/bias"))


def oddly_named(folder):
    replace_tensors(folder, lambda t: t.update({"dense\n": np.zeros(1, np.float32)}))


def not_safetensors(folder):
    content = b"\xff" * 1000
    (folder / "encoder.safetensors").write_bytes(content)
    edit(folder, weights__bytes=1000, weights__sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is truncated: expected .* bytes. Received"),
        (bit_flipped, "was altered: its sha256 differs from that in the card"),
        (oversized, "is too large: expected .* Received: 8589934592"),
        (wrong_shape, r"dense_1/kernel, expected \(16, 8\), received \(16, 9\)"),
        (wrong_dtype, "expected dense_1/kernel of shape .* F32. Received: .* F64"),
        (not_finite, "dense_1/bias has numbers that are not finite"),
        (oddly_named, r"Tensors that differ: dense\\n, expected None"),
        (lacking, r"dense_0/bias, expected \(16,\), received None"),
        (not_safetensors, "is not a safetensors file"),
        (lambda f: (f / "encoder.safetensors").unlink(), "encoder.safetensors is missing"),
        (lambda f: (f / "card.json").write_text("{"), "is not a valid card"),
        (lambda f: (f / "card.json").write_text("[1]"), "is not a valid card"),
        (lambda f: (f / "card.json").write_bytes(b" " * (1 << 21)), "Expected a card.json of at most"),
        (lambda f: edit(f, format=99), "expected format 2. Received: 99"),
        (lambda f: edit(f, weights__file="../../secret"), "is not a valid card: unexpected weights"),
        (lambda f: edit(f, weights__bytes="many"), "is not a valid card: unexpected weights"),
        (lambda f: edit(f, name="/../../escape"), "is not a valid card: unexpected name"),
        (lambda f: edit(f, trained_by=[1]), "is not a valid card: unexpected trained_by"),
        (lambda f: edit(f, network=[1]), "is not a valid card: Expected a network"),
        (lambda f: edit(f, classes=["a"]), "is not a valid card: unexpected classes"),
        (
            lambda f: edit(f, head={"builder": "classifier_head", "features": 8, "classes": 1}, classes=3),
            "is not a valid card",
        ),
        (lambda f: edit(f, head="other"), "is not a valid card: Expected a network"),
        (lambda f: edit(f, decoding={"symbols": [1]}), "is not a valid card: unexpected decoding"),
        (lambda f: edit(f, decoding={"end": "x"}), "is not a valid card"),
        (lambda f: edit(f, tokenizer={}), "is not a valid card: unexpected tokenizer"),
        (lambda f: edit(f, features=-1), "is not a valid card: unexpected features"),
        (lambda f: edit(f, input={"image": {"shape": [10**30, 1, 1]}}), "is not a valid card: unexpected input shape"),
        (lambda f: edit(f, network__widths="ab"), "dense's widths must be a sequence .* Received: 'ab'"),
        (lambda f: edit(f, network__widths=[1] * 3000), "dense's widths must be a sequence of at most 1000 entries"),
        (lambda f: edit(f, network__widths=[16, -8]), "dense's widths must be .* 1 to 1048576"),
        (lambda f: edit(f, network__widths=[16, True]), "dense's widths must be .* an integer"),
        (lambda f: edit(f, network__image_shape=[28, 28]), "dense's image_shape must be a sequence of 3 entries"),
        (lambda f: (f / "card.json").write_text("[" * 100_000), "is not a valid card"),
        (lambda f: edit(f, network__builder="classifier_head"), "is not a valid card"),
        (lambda f: edit(f, head=json.loads((f / "card.json").read_text())["network"]), "dense cannot be a head"),
        (
            lambda f: edit(f, features=7),
            "Expected float32 inputs of shape .28, 28, 1. and 8 features. Received: .* 7 features",
        ),
        (
            lambda f: edit(f, input__image__shape=[28, 29, 1]),
            r"Received: a card with float32 inputs of shape \(28, 29, 1\)",
        ),
        (
            lambda f: edit(f, input={"waveform": {"shape": [None], "dtype": "float32", "rate": 8000}}),
            r"Received: a card with float32 inputs of shape \(None,\)",
        ),
        (
            lambda f: edit(f, head={"builder": "classifier_head", "features": 9, "classes": 3}),
            "is not a valid card: unexpected features",
        ),
        (
            lambda f: edit(f, head={"builder": "generator", "image_shape": [16, 8, 1], "latent": 3, "width": 4}),
            "small: cannot build an encoder from its card: Expected image sides",
        ),
        (lambda f: edit(f, licenses=[1]), "is not a valid card: unexpected licenses"),
        (lambda f: edit(f, trained_by={"data": "\ud800"}), "is not a valid card: UnicodeEncodeError"),
        (
            lambda f: edit(f, head={"builder": "classifier_head", "features": 8, "classes": 3}, classes="abc"),
            "is not a valid card: unexpected classes",
        ),
        (
            lambda f: edit(f, head={"builder": "classifier_head", "features": 8, "classes": 3}, classes=["a", "b"]),
            "is not a valid card: unexpected classes",
        ),
        (lambda f: edit(f, network__builder="a" * 9000), "Unknown network '.{900,1000} …\\.$"),
        (lambda f: edit(f, network__builder="telepathy"), "Unknown network 'telepathy'. Expected one of "),
        (lambda f: edit(f, network__builder="__import__"), "Unknown network '__import__'"),
        (lambda f: edit(f, network__depth=3), "The network dense has no argument depth"),
        (lambda f: edit(f, network__name="x"), "The network dense has no argument name"),
        (lambda f: edit(f, network__widths=[8] * 1000), "does not fit its card: 1000 widths, but only 4 tensors"),
        (lambda f: edit(f, input__image__dtype="string"), "is not a valid card: unexpected input"),
        (lambda f: edit(f, input={"image": {"shape": [28, 28, 1]}}), "is not a valid card: unexpected input"),
        (lambda f: edit(f, format="\x1b[2J\nok"), r"Received: \\x1b\[2J\\nok\."),
        (lambda f: edit(f, network__builder="\x1b[2J"), r"Unknown network '\\x1b\[2J'"),
        (lambda f: edit(f, head=10**400), "is not a valid card"),
        # Four terabytes, which must be refused before anything is allocated.
        (lambda f: edit(f, network__widths=[10**6, 10**6]), "does not fit its card"),
    ],
)
def test_broken_encoders_are_refused(saved, damage, message):
    folder, _ = saved
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_encoder(folder)


SYMBOLS = {"symbols": ["a", "b"], "words": False}
TEXTS = {"symbols": None, "task": "pairs", "context": 6, "end": 0}


@pytest.mark.parametrize(
    ("head", "decoding", "is_valid"),
    [
        ({"builder": "frame_classifier", "width": 4, "symbols": 2}, SYMBOLS, True),
        ({"builder": "frame_classifier", "width": 4, "symbols": 2}, None, False),
        ({"builder": "frame_classifier", "width": 4, "symbols": 2}, SYMBOLS | {"symbols": None}, False),
        ({"builder": "frame_classifier", "width": 4, "symbols": 2}, {"symbols": ["a", "b"]}, False),
        ({"builder": "frame_classifier", "width": 4, "symbols": 3}, SYMBOLS, False),
        ({"builder": "frame_classifier", "width": 4, "symbols": 2}, SYMBOLS | {"symbols": ["a b", ""]}, False),
        ({"builder": "attending_decoder", "vocabulary": 3}, TEXTS, True),
        ({"builder": "attending_decoder", "vocabulary": 3}, TEXTS | {"symbols": ["a", "b"]}, True),
        ({"builder": "attending_decoder", "vocabulary": 4}, TEXTS | {"symbols": ["a", "b"]}, False),
        ({"builder": "attending_decoder", "vocabulary": 3}, {"symbols": None, "task": "pairs"}, False),
    ],
)
def test_decoding_must_fit_the_head(head, decoding, is_valid):
    card = {"name": "it", "network": None, "head": head, "decoding": decoding}
    if is_valid:
        assert cards.decoding(card) == decoding
    else:
        with pytest.raises(
            ValueError, match="The card of it does not describe how to decode .* symbols without spaces"
        ):
            cards.decoding(card)


@pytest.mark.parametrize("dtype", ["BF16", "F64", "F8_E4M3", "I32", "BOOL"])
def test_weights_of_another_dtype_are_refused(saved, dtype):
    folder, _ = saved
    size = {"F64": 8, "I32": 4, "BF16": 2}.get(dtype, 1)
    place, header = 0, {}
    for name, shape in (
        ("dense_0/kernel", (784, 16)),
        ("dense_0/bias", (16,)),
        ("dense_1/kernel", (16, 8)),
        ("dense_1/bias", (8,)),
    ):
        end = place + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (place, end)}
        place = end
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(place)
    (folder / "encoder.safetensors").write_bytes(content)
    edit(folder, weights__bytes=len(content), weights__sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ValueError, match=rf"expected dense_0/kernel of shape .*, F32. Received: .* {dtype}$"):
        load_encoder(folder)


CARD = json.loads((pathlib.Path(__file__).parents[1] / "support/cards/classifier-fashion_mnist.json").read_text())
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just("\x1b[31m"),
    st.just(10**400),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-1, 9), max_size=4),
    st.sampled_from(sorted(BUILDERS)),
)


def places(value, path=()):
    """Returns the paths of all entries of a card."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def asked_about(card):
    """Calls all functions that read a card."""
    return (
        card["network"] and cards.network(card),
        cards.head(card),
        cards.keyword(card, "vocabulary"),
        cards.is_classifier(card),
        cards.graph_name(card),
        cards.trained_on(card),
    )


def refusal(attempt):
    """Returns the message of the ValueError that a function raises, or an empty string."""
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_card_is_read_or_refused_in_a_line(tmp_path, data):
    """Cards of both formats; any other exception than `ValueError` would print a traceback."""
    old = data.draw(st.booleans())
    card = copy.deepcopy(CARD if old else card_v1.upgrade(copy.deepcopy(CARD)))
    for _ in range(data.draw(st.integers(1, 3))):
        known = [path for path in places(card) if path[0] not in ("results", "versions")]
        *path, last = data.draw(st.sampled_from(known))
        place = card
        for key in path:
            place = place[key]
        if data.draw(st.booleans()) and isinstance(place, dict):
            del place[last]
        else:
            place[last] = data.draw(STRANGE)
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert refusal(lambda: asked_about(cards.read(tmp_path))).isprintable()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_safetensors_file_is_read_or_refused_in_a_line(data):
    expected = {"a": ((2, 3), np.float32), "b": ((), np.int64)}
    content = bytearray(files.tensors_to_bytes({"a": np.zeros((2, 3), "f"), "b": np.int64(3)}))
    files.bytes_to_tensors(bytes(content), expected, "it")
    for _ in range(data.draw(st.integers(1, 3))):
        how = data.draw(st.sampled_from(("byte", "dtype", "cut")))
        if how == "byte":
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        elif how == "dtype":
            other = data.draw(st.sampled_from((b"F16", b"I32", b"I64", b"F64", b"U8 ", b"C64", b'F4"', b"\x1b[3")))
            content = content.replace(b"F32", other)
        else:
            content = content[: data.draw(st.integers(1, len(content)))]
    assert refusal(lambda: files.bytes_to_tensors(bytes(content), expected, "it")).isprintable()


def test_a_shape_of_many_dimensions_is_cut_in_the_message():
    header = json.dumps({"b": {"dtype": "I64", "shape": [1] * 5000, "data_offsets": [0, 8]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(8)
    message = refusal(lambda: files.bytes_to_tensors(content, {"b": ((), np.int64)}, "it"))
    assert message.startswith("it: expected b of shape (), I64. Received: shape (1, 1, 1")
    assert len(message) < 1200


def test_custom_architecture(tmp_path, digits):
    def mine():
        image = keras.Input((28, 28, 1), name="image")
        x = keras.layers.Conv2D(4, 5, strides=5, name="conv")(image)
        x = keras.layers.BatchNormalization(name="norm")(x)
        return keras.Model(image, keras.layers.Flatten()(x))

    network = mine()
    network.layers[2].moving_mean.assign(np.arange(4.0))
    save_encoder(tmp_path / "mine", network, spec=SPEC)
    image = digits.test.gather(np.arange(5))["image"] / np.float32(255)
    loaded = load_encoder(tmp_path / "mine", network=mine())
    np.testing.assert_array_equal(loaded(image), network(image))
    with pytest.raises(ValueError, match="Pass a new network with network=…"):
        load_encoder(tmp_path / "mine")
    with pytest.raises(ValueError, match="does not fit its card"):
        load_encoder(tmp_path / "mine", network=dense_encoder((28, 28, 1)))


def test_keras_files_load_only_when_trusted(saved):
    folder, _ = saved
    with pytest.raises(ValueError, match="a .keras file can contain code"):
        load_encoder(folder / "encoder.keras")
    with pytest.raises(ValueError, match="Expected a local file that you trust"):
        load_encoder("hf://someone/encoder.keras", trusted=True)
    assert load_encoder(folder / "encoder.keras", trusted=True).output_shape == (None, 8)


@pytest.mark.parametrize("name", ["", ".", "/", "..", "a" * 300, "a\0b", "\udce9", "\x1b[2J\n"])
def test_strange_names_are_unknown_encoders(name, capsys):
    for call in (load_encoder, load_classifier, encoders.load_tokenizer):
        with pytest.raises(ValueError, match="Unknown encoder"):
            call(name)
    if "\0" not in name:
        assert main(["embed", name]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_error_for_an_unknown_encoder_lists_the_known_ones(saved):
    with pytest.raises(ValueError, match="Unknown encoder 'large'. Expected one of .*small"):
        load_encoder("large")


def test_a_run_wins_over_a_shipped_encoder_of_the_same_name(saved, tmp_path, monkeypatch, caplog):
    name, shipped = "contrastive-fashion_mnist", pathlib.Path(ssl_keras.__file__).parents[1] / "saved_models"
    saved, _ = saved
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(saved, f"runs/{name}/encoder")
    for _ in range(2):
        assert catalog.find(name) == pathlib.Path(f"runs/{name}/encoder") == catalog.available()[name]
    assert caplog.messages == [f"Encoder {name} is runs/{name}/encoder. To use {shipped / name}, pass its path."]
    assert catalog.find(str(shipped / name)) == shipped / name
    shutil.copytree(saved, f"saved_models/{name}")
    assert catalog.find(name) == pathlib.Path(f"saved_models/{name}") == catalog.available()[name]
    assert len(caplog.messages) == 2
    pathlib.Path("checkout").mkdir()
    monkeypatch.chdir("checkout")
    pathlib.Path("saved_models").symlink_to(shipped)
    assert catalog.find(name) == pathlib.Path("saved_models", name)
    shutil.copytree(saved, f"runs/{name}/encoder")
    assert catalog.find(name) == pathlib.Path(f"runs/{name}/encoder") == catalog.available()[name]


def test_the_shipped_encoder_loads_from_any_directory(fashion_mnist):
    network = load_encoder("autoencoder-fashion_mnist")
    assert network.input_shape == (None, 28, 28, 1)
    assert network.output_shape == (None, 64)
    image = fashion_mnist.test.gather(np.arange(5))["image"] / np.float32(255)
    assert np.isfinite(network(image)).all()


def test_shipped_cards_are_complete():
    root = pathlib.Path(ssl_keras.__file__).parents[1] / "saved_models"
    cards = [json.loads(path.read_text()) for path in root.glob("*/card.json")]
    assert cards
    for card in cards:
        trained_by = card["trained_by"]
        assert card["format"] == 2
        assert trained_by["settings"]["epochs"] or trained_by["settings"]["steps"]
        # A classifier has its own accuracy; a probe with few labels means little after training on all labels.
        assert card["results"] or trained_by["outcome"]["test_accuracy"]
        assert trained_by["data"]["examples"] > 1_000
        assert card["licenses"]["data"]


@pytest.mark.slow
def test_wheel_contains_every_package_and_every_shipped_encoder(tmp_path):
    """The wheel is built from a copy and installed elsewhere, so that no file of the checkout is used."""
    root, source, target = pathlib.Path(ssl_keras.__file__).parents[1], tmp_path / "source", tmp_path / "site"
    shutil.copytree(root, source, ignore=shutil.ignore_patterns(".*", "runs", "results", "build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    for path in (root / "ssl_keras").rglob("*.py"):
        assert (target / path.relative_to(root)).is_file(), path
    code = (
        "import ssl_keras; from ssl_keras.encoders import available, load_encoder; print(ssl_keras.__file__)\n"
        "for name in sorted(available()): print(name, load_encoder(name).count_params())"
    )
    environment = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert out[0].startswith(str(target))
    shipped = sorted(path.parent.name for path in (root / "saved_models").glob("*/card.json"))
    assert [line.split()[0] for line in out[1:]] == shipped


@pytest.mark.parametrize("folder", sorted(pathlib.Path(ssl_keras.__file__).parents[1].glob("saved_models/*/card.json")))
def test_shipped_encoders_become_plain_keras_files(folder, tmp_path):
    """The shipped folders have no `encoder.keras`, which would be as large as the safetensors; one line makes it."""
    ours = load_encoder(folder.parent)
    ours.save(tmp_path / "encoder.keras")
    plain = load_encoder(tmp_path / "encoder.keras", trusted=True)
    if len(ours.input.shape) == 4:
        x = np.ones((2, 28, 28, ours.input.shape[-1]))
    elif ours.input.dtype == "int32":
        x = np.random.default_rng(0).integers(5, 34, (2, 30))
    else:
        x = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4_000))
    np.testing.assert_array_equal(plain(tf.cast(x, ours.input.dtype)), ours(tf.cast(x, ours.input.dtype)))
