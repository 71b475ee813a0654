"""Loading of saved encoders: the network is built from the card, then the weights are read."""

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
from ssl_keras.data import inputs
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.ranges import check
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.catalog import find
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.networks import description, gives_states, pooling_of, realize
from ssl_keras.networks.dense import per_token
from ssl_keras.networks.transformer import Pool

# What building a network of unsuitable sizes raises, besides ValueError.
BUILD_ERRORS = (TypeError, RecursionError, ArithmeticError, MemoryError, tf.errors.OpError)


def load_encoder(
    name: str | os.PathLike,
    *,
    network: keras.Model | Callable[[], keras.Model] | None = None,
    trusted: bool = False,
    precision: str = "float32",
) -> keras.Model:
    """Loads a saved encoder as a plain functional Keras model.

    Args:
        name: the name of a shipped or saved encoder ("autoencoder-fashion_mnist"), the path of its
            folder or of a run's folder, or the path of a `.keras` file.
        network: for an encoder of your own architecture, a new Keras model of it, or a function that builds one.
        trusted: whether to load a `.keras` file, which can run code when it is loaded. It must be a
            local file.
        precision: float32, mixed_bfloat16 or mixed_float16 computation; the weights are always float32.

    Returns:
        A `keras.Model` that maps images (B, H, W, C) float32 in [0, 1], or waveforms (B, L) float32 in (-1, 1)
        padded with -1, to features (B, D) float32; or tokens (B, T) int32 padded with -1 to hidden
        states (B, T, D) float32. Its `name` is that of its card, without characters that Keras does not allow. Change
        it if you use two encoders of the same name in one model.

    Raises:
        ValueError: the name is unknown; a file is truncated, altered or too large, or does not
            fit the network; weights are not finite; a `.keras` file is not trusted.
    """
    check("The name of an encoder", name, str)
    path = pathlib.Path(name)
    check("precision", precision, Literal["float32", "mixed_bfloat16", "mixed_float16"])
    if path.suffix == ".keras":
        if not trusted or not path.is_file():
            raise ValueError(
                f"{name}: a .keras file can contain code. Expected a local file that you trust: "
                "load_encoder(path, trusted=True). Or load the folder with card.json and encoder.safetensors."
            )
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    with dtype_policy(precision):
        return _load(find(name), network)[0]


def load_with_head(name, network=None):
    """Loads an encoder as `load_encoder` does; returns (encoder, the head that it was saved with or None, card)."""
    with dtype_policy("float32"):
        return _load(find(name), network)


def load_tokenizer(name: str | os.PathLike) -> tokenizers.Tokenizer:
    """Loads the `Tokenizer` that a saved encoder of text was trained with.

    Raises:
        ValueError: the name is unknown, the encoder has no tokenizer, or the tokenizer is not the encoder's.
    """
    folder = find(name)
    card = cards.read(folder)
    if card["tokenizer"] is None:
        raise ValueError(f"{card['name']} takes {', '.join(card['input'])} and has no tokenizer.")
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    if tokenizer.sha256 != card["tokenizer"].get("sha256"):
        raise ValueError(
            f"{folder / 'tokenizer.json'} does not belong to this encoder: its sha256 differs from that in the card. "
            "Get the encoder's folder again."
        )
    trained = cards.keyword(card, "vocabulary")
    if trained is not None and tokenizer.vocabulary > trained:
        raise ValueError(
            f"{card['name']}: expected the tokenizer of its training, with at most {trained} tokens. Received: "
            f"{tokenizer.vocabulary} tokens"
        )
    return tokenizer


def load_classifier(
    name: str | os.PathLike, *, network: keras.Model | Callable[[], keras.Model] | None = None
) -> keras.Model:
    """Loads a fine-tuned encoder with its classification head, as one model.

    Args:
        name, network: as in `load_encoder`.

    Returns:
        A `keras.Model` that maps images (B, H, W, C) in [0, 1], tokens (B, T) or waveforms (B, L) to logits
        (B, classes); of a number to the number (B, 1), in its own unit; of tags to logits (B, T, tags), those of a
        word at its first token.

    Raises:
        ValueError: as in `load_encoder`, or the encoder has no classification head.
    """
    with dtype_policy("float32"):
        encoder, head, card = load_classifier_parts(name, network)
        features = encoder.output
        if cards.target(card)["kind"] == "tags":
            outputs = per_token(head, features)
        elif gives_states(encoder):
            outputs = head(Pool(pooling_of(encoder), name="pool")(features, encoder.input))
        else:
            outputs = head(features)
        return keras.Model(encoder.input, outputs, name=cards.graph_name(card, "classifier"))


def load_classifier_parts(name, network=None):
    """Loads a fine-tuned encoder as `load_classifier` does; returns (encoder, head, card)."""
    encoder, head, card = load_with_head(name, network)
    if cards.target(card)["kind"] is None:
        raise ValueError(f"{card['name']} has no classification head. Fine-tune it: ssl-keras finetune {name}")
    return encoder, head, card


