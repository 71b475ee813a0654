"""Saves encoders, whole or not at all."""

import datetime
import hashlib
import pathlib
import shutil

import keras
import numpy as np
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
    tokenizer=None,
    name=None,
    context=None,
    decoding=None,
    trained_by=None,
    licenses=None,
):
    """Writes a folder that `load_encoder` reads; an encoder already there stays until this one is whole.

    Other files in its folder are kept.

    Args:
        folder: where to.
        encoder: functional graph from images (B, H, W, C) or waveforms to features (B, D), or from tokens
            (B, T) to hidden states (B, T, D). One that a `networks.Network` built is described in the card;
            one of another architecture then loads with `load_encoder(folder, network=...)`.
        spec: the source's `spec()`.
        head: graph that a `Network` built, on top of the encoder; or None.
        classes: the class names of a classifier's head.
        tokenizer: the `Tokenizer` of an encoder of text.
        name: the encoder's name; default the folder's last part.
        context: the most tokens that it was trained on, where its network does not say so.
        decoding: JSON-able dict that says how the head's outputs are read, see `Objective.decoding`.
        trained_by: JSON-able note: objective, settings, data, outcome.
        licenses: {"data": …, "teacher": …}, the licenses of what it was trained on, where they are known.

    Returns:
        The card, a dict.

    Raises:
        ValueError: weights that are not finite (the folder is left as it was); a head that no `Network` built;
            something else than an encoder is there. This one is then kept beside it, as the message says.
        OSError: the folder cannot be written or replaced; of what cannot be replaced the new one is kept likewise.
    """
    folder, encoder = pathlib.Path(folder), realize(encoder)
    if head is not None and description(head) is None:
        raise ValueError(f"The head {head.name} must be built by a networks.Network, such as classifier_head.")
    tensors = files.read_variables(named_tensors(encoder, head, description(encoder) is not None))
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"Not saved: {folder.name} has weights that are not finite: {broken}.")
    content = files.tensors_to_bytes(tensors)
    card = {
        "format": cards.FORMAT,
        "name": cards.safe_name(name or folder.name),
        "network": _entry(encoder),
        "head": _entry(head),
        "classes": list(classes) if classes else None,
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
    place = replacing.real(folder)
    files.make_folder(place.parent)
    with locks.writing_in(place.parent) as alone:
        partial = files.new_beside(place, "partial")
        try:
            files.write(partial / "encoder.safetensors", content)
            _save_for_keras(encoder, partial / "encoder.keras", card)
            if tokenizer is not None:
                files.write(partial / "tokenizer.json", tokenizer.json)
            files.write_json(partial / "card.json", card)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        replacing.put(partial, place)
        if alone:
            replacing.remove_leftovers(place)
    return card


def _entry(graph):
    """A graph's `Network` as a card holds it, or None."""
    network = graph is not None and description(graph)
    return network.to_json() if network else None


def _save_for_keras(encoder, path, card):
    """Writes the export for plain Keras; one of ours has the name that `load_encoder` gives it."""
    plain = _in_float32(encoder)
    before = plain.name
    if card["network"] is not None:
        plain.name = cards.graph_name(card)
    try:
        plain.save(path)
    finally:
        plain.name = before


def _in_float32(encoder):
    """The same encoder computing in float32, whatever precision it was trained in."""
    network = description(encoder)
    if encoder.compute_dtype == "float32" or network is None:
        return encoder
    with dtype_policy("float32"):
        plain = network.build()
    plain.set_weights(encoder.get_weights())
    return plain


def record(name, data, results):
    """Writes measured results on a data set into an encoder's card."""
    with locks.writing_in(replacing.real(find(name)).parent):  # else a card might get back what another has replaced
        folder = find(name)
        card = cards.read(folder)
        card["results"][data] = results
        files.write_json(folder / "card.json", card)
