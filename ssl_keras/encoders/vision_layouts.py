"""Names and layouts of vision transformers' weights in the Hugging Face layout, family by family.

A `Rule` relates variables of `networks/vit.py` to tensors of a checkpoint, in both directions. PyTorch stores matrices
transposed, query, key and value separately, and patch kernels as (D, C, patch, patch).

- `dinov2` (Oquab et al. 2024), and `dinov2_with_registers` (Darcet et al. 2024): LayerScale; the latter's registers
  stand after the class token and have no positions, and its positions are interpolated with antialiasing.
- `vit_mae` (He et al. 2022), with its decoder: positions are fixed sines.
- `vit` (Dosovitskiy et al. 2021).
- `clip_vision_model`, the image tower of `clip` (Radford et al. 2021): a norm before the first block, quick GELU, and
  no bias in the projection of patches.

The position of a class token is added to the token itself, which is the same.
"""

import typing

import numpy as np

from ssl_keras.networks.positions import sine_positions

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_COLORS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5,), (0.5,))


class Rule(typing.NamedTuple):
    """A relation between variables here and tensors there.

    Attributes:
        ours, theirs: names of variables, and of tensors.
        read: function from their arrays to a list of ours.
        write: function from our arrays to a list of theirs.
    """

    ours: tuple
    theirs: tuple
    read: typing.Callable
    write: typing.Callable


class Family(typing.NamedTuple):
    """A family of models.

    Attributes:
        prefix: beginning of the names of all tensors of the encoder in a larger model.
        embeddings: names of the class token, the positions, and the kernel and bias of the patches.
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
    embeddings: tuple
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


_EMBEDDINGS = (
    "embeddings.cls_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
)
_BERT_ATTENTION = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_DINOV2 = Family(
    prefix="dinov2.",
    embeddings=_EMBEDDINGS,
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
    embeddings=(
        "embeddings.class_embedding",
        "embeddings.position_embedding.weight",
        "embeddings.patch_embedding.weight",
    ),
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
    "clip_vision_model": _CLIP,
}


def rules(family, keywords):
    """Returns the `Rule`s of an encoder with these keywords."""
    made = [_patches(family, keywords), _tokens(family, keywords)]
    if keywords["registers"]:
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
    return made + norm("norm", family.norms_outside[-1])


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


def joined(ours, *theirs):
    """Returns the rule of a variable that is a concatenation of tensors along the last axis."""
    return Rule(
        (ours,), theirs, lambda *x: [np.concatenate(x, -1)], lambda x: np.split(np.asarray(x), len(theirs), axis=-1)
    )


def transposed(ours, *theirs):
    """Returns the rule of a matrix that is a concatenation of transposed tensors."""
    return Rule(
        (ours,),
        theirs,
        lambda *x: [np.concatenate([part.T for part in x], -1)],
        lambda x: [part.T for part in np.split(np.asarray(x), len(theirs), axis=-1)],
    )


def _patches(family, keywords):
    """Returns the rule of the projection of patches, whose kernel is (patch·patch·C, D) here."""
    patch, channels = keywords["patch"], keywords["image_shape"][2]

    def read(kernel, *bias):
        return [kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0]), *bias]

    def write(kernel, *bias):
        shaped = np.asarray(kernel).reshape(patch, patch, channels, -1)
        return [shaped.transpose(3, 2, 0, 1), *map(np.asarray, bias)]

    ours = ("patches/kernel", "patches/bias") if keywords["patch_bias"] else ("patches/kernel",)
    return Rule(ours, family.embeddings[2:], read, write)


def _tokens(family, keywords):
    """Returns the rule of the class token and the positions, (1, 1 + N, D) or (1 + N, D) there."""
    grid = [-(-side // keywords["patch"]) for side in keywords["image_shape"][:2]]
    sine = keywords["positions"] == "sine"
    flat = family.embeddings[0].endswith("class_embedding")  # no axis of one image

    def read(token, places):
        token, places = token.reshape(-1), places.reshape(-1, places.shape[-1])
        return [token + places[0]] if sine else [token + places[0], places[1:]]

    def write(token, places=None):
        token = np.asarray(token)
        places = sine_positions(*grid, len(token)) if sine else np.asarray(places)
        places = np.concatenate([np.zeros_like(token)[None], places])
        return [token, places] if flat else [token[None, None], places[None]]

    ours = ("tokens/class_token",) if sine else ("tokens/class_token", "tokens/positions")
    return Rule(ours, family.embeddings[:2], read, write)


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
