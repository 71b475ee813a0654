"""An encoder's card: what it is, checked before anything is built or allocated on its word.

    {"format": 2, "name": "contrastive-fashion_mnist",
     "network": {"builder": "cnn", "image_shape": [28, 28, 1], "width": 48, "pool_grid": 2},
     "head": null, "classes": null, "decoding": null,
     "input": {"image": {"shape": [28, 28, 1], "dtype": "float32", "range": [0, 1]}}, "features": 768, …,
     "trained_by": {"objective": "contrastive", "settings": {…}, "data": {…}, "outcome": {…}}}

`network` and `head` name a builder of `networks.BUILDERS` and its keywords; `network` is null for an encoder of an
architecture of one's own. `trained_by` is a note: nothing is built from it.
"""

import json
import re

from ssl_keras import files
from ssl_keras.data import inputs
from ssl_keras.encoders import card_v1
from ssl_keras.networks import Network, description

CARD_BYTES = 1 << 20
NAME = re.compile(r"\w[\w. +-]*")  # no path, and nothing hidden
MAX_SYMBOLS = 10_000
FORMAT = 2


def read(folder):
    """The card of the encoder in `folder`, checked. Raises ValueError where it is none of ours."""
    path = folder / "card.json"
    if not path.is_file() or path.stat().st_size > CARD_BYTES:
        raise ValueError(f"{folder} holds no encoder: expected a card.json of at most {CARD_BYTES} bytes.")
    try:
        card = json.loads(path.read_text("utf-8"))
        if card["format"] == card_v1.FORMAT:
            card = card_v1.upgraded(card)
        if card["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}. Received: {str(card['format'])[:100]}")
        for key in ("network", "head"):
            _network_of(card, key)
        wrong = [name for name, holds in _rules(card).items() if not holds]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        why = str(error) if type(error) is ValueError else f"{type(error).__name__} {error}"
        raise ValueError(f"{path} is not a card: {files.printable(why)}.") from error
    if wrong:
        raise ValueError(f"{path} is not a card: unexpected {', '.join(wrong)}.")
    return card


def _rules(card):
    """{entry: whether it is what the code that reads it needs to be safe}."""
    weights, kind = card["weights"], inputs.column(card["input"])
    entry = card["input"][kind]
    shape = entry["shape"]
    captioned = is_a(card, "towers")  # takes images, and knows what they are called
    decoding = card["decoding"]
    return {
        "name": isinstance(card["name"], str) and NAME.fullmatch(card["name"]),
        "input shape": shape == [None]
        if kind != "image"
        else (len(shape) == 3 and all(_counts(side, 1 << 16) for side in shape)),
        "input": all(_counts(entry.get(key, 1), 1 << 20) for key in ("context", "rate"))
        and entry.get("dtype") == ("int32" if kind == "tokens" else "float32"),
        "tokenizer": isinstance(card["tokenizer"], dict if kind == "tokens" or captioned else type(None)),
        "features": _counts(card["features"], 1 << 24),
        "classes": card["classes"] is None
        or (is_a(card, "classifier_head") and all(isinstance(name, str) for name in card["classes"])),
        "decoding": decoding is None or _decodes(decoding),
        "parameters": _counts(card["parameters"], 1 << 48),
        "weights": weights["file"] == "encoder.safetensors"
        and _counts(weights["bytes"], 1 << 50)
        and isinstance(weights["sha256"], str),
        "trained_by": isinstance(card["trained_by"], dict),
        "results": isinstance(card["results"], dict),
    }


def _decodes(decoding):
    """Whether an entry says how a head's outputs are read, as `Objective.decoding` does."""
    symbols = decoding.get("symbols") if isinstance(decoding, dict) else ()
    return (
        isinstance(decoding, dict)
        and (
            symbols is None
            or isinstance(symbols, list)
            and len(symbols) <= MAX_SYMBOLS
            and all(isinstance(symbol, str) for symbol in symbols)
        )
        and isinstance(decoding.get("words", False), bool)
        and isinstance(decoding.get("task", ""), str)
        and _counts(decoding.get("context", 1), 1 << 20)
        and _counts(decoding.get("end", 0) + 1, 1 << 24)
    )


def _network_of(card, key):
    return None if card[key] is None else Network.from_json(card[key])


def network(card):
    """The encoder as a `Network`.

    Raises:
        ValueError: an encoder of an architecture of one's own.
    """
    if card["network"] is None:
        raise ValueError(
            f"{card['name']} is an encoder of another architecture: pass a fresh one, network=…"
            " (on the command line --network FILE.py:FUNCTION)."
        )
    return Network.from_json(card["network"])


def head(card):
    """The head that the encoder was saved with as a `Network`, or None."""
    return _network_of(card, "head")


def is_a(card, builder):
    """Whether the encoder's network or head is of this builder."""
    return any((card[key] or {}).get("builder") == builder for key in ("network", "head"))


def is_classifier(card):
    """Whether the encoder was saved with a head for named classes."""
    return card["classes"] is not None


def keyword(card, name):
    """A keyword of the encoder's network or, where that has none of this name, of its head; else None."""
    for key in ("network", "head"):
        if name in (card[key] or {}):
            return card[key][name]
    return None


def safe_name(name):
    """The name without what a card's name may not hold: path separators, brackets, a leading dot."""
    return re.sub(r"^\W+|[^\w. +-]", "-", name).lstrip("-") or "encoder"


def graph_name(card, part=""):
    """The encoder's name, of a `part` of it or the whole, as Keras and TensorFlow allow it for a graph."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", card["name"]).lstrip("_-") or "encoder"
    return f"{name}-{part}" if part else name


def input_of(spec, encoder, context=None):
    """What a card says of the network's input.

    Args:
        spec: a source's.
        encoder: the graph.
        context: the most tokens that it was trained on, where the graph itself does not say so.
    """
    kind = inputs.column(spec)
    if kind == "image":
        return {"image": {"shape": list(spec["image"][0]), "dtype": "float32", "range": [0, 1]}}
    entry = {"shape": [None], "dtype": "int32" if kind == "tokens" else "float32", "padding": -1}
    keywords = getattr(description(encoder), "keywords", {})
    entry |= {"context": context or keywords.get("context"), "rate": keywords.get("rate")}
    wanted = "context" if kind == "tokens" else "rate"
    return {kind: {k: v for k, v in entry.items() if k not in ("context", "rate") or (k == wanted and v)}}


def check_images(card, source):
    """Raises ValueError where an encoder does not take images, or a source has none."""
    if "image" not in card["input"]:
        raise ValueError(f"{card['name']} takes {', '.join(card['input'])}. Expected an encoder of images.")
    if "image" not in source.arrays:
        raise ValueError(
            f"{card['name']} takes images. Received: {', '.join(source.arrays)} from {source.name}. "
            "Choose other --data."
        )


def check_image_shape(card, source):
    """Raises ValueError where a source's images are not of just the shape that an encoder was trained on."""
    check_images(card, source)
    expected, received = tuple(card["input"]["image"]["shape"]), tuple(source.spec()["image"][0])
    if expected != received:
        hint = f" Try --image-size {expected[0]}." if expected[2:] == received[2:] else ""
        raise ValueError(
            f"{card['name']} takes images of shape {expected}. Received: {received} from {source.name}.{hint}"
        )


def _counts(value, most):
    return type(value) is int and 1 <= value <= most
