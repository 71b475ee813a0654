"""An encoder's card: what it is, checked before anything is built or allocated on its word."""

import dataclasses
import json
import re

import tensorflow as tf

from ssl_keras import objectives
from ssl_keras.data import inputs

CARD_BYTES = 1 << 20
NAME = re.compile(r"\w[\w. +-]*")  # no path, and nothing hidden
LONGEST_SETTING = 1_000  # entries of a tuple, such as the widths of layers
FORMAT = 1


def read(folder):
    """The card of the encoder in `folder`, checked. Raises ValueError where it is none of ours."""
    path = folder / "card.json"
    if not path.is_file() or path.stat().st_size > CARD_BYTES:
        raise ValueError(f"{folder} holds no encoder: expected a card.json of at most {CARD_BYTES} bytes.")
    try:
        card = json.loads(path.read_text("utf-8"))
        if card["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}. Received: {card['format']}")
        weights = card["weights"]
        kind = inputs.column(card["input"])
        shape = card["input"][kind]["shape"]
        captioned = card["objective"] == "image_text"  # takes images, and knows what they are called
        rules = {  # what a value must be for the code that reads it to be safe
            "name": isinstance(card["name"], str) and NAME.fullmatch(card["name"]),
            "objective": isinstance(card["objective"], str),
            "settings": card["settings"] is None or isinstance(card["settings"], dict),
            "input shape": shape == [None] if kind != "image" else (
                len(shape) == 3 and all(_counts(side, 1 << 16) for side in shape)
            ),
            "tokenizer": isinstance(card["tokenizer"], dict if kind == "tokens" or captioned else type(None)),
            "head": card["head"] in (None, "classifier", "objective"),
            "features": _counts(card["features"], 1 << 24),
            "classes": card["head"] != "classifier" or all(isinstance(name, str) for name in card["classes"]),
            "parameters": _counts(card["parameters"], 1 << 48),
            "weights": weights["file"] == "encoder.safetensors" and _counts(weights["bytes"], 1 << 50)
            and isinstance(weights["sha256"], str),
            "results": isinstance(card["results"], dict),
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a card: {type(error).__name__} {error}.") from error
    wrong = [name for name, holds in rules.items() if not holds]
    if wrong:
        raise ValueError(f"{path} is not a card: unexpected {', '.join(wrong)}.")
    return card


def safe_name(name):
    """The name without what a card's name may not hold: path separators, brackets, a leading dot."""
    return re.sub(r"^\W+|[^\w. +-]", "-", name).lstrip("-") or "encoder"


def settings(card):
    """The `Settings` that a card holds. Raises ValueError where they are none of the objective's."""
    module = objectives.module(card["objective"])
    if card["settings"] is None:
        raise ValueError(
            f"{card['name']} is an encoder of another architecture: pass a fresh one, load_encoder(name, network=...)."
        )
    defaults = dataclasses.asdict(module.Settings())
    unknown = card["settings"].keys() - defaults.keys()
    if unknown:
        raise ValueError(f"{card['name']}: {card['objective']} has no settings {sorted(unknown)}.")
    for key, value in card["settings"].items():
        if not _like(value, defaults[key]):
            raise ValueError(f"{card['name']}: expected {key} like {defaults[key]!r}. Received: {str(value)[:100]}")
    return module.Settings(**{k: tuple(v) if isinstance(v, list) else v for k, v in card["settings"].items()})


def input_of(spec):
    """What a card says of the network's input, from a source's spec."""
    kind = inputs.column(spec)
    if kind != "image":
        return {kind: {"shape": [None], "dtype": "int32" if kind == "tokens" else "float32", "padding": -1}}
    return {"image": {"shape": list(spec["image"][0]), "dtype": "float32", "range": [0, 1]}}


def spec_of(card):
    """The spec that a graph is built from, from a card."""
    kind = inputs.column(card["input"])
    entry = card["input"][kind]
    return {kind: (tuple(entry["shape"]), tf.as_dtype(entry["dtype"]))}


def check_images(card, source):
    """Raises ValueError where a source's images are not of the shape that an encoder takes."""
    if "image" not in card["input"]:
        raise ValueError(f"{card['name']} takes {', '.join(card['input'])}. Expected an encoder of images.")
    if "image" not in source.arrays:
        raise ValueError(
            f"{card['name']} takes images. Received: {', '.join(source.arrays)} from {source.name}. "
            "Choose other --data."
        )
    expected, received = tuple(card["input"]["image"]["shape"]), tuple(source.spec()["image"][0])
    if expected != received:
        hint = f" Try --image-size {expected[0]}." if expected[2:] == received[2:] else ""
        raise ValueError(
            f"{card['name']} takes images of shape {expected}. Received: {received} from {source.name}.{hint}"
        )


def _counts(value, most):
    return type(value) is int and 1 <= value <= most


def _like(value, default):
    """Whether a value from JSON is of the kind of a setting's default."""
    if isinstance(default, tuple):
        return isinstance(value, list) and len(value) <= LONGEST_SETTING and all(_like(v, default[0]) for v in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)
