"""Saves encoders, whole or not at all."""

import dataclasses
import datetime
import hashlib
import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf

import ssl_keras
from ssl_keras import files, objectives
from ssl_keras.data import inputs
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.catalogue import _beside, _recover, find
from ssl_keras.encoders.loading import named_tensors
from ssl_keras.engine.precision import dtype_policy

PREPROCESSING = {
    "image": "uint8 pixels are divided by 255", "tokens": "tokenizer.json",
    "waveform": "int16 samples are divided by 32768; -1 is padding",
}


def save_encoder(folder, encoder, *, objective, settings, spec, head=None, classes=(), tokenizer=None,
                 name=None, data=None, training=None):
    """Writes a folder that `load_encoder` reads; a folder already there stays until this one is whole.

    Args:
        folder: where to.
        encoder: functional graph from images (B, H, W, C) or waveforms to features (B, D), or from tokens
            (B, T) to hidden states (B, T, D).
        objective: name of the objective that trained it.
        settings: that objective's settings dataclass; None for an encoder of another
            architecture than the objective's own, which then loads with `network=`.
        spec: the source's `spec()`.
        head: functional graph from features to logits (B, classes); without `classes`, the
            objective's own, as its `head(settings, spec)` makes it; or None.
        classes: the class names of a classifier's head.
        tokenizer: the `Tokenizer` of an encoder of text.
        name: the encoder's name; default the folder's last part.
        data, training: JSON-able notes for the card.

    Returns:
        The card, a dict.

    Raises:
        ValueError: weights that are not finite (the folder is left as it was).
    """
    folder = pathlib.Path(folder)
    tensors = files.read_variables(named_tensors(encoder, head, settings is not None))
    broken = [name for name, value in tensors.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(f"Not saved: {folder.name} has weights that are not finite: {broken}.")
    content = files.tensors_to_bytes(tensors)
    card = {
        "format": cards.FORMAT,
        "name": cards.safe_name(name or folder.name),
        "objective": objective,
        "settings": None if settings is None else dataclasses.asdict(settings),
        "input": cards.input_of(spec),
        "preprocessing": PREPROCESSING[inputs.column(spec)],
        "tokenizer": tokenizer and {"file": "tokenizer.json", "sha256": tokenizer.sha256},
        "features": int(encoder.output_shape[-1]),
        "head": None if head is None else "classifier" if classes else "objective",
        "classes": list(classes) if classes else None,
        "parameters": int(sum(value.size for value in tensors.values())),
        "weights": {
            "file": "encoder.safetensors", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()
        },
        "data": data or {},
        "training": training or {},
        "versions": {"ssl_keras": ssl_keras.__version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "saved": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "results": {},
    }
    _recover(folder)
    partial = _beside(folder, "partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
    files.make_folder(partial)
    try:
        files.write(partial / "encoder.safetensors", content)
        _in_float32(encoder, objective, settings, spec).save(partial / "encoder.keras")
        if tokenizer is not None:
            files.write(partial / "tokenizer.json", tokenizer.json)
        files.write_json(partial / "card.json", card)
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already where all went well
    return card


def _in_float32(encoder, objective, settings, spec):
    """The same encoder computing in float32, whatever precision it was trained in."""
    if encoder.compute_dtype == "float32" or settings is None:
        return encoder
    with dtype_policy("float32"):
        plain = objectives.module(objective).encoder(settings, spec)
    plain.set_weights(encoder.get_weights())
    return plain


def _swap(new, folder):
    """Puts `new` in the place of `folder`; what was there goes only when the new one stands."""
    old = _beside(folder, "old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)  # killed before this: `_recover` puts the old one back
    shutil.rmtree(old, ignore_errors=True)


def record(name, data, results):
    """Writes measured results on a data set into an encoder's card."""
    folder = find(name)
    card = cards.read(folder)
    card["results"][data] = results
    files.write_json(folder / "card.json", card)
