"""Names and layouts of vision transformers' weights in the Hugging Face layout, family by family.

A `layouts.Rule` relates variables of `networks/vit.py` to tensors of a checkpoint, in both directions. PyTorch stores
patch kernels as (D, C, patch, patch).

- `dinov2` (Oquab et al. 2024), and `dinov2_with_registers` (Darcet et al. 2024): LayerScale; the latter's registers
  stand after the class token and have no positions, and its positions are interpolated with antialiasing.
- `vit_mae` (He et al. 2022), with its decoder: positions are fixed sines.
- `vit` (Dosovitskiy et al. 2021).
- `deit` (Touvron et al. 2021): the distillation token, which has a position, is a register token here.
- `siglip_vision_model`, the image tower of `siglip` (Zhai et al. 2023): no class token, and attention pooling with a
  learned probe.
- `clip_vision_model`, the image tower of `clip` (Radford et al. 2021): a norm before the first block, quick GELU, and
  no bias in the projection of patches.

The position of a class token is added to the token itself, which is the same.
"""

import typing

import numpy as np

from ssl_keras.encoders.layouts import Rule, joined, transposed
from ssl_keras.encoders.vision_configs import CLIP_COLORS, HALF, IMAGENET
from ssl_keras.networks.positions import sine_positions


class Family(typing.NamedTuple):
    """A family of models.

    Attributes:
        prefix: beginning of the names of all tensors of the encoder in a larger model.
        tokens: names of the learned tokens with positions: the class token, and DeiT's distillation token.
        positions: name of the positions, those of the tokens first.
        patches: names of the kernel and, if there is one, the bias of the patches.
        block: pattern of a block's prefix.
        attention, out, norms, mlp, scales: names of a block's query, key and value; output; two norms; two matrices;
            two factors of LayerScale.
        norms_outside: names of the norm before the first block, if there is one, and of the last norm.
        epsilon: of the norms, by default.
        colors: mean and deviation by default.
        keywords: of the network, which all models of the family have.
        required: options of the config that must have these values.
        architecture: class in `transformers`.
    """

    prefix: str
    tokens: tuple
    positions: str
    patches: tuple
    block: str
    attention: tuple
    out: str
    norms: tuple
    mlp: tuple
    scales: tuple
    norms_outside: tuple
    epsilon: float
    colors: tuple
    keywords: dict
    required: dict
    architecture: str


_PATCHES = "embeddings.patch_embeddings.projection"
_BERT_ATTENTION = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_DINOV2 = Family(
    prefix="dinov2.",
    tokens=("embeddings.cls_token",),
    positions="embeddings.position_embeddings",
    patches=(f"{_PATCHES}.weight", f"{_PATCHES}.bias"),
    block="encoder.layer.{}.",
    attention=_BERT_ATTENTION,
    out="attention.output.dense",
    norms=("norm1", "norm2"),
    mlp=("mlp.fc1", "mlp.fc2"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    norms_outside=("layernorm",),
    epsilon=1e-6,
    colors=IMAGENET,
    keywords={"features": "class", "positions": "learned", "layer_scale": 1.0},
    required={"use_swiglu_ffn": False, "qkv_bias": True, "hidden_act": "gelu"},
    architecture="Dinov2Model",
)
_VIT = _DINOV2._replace(
    prefix="vit.",
    norms=("layernorm_before", "layernorm_after"),
    mlp=("intermediate.dense", "output.dense"),
    scales=(),
    epsilon=1e-12,
    colors=HALF,
    keywords={"features": "class", "positions": "learned"},
    required={"qkv_bias": True},
    architecture="ViTModel",
)
_CLIP = _DINOV2._replace(
    prefix="vision_model.",
    tokens=("embeddings.class_embedding",),
    positions="embeddings.position_embedding.weight",
    patches=("embeddings.patch_embedding.weight",),
    block="encoder.layers.{}.",
    attention=tuple(f"self_attn.{part}_proj" for part in "qkv"),
    out="self_attn.out_proj",
    norms=("layer_norm1", "layer_norm2"),
    scales=(),
    norms_outside=("pre_layrnorm", "post_layernorm"),
    epsilon=1e-5,
    colors=CLIP_COLORS,
    keywords={"features": "class", "positions": "learned", "input_norm": True, "patch_bias": False},
    required={},
    architecture="CLIPVisionModel",
)
FAMILIES = {
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2._replace(
        prefix="dinov2_with_registers.",
        keywords=_DINOV2.keywords | {"antialias": True},
        architecture="Dinov2WithRegistersModel",
    ),
    "vit_mae": _VIT._replace(
        colors=IMAGENET, keywords={"features": "mean", "positions": "sine"}, architecture="ViTMAEModel"
    ),
    "vit": _VIT,
    "deit": _VIT._replace(
        prefix="deit.",
        tokens=("embeddings.cls_token", "embeddings.distillation_token"),
        colors=IMAGENET,
        keywords=_VIT.keywords | {"registers": 1},
        architecture="DeiTModel",
    ),
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _CLIP._replace(
        tokens=(),
        patches=("embeddings.patch_embedding.weight", "embeddings.patch_embedding.bias"),
        norms_outside=("post_layernorm",),
        epsilon=1e-6,
        colors=HALF,
        keywords={"features": "probe", "positions": "learned", "class_token": False},
        architecture="SiglipVisionModel",
    ),
}


def rules(family, keywords):
    """Returns the `Rule`s of an encoder with these keywords."""
    made = [_patches(family, keywords), _tokens(family, keywords)]
    if keywords["registers"] and len(family.tokens) < 2:
        made.append(
            Rule(
                ("tokens/registers",),
                ("embeddings.register_tokens",),
                lambda x: [x[0]],
                lambda x: [np.asarray(x)[None]],
            )
        )
    if keywords["input_norm"]:
        made += norm("input_norm", family.norms_outside[0])
    for index in range(keywords["layers"]):
        made += block(f"block_{index}/", family.block.format(index), family, bool(keywords["layer_scale"]))
    made += norm("norm", family.norms_outside[-1])
    return made + (_probe() if keywords["features"] == "probe" else [])


def _probe():
    """Returns the rules of SigLIP's attention pooling."""
    made = [Rule(("features/probe",), ("head.probe",), lambda x: [x[0, 0]], lambda x: [np.asarray(x)[None, None]])]
    made += [
        transposed("features/attention_in", "head.attention.in_proj_weight"),
        joined("features/attention_in_bias", "head.attention.in_proj_bias"),
        joined("features/norm_scale", "head.layernorm.weight"),
        joined("features/norm_shift", "head.layernorm.bias"),
    ]
    for ours, theirs in (("attention_out", "attention.out_proj"), ("mlp_in", "mlp.fc1"), ("mlp_out", "mlp.fc2")):
        made += [transposed(f"features/{ours}", f"head.{theirs}.weight")]
        made += [joined(f"features/{ours}_bias", f"head.{theirs}.bias")]
    return made


def block(ours, theirs, family, has_scales):
    """Returns the rules of one block, whose names begin with `ours` here and `theirs` there."""
    made = []
    for part, names in (
        ("attention_in", family.attention),
        ("attention_out", (family.out,)),
        ("mlp_in", family.mlp[:1]),
        ("mlp_out", family.mlp[1:]),
    ):
        made.append(transposed(ours + part, *(f"{theirs}{name}.weight" for name in names)))
        made.append(joined(f"{ours}{part}_bias", *(f"{theirs}{name}.bias" for name in names)))
    for part, name in zip(("attention", "mlp"), family.norms):
        made.append(joined(f"{ours}{part}_norm_scale", f"{theirs}{name}.weight"))
        made.append(joined(f"{ours}{part}_norm_shift", f"{theirs}{name}.bias"))
    if has_scales:
        for part, name in zip(("attention", "mlp"), family.scales):
            made.append(joined(f"{ours}{part}_layer_scale", theirs + name))
    return made


def norm(ours, theirs):
    """Returns the rules of a norm."""
    return [joined(f"{ours}/scale", f"{theirs}.weight"), joined(f"{ours}/shift", f"{theirs}.bias")]


def _patches(family, keywords):
    """Returns the rule of the projection of patches, whose kernel is (patch·patch·C, D) here."""
    patch, channels = keywords["patch"], keywords["image_shape"][2]

    def read(kernel, *bias):
        return [kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0]), *bias]

    def write(kernel, *bias):
        shaped = np.asarray(kernel).reshape(patch, patch, channels, -1)
        return [shaped.transpose(3, 2, 0, 1), *map(np.asarray, bias)]

    ours = ("patches/kernel", "patches/bias") if keywords["patch_bias"] else ("patches/kernel",)
    return Rule(ours, family.patches, read, write)


