"""Saving of encoders, atomically: a folder contains a complete encoder or none."""

import datetime
import hashlib
import pathlib
import shutil

import keras
import numpy as np
import safetensors.numpy
import tensorflow as tf

import ssl_keras
from ssl_keras import files
from ssl_keras.data import inputs
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import replacing
from ssl_keras.encoders.catalog import find
from ssl_keras.encoders.loading import named_tensors
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.files import locks
from ssl_keras.networks import description, realize

PREPROCESSING = {
    "image": "uint8 pixels are divided by 255",
    "tokens": "tokenizer.json",
    "waveform": "int16 samples are divided by 32768; -1 is padding",
}


def save_encoder(
    folder,
    encoder,
    *,
    spec,
    head=None,
    classes=(),
    target=None,
    tokenizer=None,
    name=None,
    context=None,
    decoding=None,
    trained_by=None,
    licenses=None,
):
    """Writes a folder that `load_encoder` reads. An encoder already there stays until this one is complete.

    Other files in the folder are kept.

    Args:
        folder: the folder to write.
        encoder: functional Keras model that maps images (B, H, W, C) or waveforms to features (B, D), or tokens
            (B, T) to hidden states (B, T, D). If a `networks.Network` built it, the card describes it. A custom
            architecture must be passed to `load_encoder(folder, network=...)`.
        spec: the `spec()` of the training source.
        head: Keras model on top of the encoder that a `Network` built, or None.
        classes: the names of the outputs of a classification head: of classes, tags or labels.
        target: what the head predicts, see `card.target`; None is classes, if there are any.
        tokenizer: the `Tokenizer` of an encoder of text.
        name: the encoder's name; by default the folder's.
        context: maximum number of tokens in training, if the network does not define it.
        decoding: JSON-serializable dict that defines how to decode the head's outputs, see `Objective.decoding`.
        trained_by: JSON-serializable information: objective, settings, data, outcome.
        licenses: {"data": …, "teacher": …}, the known licenses of what the encoder was trained on.

    Returns:
        The card, a dict.

    Raises:
        ValueError: weights are not finite (the folder is left unchanged); the head was not built by a `Network`; the
            folder contains something other than an encoder. The new encoder is then kept where the message tells.
        OSError: the folder cannot be written or replaced. In the latter case the new encoder is kept likewise.
    """
    folder, encoder = pathlib.Path(folder), realize(encoder)
    if head is not None and description(head) is None:
        raise ValueError(
            f"The head must be built by a networks.Network, such as classifier_head. Received: {head.name}"
        )
    tensors = files.read_variables(named_tensors(encoder, head, description(encoder) is not None))
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"{folder.name} was not saved, because it has weights that are not finite: {broken}.")
    content = files.tensors_to_bytes(tensors)
    card = {
        "format": cards.FORMAT,
        "name": cards.safe_name(name or folder.name),
        "network": _entry(encoder),
        "head": _entry(head),
        "classes": list(classes) if classes else None,
        "target": target,
        "decoding": decoding,
        "input": cards.input_of(spec, encoder, context),
        "preprocessing": PREPROCESSING[inputs.column(spec)],
        "tokenizer": tokenizer and {"file": "tokenizer.json", "sha256": tokenizer.sha256},
        "features": int(encoder.output_shape[-1]),
        "parameters": int(sum(value.size for value in tensors.values())),
        "weights": {
            "file": "encoder.safetensors",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "trained_by": trained_by or {},
        "licenses": licenses or {},
        "versions": {"ssl_keras": ssl_keras.__version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "saved": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "results": {},
    }
    target = replacing.resolve(folder)
    files.make_folder(target.parent)
    with locks.writing_in(target.parent) as alone:
        partial = files.new_beside(target, "partial")
        try:
            files.write(partial / "encoder.safetensors", content)
            _save_for_keras(encoder, partial / "encoder.keras", card)
            if tokenizer is not None:
                files.write(partial / "tokenizer.json", tokenizer.json)
            files.write_json(partial / "card.json", card)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        replacing.replace(target, partial)
        if alone:
            replacing.remove_leftovers(target)
    return card


def copy_in_float16(name, out):
    """Copies a saved encoder, with its weights rounded to 16 bits: half the size. `load_encoder` widens them.

    The copy's card has no results, since they are those of other weights.

    Args:
        name: a saved encoder. out: a new folder.

    Raises:
        ValueError: the name is unknown; the folder exists; a weight is too large for float16.
    """
    folder, out = find(name), pathlib.Path(out)
    card = cards.read(folder)
    files.check_new(out)
    tensors = safetensors.numpy.load_file(folder / card["weights"]["file"])
    with np.errstate(over="ignore"):
        narrow = {key: each.astype(np.float16) if each.dtype == np.float32 else each for key, each in tensors.items()}
    broken = [key for key, value in narrow.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"{name}: weights beyond 65,504, which float16 does not have: {files.excerpt(broken)}.")
    content = files.tensors_to_bytes(narrow)
    card |= {"name": cards.safe_name(out.name), "results": {}}
    card["weights"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with files.new_folder(out) as partial:
        files.write(partial / card["weights"]["file"], content)
        if card["tokenizer"] is not None:
            shutil.copy(folder / card["tokenizer"]["file"], partial)
        files.write_json(partial / "card.json", card)


def _entry(graph):
    """Returns a model's `Network` as JSON for the card, or None."""
    network = graph is not None and description(graph)
    return network.to_json() if network else None


def _save_for_keras(encoder, path, card):
    """Writes the `.keras` file. An encoder that the card describes gets the name that `load_encoder` gives it."""
    plain = _in_float32(encoder)
    original_name = plain.name
    if card["network"] is not None:
        plain.name = cards.graph_name(card)
    try:
        plain.save(path)
    finally:
        plain.name = original_name


def _in_float32(encoder):
    """Returns the encoder with float32 computation, whatever precision it was trained in."""
    network = description(encoder)
    if encoder.compute_dtype == "float32" or network is None:
        return encoder
    with dtype_policy("float32"):
        plain = network.build()
    plain.set_weights(encoder.get_weights())
    return plain


def record(name, data, results):
    """Writes measured results on a dataset into an encoder's card."""
    # The lock keeps a card from overwriting that of an encoder which has just replaced this one.
    with locks.writing_in(replacing.resolve(find(name)).parent):
        folder = find(name)
        card = cards.read(folder)
        card["results"][data] = results
        files.write_json(folder / "card.json", card)
