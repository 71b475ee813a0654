"""Conversion of cards of format 1, which contain an objective and its settings, to format 2.

Versions up to 0.1.0 wrote format 1, and built an encoder from the settings of its objective. In format 2 the same
networks are described by builders of `networks.BUILDERS`.
"""

from ssl_keras.data import inputs
from ssl_keras.networks.conv import BLOCKS

FORMAT = 1
DEFAULT_RATE = 16_000  # Hz
NUM_ROTATIONS = 4
RENAMED = {  # settings and metrics of format 1: their current names
    "average": "ema_decay",
    "coldest": "gumbel_end",
    "colour": "color",
    "cooling": "gumbel_decay",
    "encoder_rate": "encoder_lr_ratio",
    "front": "frontend",
    "generator_rate": "generator_lr_ratio",
    "grey": "gray",
    "hottest": "gumbel_start",
    "interval": "eval_every",
    "joined": "max_captions",
    "locked": "freeze_image",
    "matched": "top1",
    "normalisation": "normalization",
    "omitted": "token_dropout",
    "others": "cross_clip_negatives",
    "places": "pool_grid",
    "quality_every": "report_every",
    "sampling": "scheduled_sampling",
    "save_minutes": "checkpoint_minutes",
    "share": "mask_ratio",
    "smoothing": "label_smoothing",
    "span": "mask_span",
    "stretches": "pool_segments",
    "test_matched": "test_top1",
    "val_matched": "val_top1",
}


def upgrade(card):
    """Converts a card of format 1 to format 2. Raises KeyError, TypeError or ValueError if it is not a valid card."""
    settings, objective = card["settings"], card["objective"]
    kind = inputs.column(card["input"])
    shape = card["input"][kind]["shape"]
    kept = (
        "name",
        "input",
        "preprocessing",
        "tokenizer",
        "features",
        "classes",
        "parameters",
        "weights",
        "versions",
        "saved",
        "results",
    )
    new = {
        "format": 2,
        **{key: card[key] for key in kept},
        "network": None,
        "head": None,
        "decoding": None,
        "licenses": {},
    }
    if settings is not None:
        new["network"] = _network(objective, settings, shape)
        if card["head"] == "objective":
            new["head"] = _head(objective, settings, shape, card["features"])
            new["decoding"] = _decoding(objective, settings)
        if kind == "tokens":
            new["input"] = {kind: card["input"][kind] | {"context": settings["context"]}}
        if kind == "waveform":
            new["input"] = {kind: card["input"][kind] | {"rate": settings["rate"] or DEFAULT_RATE}}
    if card["head"] == "classifier":
        new["head"] = {"builder": "classifier_head", "features": card["features"], "classes": len(card["classes"])}
    training = dict(card["training"])
    outcome = training.pop("outcome", {})
    new["trained_by"] = {
        "objective": _objective(objective, settings or {}),
        "settings": _rename_keys((settings or {}) | training),
        "data": card["data"],
        "outcome": _rename_keys(outcome),
    }
    return new


def _objective(name, settings):
    """Returns the current name of an objective."""
    if name == "classifier":
        return "classifier" if settings.get("labels") else "rotation"
    if name == "seq2seq":
        return "recurrent_lm" if settings.get("task") == "next" else "seq2seq"
    return {"speech": "wav2vec2", "recogniser": "ctc"}.get(name, name)


def _rename_keys(entry):
    return {RENAMED.get(name, name): value for name, value in entry.items()}


def _network(objective, settings, shape):
    """Returns the `network` entry."""

    def select(*names):
        return {name: settings[name] for name in names}

    if objective == "autoencoder":
        return {"builder": "dense", "image_shape": shape, **select("widths")}
    if objective == "dcgan":
        return {
            "builder": "dcgan_trunk",
            "image_shape": shape,
            **select("width"),
            "normalization": settings["normalisation"] or ("layer" if settings["loss"] == "wasserstein" else "batch"),
        }
    if objective in ("causal_lm", "masked_lm"):
        return {
            "builder": "transformer",
            "causal": objective == "causal_lm",
            **select("vocabulary", "context", "layers", "heads", "width", "architecture", "hidden", "epsilon", "remat"),
        }
    if objective == "seq2seq":
        return {
            "builder": "recurrent",
            "bidirectional": settings["task"] != "next",
            **select("vocabulary", "width", "layers", "cell"),
        }
    if objective in ("speech", "recogniser"):
        return {
            "builder": "waveform",
            "rate": settings["rate"] or DEFAULT_RATE,
            "frontend": settings["front"],
            "pool_segments": settings["stretches"],
            **select("width", "layers", "heads", "channels", "context"),
        }
    return {
        "builder": settings["network"],
        "image_shape": shape,
        "pool_grid": settings["places"],
        "width": settings["width"] or BLOCKS[settings["network"]][2],
    }


def _head(objective, settings, shape, features):
    """Returns the `head` entry for the head of an objective."""
    if objective == "classifier":
        classes = settings["classes"] if settings["labels"] else NUM_ROTATIONS
        return {"builder": "classifier_head", "features": features, "classes": classes}
    if objective == "masked_lm":
        return {"builder": "masked_head", **{name: settings[name] for name in ("vocabulary", "width", "epsilon")}}
    if objective == "dcgan":
        return {"builder": "generator", "image_shape": shape, "latent": settings["latent"], "width": settings["width"]}
    if objective == "recogniser":
        symbols = len(settings["alphabet"].split())
        return {"builder": "frame_classifier", "width": settings["width"], "symbols": symbols}
    if objective == "seq2seq":
        return {
            "builder": "attending_decoder",
            "source_width": settings["width"],
            "vocabulary": 1 + len(settings["alphabet"].split()) if settings["symbols"] else settings["vocabulary"],
            **{name: settings[name] for name in ("width", "layers", "cell")},
        }
    if objective == "image_text":
        names = (
            "vocabulary",
            "context",
            "text_layers",
            "text_heads",
            "text_width",
            "text_architecture",
            "text_hidden",
            "causal",
            "epsilon",
            "projection",
            "loss",
            "temperature",
        )
        return {"builder": "towers", "features": features, **{name: settings[name] for name in names}}
    raise ValueError(f"the card has a head, but the objective {objective} has none")


def _decoding(objective, settings):
    """Returns the `decoding` entry, or None."""
    symbols = settings.get("alphabet", "").split()
    if objective == "recogniser":
        return {"symbols": symbols, "words": settings["words"]}
    if objective == "seq2seq":
        end = 0 if settings["symbols"] else settings["end_token"]
        return {
            "task": settings["task"],
            "context": settings["context"],
            "end": end,
            "symbols": symbols if settings["symbols"] else None,
        }
    return None
