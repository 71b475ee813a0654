"""Import and export of vision transformers in the Hugging Face layout; `vision_layouts.py` has the families.

A checkpoint is a folder with `config.json`, weights as safetensors and, usually, `preprocessor_config.json`. The
latter's mean, deviation and size become keywords of the network, which applies them itself: it takes images in [0, 1].
Images are resized to that size as a whole; the models' own pipelines resize the shorter side and crop the center.
"""

import logging
import pathlib

import numpy as np

from ssl_keras.encoders import card as cards
from ssl_keras.encoders import layouts
from ssl_keras.encoders.checkpoint_files import naming, open_weights, tensor_of, write_checkpoint
from ssl_keras.encoders.loading import load_with_head, named_variables
from ssl_keras.encoders.vision_configs import (
    PREPROCESSOR,
    check_not_quantized,
    number,
    preprocessing,
    preprocessor_of,
    sides,
)
from ssl_keras.encoders.vision_layouts import DECODER_BLOCKS, DECODER_POSITIONS, FAMILIES, decoder_rules, rules
from ssl_keras.networks import Network, description
from ssl_keras.networks.positions import sine_positions
from ssl_keras.networks.vit_block import num_heads

# The first name of a form is the one that is written.
GELU = {"gelu": "exact", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "quick_gelu": "quick"}
MAX_PATCHES = 1 << 14  # of an image: tables of positions are as long
CONSTANTS = ("position_ids",)  # ends of the names of tensors that need no import
FLOAT16_ERROR = 1e-2  # of sine positions that were stored in 16 bits, at most
WHOLE = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}  # models of images and text: their image tower
MODEL_TYPES = (*FAMILIES, *WHOLE)
ACTIVATION = {"clip_vision_model": "quick_gelu", "siglip_vision_model": "gelu_pytorch_tanh"}  # where not "gelu"
log = logging.getLogger(__name__)


def load(folder, config, keep_size=False):
    """Loads a checkpoint into networks of this package.

    Args:
        folder: the checkpoint.
        config: its config.json, a dict.
        keep_size: whether the network takes images in their own size, instead of resizing them.

    Returns:
        (encoder, head or None, names of tensors that were not imported). The head is a ViTMAE's decoder.

    Raises:
        ValueError: a file is missing or damaged; options that are not supported; a tensor is missing, has another
            shape or is not finite.
    """
    folder = pathlib.Path(folder)
    with naming(folder):
        name, config = _family_of(config)
        keywords = _keywords(folder, name, config, keep_size)
    family = FAMILIES[name]
    stored = open_weights(folder, family.prefix)
    if keywords["positions"] == "sine" and not _is_sine(stored, family.positions, keywords):
        keywords["positions"] = "learned"
    pattern = next((each for each in DECODER_BLOCKS if each.format(0) + "output.dense.weight" in stored), None)

    def make():
        encoder = Network("vit", **keywords)
        head = Network("mae_decoder", **_decoder_keywords(config, keywords)) if pattern else None
        return [encoder.build(), head and head.build()]

    def rules_of(encoder, head):
        pairs = [(encoder, rules(family, description(encoder).keywords))]
        return pairs + ([(head, decoder_rules(description(head).keywords, pattern))] if head else [])

    if pattern and not _is_sine(stored, DECODER_POSITIONS, _decoder_keywords(config, keywords)):
        raise ValueError(f"{DECODER_POSITIONS}: expected fixed sine positions. Received: others, which were trained.")
    (encoder, head), unused = layouts.build_and_assign(folder, stored, make, rules_of)
    layouts.check_depth(folder, unused, family.block, keywords["layers"])
    if pattern:
        layouts.check_depth(folder, unused, pattern, description(head).keywords["layers"])
    return encoder, head, layouts.leftovers(folder, unused, CONSTANTS)


def _family_of(config):
    """Returns the family of a config, and the config of its image model."""
    check_not_quantized(config)
    kind = config["model_type"]
    if kind not in WHOLE:
        return kind, config
    if not isinstance(config.get("vision_config"), dict):
        raise ValueError(f"Expected a vision_config in config.json of a {kind} model.")
    return WHOLE[kind], config["vision_config"]


