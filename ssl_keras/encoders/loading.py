"""Loads saved encoders: rebuilds the graph from the card, then reads the numbers."""

import hashlib
import math
import os
import pathlib
from collections.abc import Callable
from typing import Literal

import keras
import numpy as np
import safetensors
import tensorflow as tf

from ssl_keras import files
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.ranges import check
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.catalog import find
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.networks import gives_states, realize
from ssl_keras.networks.transformer import Pool


def load_encoder(
    name: str | os.PathLike,
    *,
    network: keras.Model | Callable[[], keras.Model] | None = None,
    trusted: bool = False,
    precision: str = "float32",
) -> keras.Model:
    """Loads a saved encoder as a plain functional Keras model.

    Args:
        name: a shipped or saved encoder's name ("autoencoder-fashion_mnist"), the path of
            its folder or of a run's, or the path of a `.keras` file.
        network: for an encoder of your own architecture: a fresh graph to load it into, or a function that makes one.
        trusted: a `.keras` file can run code when it is loaded; it loads only with
            `trusted=True`, and only from a local file.
        precision: what to compute in, float32, mixed_bfloat16 or mixed_float16; the weights are float32 anyhow.

    Returns:
        `keras.Model` from images (B, H, W, C) float32 in [0, 1], or waveforms (B, L) float32 in (-1, 1),
        -1 for padding, to features (B, D) float32, or from tokens (B, T) int32, -1 for padding, to hidden
        states (B, T, D) float32. Its `name` is that of its card, in the letters that Keras allows; set another one
        where two encoders of one name go into a model.

    Raises:
        ValueError: unknown name; a file that is truncated, altered, too large, of another
            shape, or holds numbers that are not finite; an untrusted `.keras` file.
    """
    path = pathlib.Path(name)
    check("precision", precision, Literal["float32", "mixed_bfloat16", "mixed_float16"])
    if path.suffix == ".keras":
        if not trusted or not path.is_file():
            raise ValueError(
                f"{name}: a .keras file can carry code. Expected a local file that you trust: "
                "load_encoder(path, trusted=True). Or load the folder with card.json and encoder.safetensors."
            )
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    with dtype_policy(precision):
        return _load(find(name), network)[0]


def load_with_head(name, network=None):
    """(encoder, head, card): as `load_encoder`, with the head that it was saved with, or None."""
    with dtype_policy("float32"):
        return _load(find(name), network)


def load_tokenizer(name: str | os.PathLike) -> tokenizers.Tokenizer:
    """The `Tokenizer` that a saved encoder of text was trained with.

    Raises:
        ValueError: unknown name; an encoder of images; a tokenizer that is not this encoder's.
    """
    folder = find(name)
    card = cards.read(folder)
    if card["tokenizer"] is None:
        raise ValueError(f"{card['name']} takes {', '.join(card['input'])}, and has no tokenizer.")
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    if tokenizer.sha256 != card["tokenizer"].get("sha256"):
        raise ValueError(
            f"{folder / 'tokenizer.json'} does not belong to this encoder: its sha256 is not the card's. Get it again."
        )
    trained = cards.keyword(card, "vocabulary")
    if trained is not None and tokenizer.vocabulary > trained:
        raise ValueError(
            f"{card['name']}: its tokenizer has {tokenizer.vocabulary} tokens, and it was trained with {trained}. "
            "Expected the tokenizer that belongs to it."
        )
    return tokenizer


def load_classifier(
    name: str | os.PathLike, *, network: keras.Model | Callable[[], keras.Model] | None = None
) -> keras.Model:
    """Loads a fine-tuned encoder with its head, as one model.

    Args:
        name, network: as of `load_encoder`.

    Returns:
        `keras.Model` from images (B, H, W, C) in [0, 1], tokens (B, T) or waveforms (B, L), to logits (B, classes).

    Raises:
        ValueError: as `load_encoder`, and where there is no head.
    """
    with dtype_policy("float32"):
        encoder, head, card = _load(find(name), network)
        if not cards.is_classifier(card):
            raise ValueError(f"{card['name']} has no classifier head. Fine-tune it first: ssl-keras finetune {name}")
        features = encoder.output
        if gives_states(encoder):
            features = Pool(name="pool")(features, encoder.input)
        return keras.Model(encoder.input, head(features), name=cards.graph_name(card, "classifier"))


