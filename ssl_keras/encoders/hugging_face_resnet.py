"""Import and export of residual networks in the Hugging Face layout (model type `resnet`, He et al. 2016).

They are `resnet18` to `resnet101` of `networks/conv.py`, with the large stem and PyTorch's padding. The checkpoint's
mean, deviation and size become keywords of the network, as in `hugging_face_vision.py`. Features are the mean over the
last stage, which `transformers` calls the pooler's output. PyTorch stores kernels as (out, in, height, width).
"""

import pathlib

import numpy as np

from ssl_keras import files
from ssl_keras.encoders import layouts
from ssl_keras.encoders.checkpoint_files import naming, open_weights, write_checkpoint
from ssl_keras.encoders.loading import load_with_head, named_variables
from ssl_keras.encoders.vision_configs import (
    IMAGENET,
    PREPROCESSOR,
    check_not_quantized,
    number,
    preprocessing,
    preprocessor_of,
)
from ssl_keras.networks import Network, conv, description

MODEL_TYPE, PREFIX = "resnet", "resnet."
SIDE = 224  # of images, in pixels, if the checkpoint does not say it
COUNTS = ".num_batches_tracked"  # ends the names of PyTorch's counters, which no output depends on
BLOCK = "encoder.stages.{}.layers.{}."
NETWORKS = {  # builder: (layer_type, depths)
    name: (kind, list(blocks)) for name, (kind, blocks, _) in conv.BLOCKS.items() if kind in ("basic", "bottleneck")
}
REQUIRED = {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}


def load(folder, config, keep_size=False):
    """Loads a checkpoint into a network of this package; takes, returns and raises the same as the `load` of
    `hugging_face_vision.py`. There is no head."""
    folder = pathlib.Path(folder)
    with naming(folder):
        network = _network(folder, config, keep_size)
    stored = open_weights(folder, PREFIX)

    def rules_of(encoder):
        return [(encoder, rules(network.builder))]

    (encoder,), unused = layouts.build_and_assign(folder, stored, lambda: [network.build()], rules_of)
    stages = conv.BLOCKS[network.builder][1]
    for stage, blocks in enumerate(stages):
        layouts.check_depth(folder, unused, BLOCK.format(stage, "{}"), blocks)
    layouts.check_depth(folder, unused, "encoder.stages.{}.", len(stages), "stages")
    return encoder, None, layouts.leftovers(folder, unused, (COUNTS,))


def _network(folder, config, keep_size):
    """Returns the `Network` for a config."""
    check_not_quantized(config)
    for option, value in REQUIRED.items():
        if config.get(option, value) != value:
            raise ValueError(f"Expected a resnet model with {option} = {value!r}. Received: {config[option]!r}")
    asked = config.get("layer_type", "bottleneck"), config.get("depths", [3, 4, 6, 3])
    builder = next((name for name, layout in NETWORKS.items() if layout == asked), None)
    if builder is None:
        known = "; ".join(f"{kind} {depths}" for kind, depths in NETWORKS.values())
        raise ValueError(
            f"Expected a layer_type and depths in config.json of {known}. Received: {files.excerpt(asked[0])} "
            f"{files.excerpt(asked[1])}"
        )
    width = number(config, "embedding_size", 64)
    expected = _stage_widths(builder, width)
    if config.get("hidden_sizes", _stage_widths("resnet50", 64)) != expected:
        raise ValueError(
            f"Expected hidden_sizes {expected} in config.json, for embedding_size {width}. Received: "
            f"{files.excerpt(config.get('hidden_sizes'))}"
        )
    channels = number(config, "num_channels", 3)
    mean, deviation, size = preprocessing(folder, IMAGENET, channels)
    side = size or SIDE
    return Network(
        builder,
        image_shape=(side, side, channels),
        width=width,
        stem="large",
        padding="symmetric",
        mean=mean,
        deviation=deviation,
        resize=0 if keep_size or size == 0 else side,
    )


def _stage_widths(builder, width):
    """Returns the channels of each stage."""
    kind, blocks, _ = conv.BLOCKS[builder]
    factor = conv.EXPANSION if kind == "bottleneck" else 1
    return [factor * width * 2**stage for stage in range(len(blocks))]


def rules(builder):
    """Returns the `Rule`s of a network."""
    kind, stages, _ = conv.BLOCKS[builder]
    made = _convolution("stem", "embedder.embedder")
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            ours, theirs = f"stage_{stage}_{block}_", BLOCK.format(stage, block)
            for index in range(3 if kind == "bottleneck" else 2):
                made += _convolution(f"{ours}{index}", f"{theirs}layer.{index}")
            if block == 0 and (stage or kind == "bottleneck"):
                made += _convolution(f"{ours}short", f"{theirs}shortcut")
    return made


def _convolution(ours, theirs):
    """Returns the rules of a convolution and its batch normalization."""
    parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}

    def read(variance):
        if np.any(variance < 0):
            raise ValueError(
                f"{theirs}.normalization.running_var: expected variances of at least 0. Get the file again."
            )
        return [variance]

    variance = layouts.joined(f"{ours}_norm/moving_variance", f"{theirs}.normalization.running_var")._replace(read=read)
    kernel = layouts.Rule(
        (f"{ours}_conv/kernel",),
        (f"{theirs}.convolution.weight",),
        lambda x: [x.transpose(2, 3, 1, 0)],
        lambda x: [np.asarray(x).transpose(3, 2, 0, 1)],
    )
    norms = [layouts.joined(f"{ours}_norm/{a}", f"{theirs}.normalization.{b}") for a, b in parts.items()]
    return [kernel, *norms, variance]


def export(name, out):
    """Writes a saved residual network in the Hugging Face layout into the new folder `out`.

    Raises:
        ValueError: `transformers` has no such network.
    """
    encoder, _, card = load_with_head(name)
    network = description(encoder)
    asked = {"padding": "symmetric", "pool_grid": 1}
    other = {key: network.keywords[key] for key, value in asked.items() if network.keywords[key] != value}
    if "stem_pool" not in {layer.name for layer in encoder.layers}:
        other["stem"] = "small"
    if other:
        raise ValueError(
            f"{card['name']}: expected an imported ResNet, or a run that started from one, since transformers has no "
            f"other: {asked} and a large stem. Received: {other}. Export it as a SavedModel, without --hugging-face."
        )
    kind, blocks, _ = conv.BLOCKS[network.builder]
    width, channels = network.keywords["width"], network.keywords["image_shape"][2]
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["ResNetModel"],
        "num_channels": channels,
        "embedding_size": width,
        "hidden_sizes": _stage_widths(network.builder, width),
        "depths": list(blocks),
        "layer_type": kind,
        **REQUIRED,
    }
    tensors = layouts.written(rules(network.builder), named_variables(encoder))
    means = [each for each in tensors if each.endswith(".running_mean")]
    tensors |= {each.removesuffix(".running_mean") + COUNTS: np.zeros((), np.int64) for each in means}
    write_checkpoint(out, tensors, {"config.json": config, PREPROCESSOR: preprocessor_of(network.keywords)})
