"""Cards: the description of a saved encoder, which is validated before anything is built from it.

    {"format": 2, "name": "contrastive-fashion_mnist",
     "network": {"builder": "cnn", "image_shape": [28, 28, 1], "width": 48, "pool_grid": 2},
     "head": null, "classes": null, "target": null, "decoding": null,
     "input": {"image": {"shape": [28, 28, 1], "dtype": "float32", "range": [0, 1]}}, "features": 768, …,
     "trained_by": {"objective": "contrastive", "settings": {…}, "data": {…}, "outcome": {…}}}

`network` and `head` contain the name of a builder in `networks.BUILDERS` and its keywords. `network` is null for a
custom architecture. `trained_by` is for information only: nothing is built from it.
"""

import json
import re

from ssl_keras import files
from ssl_keras.data import inputs
from ssl_keras.encoders import card_v1
from ssl_keras.networks import Network, description

CARD_BYTES = 1 << 20
NAME = re.compile(r"\w[\w. +-]*")  # excludes paths and hidden files
MAX_SYMBOLS = 10_000
FORMAT = 2
UNKNOWN = "unknown"  # licenses
NAMED = ("class", "tags", "labels")  # targets whose outputs have names


def read(folder):
    """Reads and validates the card of the encoder in `folder`. Raises ValueError if there is no valid card."""
    path = folder / "card.json"
    if not path.is_file() or path.stat().st_size > CARD_BYTES:
        raise ValueError(f"{folder} does not contain an encoder. Expected a card.json of at most {CARD_BYTES} bytes.")
    try:
        card = json.loads(path.read_text("utf-8"))
        if card["format"] == card_v1.FORMAT:
            card = card_v1.upgrade(card)
        if card["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}. Received: {str(card['format'])[:100]}")
        for key in ("network", "head"):
            network = _network_of(card, key)
            if network is not None and (network.kind == "head") != (key == "head"):
                raise ValueError(f"{network.builder} cannot be a {key}")
        json.dumps(card, ensure_ascii=False).encode()  # no file can contain lone surrogates
        wrong = [name for name, is_valid in _rules(card).items() if not is_valid]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        why = str(error) if type(error) is ValueError else f"{type(error).__name__} {error}"
        raise ValueError(f"{path} is not a valid card: {files.excerpt(why)}.") from error
    if wrong:
        raise ValueError(f"{path} is not a valid card: unexpected {', '.join(wrong)}.")
    return card


def _rules(card):
    """Returns {entry: whether it is valid}, for all entries on which other code relies."""
    weights, kind = card["weights"], inputs.column(card["input"])
    entry = card["input"][kind]
    shape = entry["shape"]
    has_text_tower = is_a(card, "towers")  # an encoder of images with a tokenizer
    decoding = card["decoding"]
    return {
        "name": isinstance(card["name"], str) and NAME.fullmatch(card["name"]),
        "input shape": shape == [None]
        if kind != "image"
        else (len(shape) == 3 and all(_is_count(side, 1 << 16) for side in shape)),
        "input": all(_is_count(entry.get(key, 1), 1 << 20) for key in ("context", "rate"))
        and entry.get("dtype") == ("int32" if kind == "tokens" else "float32"),
        "tokenizer": isinstance(card["tokenizer"], dict if kind == "tokens" or has_text_tower else type(None)),
        "features": _is_count(card["features"], 1 << 24)
        and (card["head"] or {}).get("features", card["features"]) == card["features"],
        "classes": card["classes"] is None
        or (is_a(card, "classifier_head") and _are_strings(card["classes"], card["head"]["classes"])),
        "target": card.get("target") is None or _is_target(card["target"], card),
        "decoding": decoding is None or _is_decoding(decoding),
        "parameters": _is_count(card["parameters"], 1 << 48),
        "weights": weights["file"] == "encoder.safetensors"
        and _is_count(weights["bytes"], 1 << 50)
        and isinstance(weights["sha256"], str),
        "trained_by": isinstance(card["trained_by"], dict),
        "licenses": isinstance(card.setdefault("licenses", {}), dict),
        "results": isinstance(card["results"], dict),
    }


def _is_target(target, card):
    """Returns whether an entry has the form of `target`, and fits the head."""
    named = card["classes"] is not None
    return (
        isinstance(target, dict)
        and target.keys() == {"kind", "pairs"}
        and isinstance(target["pairs"], bool)
        and is_a(card, "classifier_head")
        and (target["kind"] in NAMED and named or target["kind"] == "number" and card["head"]["classes"] == 1)
    )


def _is_decoding(decoding):
    """Returns whether an entry has the form of `Objective.decoding`."""
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
        and _is_count(decoding.get("context", 1), 1 << 20)
        and _is_count(decoding.get("end", 0) + 1, 1 << 24)
    )