def _keywords(folder, name, config, keep_size):
    """Returns the keywords of `networks.vit.vit` for a config."""
    family = FAMILIES[name]
    for option, value in family.required.items():
        if config.get(option, value) != value:
            raise ValueError(f"Expected a {name} model with {option} = {value!r}. Received: {config[option]!r}")
    act = config.get("hidden_act", ACTIVATION.get(name, "gelu"))
    if not isinstance(act, str) or act not in GELU:
        raise ValueError(f"Expected hidden_act in config.json to be one of {', '.join(GELU)}. Received: {act!r}")
    width = number(config, "hidden_size")
    ratio = config.get("mlp_ratio", 4)
    if type(ratio) not in (int, float) or not 0 < ratio < 100:
        raise ValueError(f"Expected a positive mlp_ratio in config.json. Received: {ratio!r}")
    height, wide = sides(config.get("image_size"), "image_size")
    patch, other = sides(config.get("patch_size"), "patch_size")
    if patch != other:
        raise ValueError(f"Expected square patches. Received: patch_size {config['patch_size']}")
    patches = -(-height // patch) * -(-wide // patch)
    if patches > MAX_PATCHES:
        raise ValueError(f"Expected image_size and patch_size of at most {MAX_PATCHES} patches. Received: {patches}")
    channels = number(config, "num_channels", 3)
    mean, deviation, size = preprocessing(folder, family.colors, channels)
    epsilon = config.get("layer_norm_eps", family.epsilon)
    if type(epsilon) not in (int, float):
        raise ValueError(f"Expected a number for layer_norm_eps in config.json. Received: {epsilon!r}")
    own = dict(family.keywords)
    if name == "dinov2_with_registers":
        own["registers"] = number(config, "num_register_tokens", 4)
    if name == "siglip_vision_model" and not config.get("vision_use_head", True):
        own["features"] = "mean"
    return own | {
        "image_shape": (height, wide, channels),
        "width": width,
        "patch": patch,
        "layers": number(config, "num_hidden_layers"),
        "heads": number(config, "num_attention_heads"),
        "hidden": number(config, "intermediate_size", int(width * ratio)),
        "gelu": GELU[act],
        "epsilon": float(epsilon),
        "mean": mean,
        "deviation": deviation,
        "resize": 0 if keep_size else max(height, wide) if size is None else size,
    }


def _decoder_keywords(config, encoder):
    """Returns the keywords of `networks.mae_decoder.mae_decoder` for a config and its encoder's keywords."""
    return {
        "features": encoder["width"],
        "image_shape": encoder["image_shape"],
        "patch": encoder["patch"],
        "width": number(config, "decoder_hidden_size", 512),
        "layers": number(config, "decoder_num_hidden_layers", 8),
        "heads": number(config, "decoder_num_attention_heads", 16),
        "hidden": number(config, "decoder_intermediate_size", 2048),
        "epsilon": encoder["epsilon"],
    }


def _is_sine(stored, name, keywords):
    """Returns whether stored positions are fixed sines, up to the rounding of 16 bits."""
    if name not in stored:
        return True  # the shapes are checked later
    places = tensor_of(stored, name)
    grid = [-(-side // keywords["patch"]) for side in keywords["image_shape"][:2]]
    if keywords["width"] % 4 or places.shape != (1, 1 + grid[0] * grid[1], keywords["width"]):
        return keywords["width"] % 4 == 0
    return bool(np.abs(places[0, 1:] - sine_positions(*grid, keywords["width"])).max() < FLOAT16_ERROR)


def export(name, out):
    """Writes a saved vision transformer in the Hugging Face layout into the new folder `out`.

    Raises:
        ValueError: no family of `FAMILIES` has such a network.
    """
    encoder, head, card = load_with_head(name)
    keywords = description(encoder).keywords
    head = head if cards.is_a(card, "mae_decoder") else None
    family_name = family_for(keywords, head is not None)
    if head and (family_name != "vit_mae" or description(head).keywords["image_shape"] != keywords["image_shape"]):
        reason = f"a {family_name} has none" if family_name != "vit_mae" else "it is for images of another size"
        log.warning("%s is written without its decoder: %s", name, reason)
        head = None
    family = FAMILIES[family_name]
    pairs = [(encoder, rules(family, keywords), family.prefix if head else "")]
    if head:
        pairs.append((head, decoder_rules(description(head).keywords, DECODER_BLOCKS[0]), ""))
    tensors = {}
    for graph, made, prefix in pairs:
        tensors |= {prefix + name: value for name, value in layouts.written(made, named_variables(graph)).items()}
    if family_name.startswith("dinov2"):  # of their own masked training; no feature depends on it
        tensors["embeddings.mask_token"] = np.zeros((1, keywords["width"]), np.float32)
    config = _config_of(family_name, keywords, head)
    write_checkpoint(out, tensors, {"config.json": config, PREPROCESSOR: preprocessor_of(keywords)})


def family_for(keywords, with_decoder):
    """Returns the family that computes the same as a network with these keywords.

    Raises:
        ValueError: there is none.
    """
    if keywords["layer_scale"]:
        name = "dinov2_with_registers" if keywords["registers"] else "dinov2"
    elif keywords["input_norm"]:
        name = "clip_vision_model"
    elif not keywords["class_token"]:
        name = "siglip_vision_model"
    elif keywords["registers"]:
        name = "deit"
    else:
        name = "vit_mae" if with_decoder else "vit"
    expected = {"class_token": True, "registers": 0, "input_norm": False, "patch_bias": True, "antialias": False}
    expected |= {key: value for key, value in FAMILIES[name].keywords.items() if key in expected}
    if name == "dinov2_with_registers":
        expected.pop("registers")
    if name.startswith("dinov2"):
        expected |= {"gelu": "exact", "hidden": 4 * keywords["width"]}
        keywords = keywords | {"hidden": keywords["hidden"] or 4 * keywords["width"]}
    other = {key: keywords[key] for key, value in expected.items() if keywords[key] != value}
    if keywords["features"] == "probe" and name != "siglip_vision_model":
        other["features"] = "probe"
    if other:
        raise ValueError(
            f"Expected a network that one of {', '.join(FAMILIES)} has. Received, for {name}: "
            f"{other}. Export it as a SavedModel, without --hugging-face."
        )
    return name


def _config_of(family_name, keywords, head):
    """Returns the config.json of a network with these keywords."""
    height, width, channels = keywords["image_shape"]
    gelu = {ours: theirs for theirs, ours in reversed(GELU.items())}
    config = {
        "model_type": family_name,
        "architectures": ["ViTMAEForPreTraining" if head else FAMILIES[family_name].architecture],
        "hidden_size": keywords["width"],
        "num_hidden_layers": keywords["layers"],
        "num_attention_heads": keywords["heads"] or num_heads(keywords["width"]),
        "image_size": height if height == width else [height, width],
        "patch_size": keywords["patch"],
        "num_channels": channels,
        "layer_norm_eps": keywords["epsilon"],
        "hidden_act": gelu[keywords["gelu"]],
    }
    hidden = keywords["hidden"] or 4 * keywords["width"]
    config |= {"mlp_ratio": 4} if family_name.startswith("dinov2") else {"intermediate_size": hidden}
    if family_name == "dinov2_with_registers":
        config["num_register_tokens"] = keywords["registers"]
    if family_name == "siglip_vision_model":
        config["vision_use_head"] = keywords["features"] == "probe"
    if head:
        own = description(head).keywords
        config |= {
            "decoder_hidden_size": own["width"],
            "decoder_num_hidden_layers": own["layers"],
            "decoder_num_attention_heads": own["heads"] or num_heads(own["width"]),
            "decoder_intermediate_size": own["hidden"] or 4 * own["width"],
        }
    return config
