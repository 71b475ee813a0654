"""Names and layouts of language models' weights in the Hugging Face layout, family by family.

- `gpt2` (Radford et al. 2019): matrices are stored as they are here.
- `bert` (Devlin et al. 2018), with the head of its masked language model, as in the next two.
- `roberta` (Liu et al. 2019): BERT's names, one segment. Positions begin at the padding token's id + 1, and only tokens
  that are not padding count. Padding comes last here, so position i is row i + id + 1, and the rows before are dropped.
- `distilbert` (Sanh et al. 2019): no segments.
- `llama` (Touvron et al. 2023; Grattafiori et al. 2024): its output matrix is a head, unless it is tied.
"""

import typing

import numpy as np

from ssl_keras.encoders.layouts import Rule, joined, transposed


class Family(typing.NamedTuple):
    """A family of models.

    Attributes:
        prefix: beginning of the names of the encoder's tensors in a model with a head.
        outer: {variable outside of the blocks: tensor}.
        block: pattern of a block's prefix.
        parts: {variable of a block: tensors that it is a concatenation of}.
        matrices: variables whose tensors are stored transposed.
        head: {variable of the head: tensor}.
        builder: the head's builder in `networks.BUILDERS`.
        copies: {tensor: the tensor that it must be equal to}.
        numbers: {keyword of the network: option of the config}, integers.
        epsilon: option of the config and its default; the option is "" if there is none.
        keywords: of the network, which all models of the family have.
        required: options of the config that must have these values.
        architectures: class in `transformers` with the head, and without.
    """

    prefix: str
    outer: dict
    block: str
    parts: dict
    matrices: frozenset
    head: dict
    builder: str
    copies: dict
    numbers: dict
    epsilon: tuple
    keywords: dict
    required: dict
    architectures: tuple


def _dense(**names):
    """Returns {variable: tensors} of dense layers, with biases: {variable: name of a layer, or names}."""
    found = {}
    for ours, theirs in names.items():
        theirs = (theirs,) if isinstance(theirs, str) else theirs
        found[ours] = tuple(f"{name}.weight" for name in theirs)
        found[f"{ours}_bias"] = tuple(f"{name}.bias" for name in theirs)
    return found


def _norms(**names):
    """Returns {variable: tensors} of norms with a scale and a shift."""
    return {
        f"{ours}_norm_{part}": (f"{theirs}.{name}",)
        for ours, theirs in names.items()
        for part, name in (("scale", "weight"), ("shift", "bias"))
    }