def _are_strings(values, count):
    return isinstance(values, list) and len(values) == count and all(isinstance(value, str) for value in values)


def _network_of(card, key):
    return None if card[key] is None else Network.from_json(card[key])


def network(card):
    """Returns the encoder's `Network`.

    Raises:
        ValueError: the encoder has a custom architecture.
    """
    if card["network"] is None:
        raise ValueError(
            f"{card['name']} has a custom architecture, which its card does not describe. Pass a new network with "
            "network=… (on the command line --network FILE.py:FUNCTION)."
        )
    return Network.from_json(card["network"])


def head(card):
    """Returns the `Network` of the head that the encoder was saved with, or None."""
    return _network_of(card, "head")


def is_a(card, builder):
    """Returns whether the encoder's network or head was made by this builder."""
    return any((card[key] or {}).get("builder") == builder for key in ("network", "head"))


def decoding(card):
    """Returns the `decoding` entry of an encoder whose head is `frame_classifier` or `attending_decoder`.

    Raises:
        ValueError: an entry is missing, or there are more or fewer symbols than outputs.
    """
    found, head = card["decoding"] or {}, card["head"]
    recognizes = is_a(card, "frame_classifier")
    count = head["symbols"] if recognizes else head["vocabulary"] - 1
    wanted = ("symbols", "words") if recognizes else ("symbols", "task", "context", "end")
    missing = [name for name in wanted if name not in found or found[name] is None and recognizes]
    symbols = [] if missing else found["symbols"]
    if missing or symbols is not None and not (_are_strings(symbols, count) and " ".join(symbols).split() == symbols):
        raise ValueError(
            f"The card of {card['name']} does not describe how to decode its outputs. Expected decoding with "
            f"{', '.join(wanted)}, and {count} symbols without spaces. Received: {files.excerpt(card['decoding'])}"
        )
    return found


def trained_on(card):
    """Returns the name of the data that an encoder was trained on; empty if the card has none."""
    data = card["trained_by"].get("data")
    name = data.get("name") if isinstance(data, dict) else data
    return name if isinstance(name, str) else ""


def is_classifier(card):
    """Returns whether the encoder was saved with a classification head."""
    return target(card)["kind"] == "class"


def target(card):
    """Returns what the encoder was fine-tuned to predict: {"kind": one of `targets.KINDS` or None without a head,
    "pairs": whether of pairs of texts}."""
    return card.get("target") or {"kind": None if card["classes"] is None else "class", "pairs": False}


def keyword(card, name):
    """Returns a keyword of the encoder's network, else of its head, else None."""
    for key in ("network", "head"):
        if name in (card[key] or {}):
            return card[key][name]
    return None


def license_of(card):
    """Returns the licenses of what an encoder was trained on as text, such as "data: MIT"; UNKNOWN without any."""
    known = card.get("licenses")
    known = known.items() if isinstance(known, dict) else ()
    return ", ".join(f"{what}: {text}" for what, text in known if text) or UNKNOWN


def safe_name(name):
    """Replaces the characters that a card's name must not contain: path separators, brackets, a leading dot."""
    return re.sub(r"^\W+|[^\w. +-]", "-", name).lstrip("-") or "encoder"


def graph_name(card, part=""):
    """Returns a valid Keras and TensorFlow name for the encoder, or for a `part` of it."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", card["name"]).lstrip("_-") or "encoder"
    return f"{name}-{part}" if part else name


def input_of(spec, encoder, context=None):
    """Returns the `input` entry of a card.

    Args:
        spec: the `spec()` of a source.
        encoder: the Keras model.
        context: maximum number of tokens in training, if the network does not define it.
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
    """Raises ValueError unless the encoder takes images and the source has images."""
    if "image" not in card["input"]:
        raise ValueError(
            f"Expected an encoder of images. Received: {card['name']}, which takes {', '.join(card['input'])}."
        )
    if "image" not in source.arrays:
        raise ValueError(
            f"{card['name']} takes images. Received: {', '.join(source.arrays)} from {source.name}. "
            "Choose other --data."
        )


def check_image_shape(card, source):
    """Raises ValueError unless the source's images have the shape of the encoder's training images."""
    check_images(card, source)
    expected, received = tuple(card["input"]["image"]["shape"]), tuple(source.spec()["image"][0])
    if expected != received:
        hint = f" Try --image-size {expected[0]}." if expected[2:] == received[2:] else ""
        raise ValueError(
            f"{card['name']} takes images of shape {expected}. Received: {received} from {source.name}.{hint}"
        )


def _is_count(value, maximum):
    return type(value) is int and 1 <= value <= maximum