def build(card, network=None):
    """Builds a new (encoder, head or None) from a card; `network` replaces the encoder for custom architectures."""
    encoder, head = network or cards.network(card).build(), cards.head(card)
    if network is None:
        encoder.name = cards.graph_name(card)
    if head is not None:
        head = head.build()
        head.name = cards.graph_name(card, "head")
    return encoder, head


def named_variables(network):
    """Returns {path: variable} of a network, in order; duplicate paths get the suffixes `#2`, `#3`, …."""
    named = {}
    for variable in network.variables:
        copies = sum(name.split("#")[0] == variable.path for name in named)
        named[variable.path + (f"#{copies + 1}" if copies else "")] = variable
    return named


def named_tensors(encoder, head, is_described=True):
    """Returns {name: variable} of the encoder and the head.

    For a custom architecture, which the card does not describe, the names contain positions, because the numbers that
    Keras gives to unnamed layers depend on what was built before.
    """
    tensors = named_variables(encoder)
    if not is_described:
        tensors = {f"{i:04d}/{v.name}": v for i, v in enumerate(tensors.values())}
    if head is not None:
        tensors |= {f"head/{name}": v for name, v in named_variables(head).items()}
    return tensors


def _load(folder, network):
    card = cards.read(folder)
    network = network and realize(network)
    path, is_described = folder / card["weights"]["file"], card["network"] is not None
    _check_file(path, card)
    stored = _header(path)
    # A card may ask for any size, so build the network first where nothing is allocated.
    with tf.Graph().as_default():
        _check_depth(path, stored, card)
        try:
            graph, head = build(card, network)
            variables = named_tensors(graph, head, is_described)
        except (ValueError, *BUILD_ERRORS) as error:
            cause = files.excerpt(str(error).partition("\n")[0])
            raise ValueError(f"{folder}: cannot build an encoder from its card: {cause}") from error
        _check_shapes(path, stored, variables, card)
        if is_described:
            _check_sides(path, graph, card)
    encoder, head = build(card, network)
    variables = named_tensors(encoder, head, is_described)
    expected = {name: (tuple(v.shape), np.dtype(v.dtype)) for name, v in variables.items()}
    files.assign_variables(variables, files.bytes_to_tensors(path.read_bytes(), expected, str(path), widen=True))
    return encoder, head, card


def _check_file(path, card):
    if not path.is_file():
        raise ValueError(f"{path} is missing. Expected the file of weights that card.json names.")
    size, expected = path.stat().st_size, card["weights"]["bytes"]
    if size != expected:
        what = "truncated" if size < expected else "too large"
        raise ValueError(f"{path} is {what}: expected {expected} bytes. Received: {size}. Get the file again.")
    if files.sha256(path) != card["weights"]["sha256"]:
        raise ValueError(f"{path} was altered: its sha256 differs from that in the card. Get the file again.")


def _header(path):
    """Returns {name: shape} of a file's tensors, without reading them."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {files.excerpt(error)}") from error


def _check_depth(path, stored, card):
    """Raises ValueError if the card has more layers than the file has tensors, since building them might be slow."""
    for entry in (card["network"] or {}, card["head"] or {}):
        for name, value in entry.items():
            layers = len(value) if name == "widths" else value if name.endswith("layers") else 0
            if layers > len(stored):
                raise ValueError(f"{path} does not fit its card: {layers} {name}, but only {len(stored)} tensors.")


def _check_sides(path, graph, card):
    """Compares the card's input and features, on which other code relies, with those of the network."""
    kind = inputs.column(card["input"])
    entry, sides = card["input"][kind], graph.input_shape[1:]
    expected = f"{graph.input.dtype} inputs of shape {sides} and {graph.output_shape[-1]} features"
    received = f"{entry['dtype']} inputs of shape {tuple(entry['shape'])} and {card['features']} features"
    is_fitting = len(sides) == len(entry["shape"]) and all(
        side in (None, stated) for side, stated in zip(sides, entry["shape"])
    )
    longest = description(graph).max_tokens or math.inf
    if not is_fitting or (entry["dtype"], card["features"]) != (graph.input.dtype, graph.output_shape[-1]):
        raise ValueError(f"{path} does not fit its card. Expected {expected}. Received: a card with {received}")
    if entry.get("context", 1) > longest:
        raise ValueError(
            f"{path} does not fit its card. Expected a context of at most {longest} tokens. Received: "
            f"{entry['context']}"
        )


def _check_shapes(path, stored, variables, card):
    """Compares the file's header with the network before any tensor is read."""
    expected = {name: tuple(v.shape) for name, v in variables.items()}
    parameters = sum(math.prod(shape) for shape in expected.values())
    if stored != expected or parameters != card["parameters"]:
        differing = sorted(n for n in stored.keys() | expected.keys() if stored.get(n) != expected.get(n))
        shown = ", ".join(f"{n}, expected {expected.get(n)}, received {stored.get(n)}" for n in differing[:5])
        raise ValueError(
            f"{path} does not fit its card: the network has {parameters} parameters. Tensors that differ: "
            + files.excerpt(shown)
        )