_BERT_MATRICES = frozenset(("attention_in", "attention_out", "mlp_in", "mlp_out", "kernel"))
_BERT_NUMBERS = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "hidden": "intermediate_size",
    "context": "max_position_embeddings",
    "vocabulary": "vocab_size",
}
_BERT_REQUIRED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
}
_WORDS = "embeddings.word_embeddings.weight"
_GPT2 = Family(
    prefix="transformer.",
    outer={
        "embeddings/tokens": "wte.weight",
        "embeddings/positions": "wpe.weight",
        "norm/scale": "ln_f.weight",
        "norm/shift": "ln_f.bias",
    },
    block="h.{}.",
    parts=_norms(attention="ln_1", mlp="ln_2")
    | _dense(attention_in="attn.c_attn", attention_out="attn.c_proj", mlp_in="mlp.c_fc", mlp_out="mlp.c_proj"),
    matrices=frozenset(),
    head={},
    builder="",
    copies={"lm_head.weight": "wte.weight"},
    numbers={
        "layers": "n_layer",
        "heads": "n_head",
        "width": "n_embd",
        "hidden": "n_inner",
        "context": "n_positions",
        "vocabulary": "vocab_size",
    },
    epsilon=("layer_norm_epsilon", 1e-5),
    keywords={"architecture": "gpt2", "causal": True},
    required={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "add_cross_attention": False,
    },
    architectures=("GPT2LMHeadModel", "GPT2LMHeadModel"),
)
_BERT = Family(
    prefix="bert.",
    outer={
        "embeddings/tokens": _WORDS,
        "embeddings/positions": "embeddings.position_embeddings.weight",
        "embeddings/segments": "embeddings.token_type_embeddings.weight",
        "embeddings/scale": "embeddings.LayerNorm.weight",
        "embeddings/offset": "embeddings.LayerNorm.bias",
    },
    block="encoder.layer.{}.",
    parts=_dense(
        attention_in=tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
        attention_out="attention.output.dense",
        mlp_in="intermediate.dense",
        mlp_out="output.dense",
    )
    | _norms(attention="attention.output.LayerNorm", mlp="output.LayerNorm"),
    matrices=_BERT_MATRICES,
    head={
        "kernel": "cls.predictions.transform.dense.weight",
        "kernel_bias": "cls.predictions.transform.dense.bias",
        "scale": "cls.predictions.transform.LayerNorm.weight",
        "shift": "cls.predictions.transform.LayerNorm.bias",
        "bias": "cls.predictions.bias",
    },
    builder="masked_head",
    copies={
        "cls.predictions.decoder.weight": _WORDS,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    numbers=_BERT_NUMBERS,
    epsilon=("layer_norm_eps", 1e-12),
    keywords={"architecture": "bert", "causal": False, "segments": 2},
    required=_BERT_REQUIRED,
    architectures=("BertForMaskedLM", "BertModel"),
)
FAMILIES = {
    "gpt2": _GPT2,
    "bert": _BERT,
    "roberta": _BERT._replace(
        prefix="roberta.",
        head={
            "kernel": "lm_head.dense.weight",
            "kernel_bias": "lm_head.dense.bias",
            "scale": "lm_head.layer_norm.weight",
            "shift": "lm_head.layer_norm.bias",
            "bias": "lm_head.bias",
        },
        copies={"lm_head.decoder.weight": _WORDS, "lm_head.decoder.bias": "lm_head.bias"},
        keywords=_BERT.keywords | {"segments": 1},
        required=_BERT_REQUIRED | {"type_vocab_size": 1},
        architectures=("RobertaForMaskedLM", "RobertaModel"),
    ),
    "distilbert": _BERT._replace(
        prefix="distilbert.",
        outer={ours: theirs for ours, theirs in _BERT.outer.items() if ours != "embeddings/segments"},
        block="transformer.layer.{}.",
        parts=_dense(
            attention_in=tuple(f"attention.{part}_lin" for part in "qkv"),
            attention_out="attention.out_lin",
            mlp_in="ffn.lin1",
            mlp_out="ffn.lin2",
        )
        | _norms(attention="sa_layer_norm", mlp="output_layer_norm"),
        head={
            "kernel": "vocab_transform.weight",
            "kernel_bias": "vocab_transform.bias",
            "scale": "vocab_layer_norm.weight",
            "shift": "vocab_layer_norm.bias",
            "bias": "vocab_projector.bias",
        },
        copies={"vocab_projector.weight": _WORDS},
        numbers={
            "layers": "n_layers",
            "heads": "n_heads",
            "width": "dim",
            "hidden": "hidden_dim",
            "context": "max_position_embeddings",
            "vocabulary": "vocab_size",
        },
        epsilon=("", 1e-12),
        keywords=_BERT.keywords | {"segments": 0},
        required={"activation": "gelu", "tie_word_embeddings": True},
        architectures=("DistilBertForMaskedLM", "DistilBertModel"),
    ),
    "llama": Family(
        prefix="model.",
        outer={"embeddings/tokens": "embed_tokens.weight", "norm/scale": "norm.weight"},
        block="layers.{}.",
        parts={
            "query": ("self_attn.q_proj.weight",),
            "key": ("self_attn.k_proj.weight",),
            "value": ("self_attn.v_proj.weight",),
            "attention_out": ("self_attn.o_proj.weight",),
            "mlp_gate": ("mlp.gate_proj.weight",),
            "mlp_in": ("mlp.up_proj.weight",),
            "mlp_out": ("mlp.down_proj.weight",),
            "attention_norm_scale": ("input_layernorm.weight",),
            "mlp_norm_scale": ("post_attention_layernorm.weight",),
        },
        matrices=frozenset(("query", "key", "value", "attention_out", "mlp_gate", "mlp_in", "mlp_out")),
        head={"embeddings": "lm_head.weight"},
        builder="untied_head",
        copies={"lm_head.weight": "embed_tokens.weight"},
        numbers=_BERT_NUMBERS,
        epsilon=("rms_norm_eps", 1e-6),
        keywords={"architecture": "llama", "causal": True},
        required={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        architectures=("LlamaForCausalLM", "LlamaForCausalLM"),
    ),
}


def rules(family, keywords, padding):
    """Returns the `Rule`s of an encoder with these keywords; `padding` is RoBERTa's id of the padding token."""
    made = [joined(ours, theirs) for ours, theirs in family.outer.items()]
    if family is FAMILIES["roberta"]:
        place = "embeddings/positions"
        made = [rule for rule in made if rule.ours != (place,)] + [_later(place, family.outer[place], padding + 1)]
    for index in range(keywords["layers"]):
        for ours, theirs in family.parts.items():
            names = (family.block.format(index) + name for name in theirs)
            made.append((transposed if ours in family.matrices else joined)(f"block_{index}/{ours}", *names))
    return made


def head_rules(family):
    """Returns the `Rule`s of the head."""
    return [
        (transposed if ours in family.matrices else joined)(f"output/{ours}", theirs)
        for ours, theirs in family.head.items()
    ]


def _later(ours, theirs, first):
    """Returns the rule of positions of which `first` rows come before the first one that is used."""
    return Rule(
        (ours,),
        (theirs,),
        lambda x: [x[first:]],
        lambda x: [np.pad(np.asarray(x), ((first, 0), (0, 0)))],
        lambda shape: [(first + shape[0], shape[1])],
    )
