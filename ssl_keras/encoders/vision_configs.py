"""Reads the configs of image models in the Hugging Face layout: `config.json` and `preprocessor_config.json`."""

import math
import pathlib

from ssl_keras.encoders.checkpoint_files import CONFIG_BYTES, read_object

PREPROCESSOR = "preprocessor_config.json"
WHITE = 255  # of 8 bits: images are divided by it
BICUBIC = 3  # Pillow's number of this interpolation
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of colors
CLIP_COLORS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5,), (0.5,))


def check_not_quantized(config):
    """Raises ValueError if a config is that of a quantized model."""
    if "quantization_config" in config:
        raise ValueError("Expected a model of 16- or 32-bit floats. Received: a quantized model. Get the original one.")


def number(config, name, default=None, file="config.json"):
    """Returns a positive integer of a config. Raises ValueError if the entry is another value."""
    value = config.get(name, default)
    if type(value) is not int or not 1 <= value <= 1 << 16:
        raise ValueError(f"Expected an integer of 1 to {1 << 16} in {file} for {name}. Received: {value!r}")
    return value


def sides(value, name):
    """Returns (height, width) of a size that is one number or a pair."""
    pair = value if isinstance(value, list) and len(value) == 2 else [value, value]
    return tuple(number({name: side}, name) for side in pair)


def preprocessing(folder, colors, channels):
    """Returns the mean, the deviation and the size that a checkpoint's images are prepared with.

    The size is 0 if they keep their own, and None if nothing is said.

    Args:
        folder: the checkpoint.
        colors: mean and deviation if nothing is said.
        channels: number of channels.

    Raises:
        ValueError: settings that are not supported.
    """
    path = pathlib.Path(folder) / PREPROCESSOR
    mean, deviation = (color if len(color) in (1, channels) else (0.5,) for color in colors)
    if not path.is_file():
        return mean, deviation, None
    if path.stat().st_size > CONFIG_BYTES:
        raise ValueError(f"{path}: expected at most {CONFIG_BYTES} bytes. Received: {path.stat().st_size}")
    asked = read_object(path, "preprocessor config")
    if asked.get("do_normalize", True):
        mean, deviation = (
            _color(asked.get(name, default), name, channels)
            for name, default in (("image_mean", mean), ("image_std", deviation))
        )
    else:
        mean, deviation = (0.0,), (1.0,)
    factor = asked.get("rescale_factor", 1 / WHITE)
    if not asked.get("do_rescale", True) or type(factor) not in (int, float) or abs(factor * WHITE - 1) > 1e-3:
        raise ValueError(
            f"Expected do_rescale with the factor 1/{WHITE} in {PREPROCESSOR}. Received: "
            f"{asked.get('do_rescale', True)}, {factor!r}"
        )
    return mean, deviation, _asked_size(asked)


def _asked_size(asked):
    """Returns the side to which a preprocessor resizes images, 0 if it does not, and None if nothing is said."""
    crops = asked.get("do_center_crop", False)
    if not crops and not asked.get("do_resize", True):
        return 0
    size = asked.get("crop_size" if crops else "size")
    if isinstance(size, dict):
        lengths = {size.get("height"), size.get("width")} if "height" in size else {size.get("shortest_edge")}
        if len(lengths) > 1:
            raise ValueError(f"Expected a square size in {PREPROCESSOR}. Received: {size}")
        size = lengths.pop()
        if size is None:
            raise ValueError(f"Expected height and width, or shortest_edge, in {PREPROCESSOR}. Received: {asked}")
    return None if size is None else number({"size": size}, "size", file=PREPROCESSOR)


def _color(value, name, channels):
    entries = [value] if type(value) in (int, float) else value
    fits = isinstance(entries, list | tuple) and len(entries) in (1, channels)
    if not fits or any(type(each) not in (int, float) or not math.isfinite(each) for each in entries):
        raise ValueError(f"Expected {channels} numbers for {name} in {PREPROCESSOR}. Received: {value!r}")
    return tuple(float(each) for each in entries)


def preprocessor_of(keywords):
    """Returns the preprocessor_config.json of a network with these keywords.

    Its processor resizes images as a whole, as the network does; those of other families would crop them.
    """
    height, width, channels = keywords["image_shape"]
    side = keywords["resize"]
    mean, deviation = (
        list(keywords[name]) * (channels if len(keywords[name]) == 1 else 1) for name in ("mean", "deviation")
    )
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_rescale": True,
        "do_normalize": True,
        "do_resize": bool(side),
        "resample": BICUBIC,
        "image_mean": mean,
        "image_std": deviation,
        "size": {"height": side or height, "width": side or width},
    }