def _tokens(family, keywords):
    """Returns the rule of the learned tokens that have positions, and of the positions, (n + N, D) there."""
    grid = [-(-side // keywords["patch"]) for side in keywords["image_shape"][:2]]
    sine, count = keywords["positions"] == "sine", len(family.tokens)
    flat = family.positions.endswith(".weight")  # no axis of one image

    def read(*values):
        *tokens, places = values
        places = places.reshape(-1, places.shape[-1])
        tokens = [token.reshape(-1) + place for token, place in zip(tokens, places)]
        tokens = [token[None] if index else token for index, token in enumerate(tokens)]  # the second is a register
        return tokens if sine else [*tokens, places[count:]]

    def write(*values):
        tokens = [np.asarray(value).reshape(-1) for value in values[:count]]
        places = sine_positions(*grid, keywords["width"]) if sine else np.asarray(values[count])
        places = np.concatenate([np.zeros((count, places.shape[-1]), places.dtype), places])
        return [*tokens, places] if flat else [*(token[None, None] for token in tokens), places[None]]

    ours = ("tokens/class_token", "tokens/registers")[:count] + (() if sine else ("tokens/positions",))
    return Rule(ours, (*family.tokens, family.positions), read, write)


DECODER_BLOCKS = ("decoder.decoder_layers.{}.", "decoder.decoder_encoder.layer.{}.")  # before and since transformers 5

DECODER_POSITIONS = "decoder.decoder_pos_embed"


def decoder_rules(keywords, block_pattern):
    """Returns the rules of a ViTMAE's decoder with these keywords."""
    grid = [side // keywords["patch"] for side in keywords["image_shape"][:2]]

    def write(token):
        token = np.asarray(token)
        places = np.concatenate([np.zeros_like(token)[None], sine_positions(*grid, len(token))])
        return [token[None, None], places[None]]

    names = ("decoder.mask_token", DECODER_POSITIONS)
    made = [Rule(("restore/mask_token",), names, lambda token, places: [token.reshape(-1)], write)]
    for ours, theirs in (("embed", "decoder.decoder_embed"), ("pixels", "decoder.decoder_pred")):
        made += [transposed(f"{ours}/kernel", f"{theirs}.weight"), joined(f"{ours}/bias", f"{theirs}.bias")]
    for index in range(keywords["layers"]):
        made += block(f"block_{index}/", block_pattern.format(index), FAMILIES["vit_mae"], False)
    return made + norm("norm", "decoder.decoder_norm")