def build(card, network=None):
    """Fresh (encoder, head or None) as the card describes them; `network` is an encoder of one's own instead."""
    encoder, head = network or cards.network(card).build(), cards.head(card)
    if network is None:
        encoder.name = cards.graph_name(card)
    if head is not None:
        head = head.build()
        head.name = cards.graph_name(card, "head")
    return encoder, head


def named_variables(network):
    """{path: variable} of a network, in its order; a path met again gets `#2`, `#3`, …."""
    named = {}
    for variable in network.variables:
        copies = sum(name.split("#")[0] == variable.path for name in named)
        named[variable.path + (f"#{copies + 1}" if copies else "")] = variable
    return named


def named_tensors(encoder, head, ours=True):
    """{name: variable}; of an architecture not ours by position, since Keras numbers unnamed layers anew."""
    tensors = named_variables(encoder)
    if not ours:
        tensors = {f"{i:04d}/{v.name}": v for i, v in enumerate(tensors.values())}
    if head is not None:
        tensors |= {f"head/{name}": v for name, v in named_variables(head).items()}
    return tensors


def _load(folder, network):
    card = cards.read(folder)
    network = network and realize(network)
    path, ours = folder / card["weights"]["file"], card["network"] is not None
    _check_file(path, card)
    stored = _header(path)
    # A card may ask for any size: build it first where nothing is allocated.
    with tf.Graph().as_default():
        _check_depth(path, stored, card)
        try:
            variables = named_tensors(*build(card, network), ours)
        except (TypeError, OverflowError, RecursionError, ArithmeticError, MemoryError, tf.errors.OpError) as error:
            cause = files.printable(str(error).partition("\n")[0])
            raise ValueError(f"{folder}: no encoder can be built from its card: {cause}") from error
        _check_shapes(path, stored, variables, card)
    encoder, head = build(card, network)
    variables = named_tensors(encoder, head, ours)
    expected = {name: (tuple(v.shape), np.dtype(v.dtype)) for name, v in variables.items()}
    files.assign_variables(variables, files.bytes_to_tensors(path.read_bytes(), expected, str(path)))
    return encoder, head, card


def _check_file(path, card):
    if not path.is_file():
        raise ValueError(f"{path} is missing. Expected the file that card.json names.")
    size, expected = path.stat().st_size, card["weights"]["bytes"]
    if size != expected:
        what = "truncated" if size < expected else "too large"
        raise ValueError(f"{path} is {what}: expected {expected} bytes. Received: {size}. Get it again.")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != card["weights"]["sha256"]:
        raise ValueError(f"{path} was altered: its sha256 is not the card's. Get it again.")


def _header(path):
    """{name: shape} of a file's tensors, before any is read."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {files.printable(error)}") from error


def _check_depth(path, stored, card):
    """Raises ValueError where the card asks for more layers than the file has tensors, and they might be slow."""
    for entry in (card["network"] or {}, card["head"] or {}):
        for name, value in entry.items():
            layers = len(value) if name == "widths" else value if name.endswith("layers") else 0
            if layers > len(stored):
                raise ValueError(f"{path} does not fit its card: {layers} {name}, and only {len(stored)} tensors.")


def _check_shapes(path, stored, variables, card):
    """Compares the file's header with the graph before any tensor is read."""
    expected = {name: tuple(v.shape) for name, v in variables.items()}
    parameters = sum(math.prod(shape) for shape in expected.values())
    if stored != expected or parameters != card["parameters"]:
        differing = sorted(n for n in stored.keys() | expected.keys() if stored.get(n) != expected.get(n))
        said = ", ".join(f"{n} expected {expected.get(n)} received {stored.get(n)}" for n in differing[:5])
        raise ValueError(
            f"{path} does not fit its card: expected {parameters} parameters; tensors that differ: "
            + files.printable(said)
        )
