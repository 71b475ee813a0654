"""Import and export of GPT-2 and BERT checkpoints in the Hugging Face layout.

A checkpoint is a folder with `config.json`; `model.safetensors`, or shards with `model.safetensors.index.json`; and
`tokenizer.json`, or a vocabulary. The networks here compute the same as those models. Only the names and
layouts of weights differ: BERT stores matrices transposed, and query, key and value projections separately.

Other tensors of a checkpoint (BERT's pooler, a classifier, mask buffers) are not imported;
they are logged and returned. Nothing in the folder is executed.
"""

import logging
import pathlib

import numpy as np
import tensorflow as tf

from ssl_keras import files
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.checkpoint_files import check_floats, naming, open_weights, read_config, tensor_of
from ssl_keras.encoders.loading import load_tokenizer, load_with_head, named_variables
from ssl_keras.networks import Network, description

MAX_NUMBER = 1 << 24  # in a config
SPEC = {"tokens": ((None,), tf.int32)}

# Variable here: tensors there, which are concatenated if there are several.
GPT2 = {
    "embeddings/tokens": ["wte.weight"],
    "embeddings/positions": ["wpe.weight"],
    "norm/scale": ["ln_f.weight"],
    "norm/shift": ["ln_f.bias"],
}
GPT2_BLOCK = {
    "attention_norm_scale": ["ln_1.weight"],
    "attention_norm_shift": ["ln_1.bias"],
    "attention_in": ["attn.c_attn.weight"],
    "attention_in_bias": ["attn.c_attn.bias"],
    "attention_out": ["attn.c_proj.weight"],
    "attention_out_bias": ["attn.c_proj.bias"],
    "mlp_norm_scale": ["ln_2.weight"],
    "mlp_norm_shift": ["ln_2.bias"],
    "mlp_in": ["mlp.c_fc.weight"],
    "mlp_in_bias": ["mlp.c_fc.bias"],
    "mlp_out": ["mlp.c_proj.weight"],
    "mlp_out_bias": ["mlp.c_proj.bias"],
}
BERT = {
    "embeddings/tokens": ["embeddings.word_embeddings.weight"],
    "embeddings/positions": ["embeddings.position_embeddings.weight"],
    "embeddings/segments": ["embeddings.token_type_embeddings.weight"],
    "embeddings/scale": ["embeddings.LayerNorm.weight"],
    "embeddings/offset": ["embeddings.LayerNorm.bias"],
}
BERT_BLOCK = {
    "attention_in": [f"attention.self.{part}.weight" for part in ("query", "key", "value")],
    "attention_in_bias": [f"attention.self.{part}.bias" for part in ("query", "key", "value")],
    "attention_out": ["attention.output.dense.weight"],
    "attention_out_bias": ["attention.output.dense.bias"],
    "attention_norm_scale": ["attention.output.LayerNorm.weight"],
    "attention_norm_shift": ["attention.output.LayerNorm.bias"],
    "mlp_in": ["intermediate.dense.weight"],
    "mlp_in_bias": ["intermediate.dense.bias"],
    "mlp_out": ["output.dense.weight"],
    "mlp_out_bias": ["output.dense.bias"],
    "mlp_norm_scale": ["output.LayerNorm.weight"],
    "mlp_norm_shift": ["output.LayerNorm.bias"],
}
BERT_HEAD = {
    "kernel": ["cls.predictions.transform.dense.weight"],
    "kernel_bias": ["cls.predictions.transform.dense.bias"],
    "scale": ["cls.predictions.transform.LayerNorm.weight"],
    "shift": ["cls.predictions.transform.LayerNorm.bias"],
    "bias": ["cls.predictions.bias"],
}
PREFIX = {"gpt2": "transformer.", "bert": "bert."}
TRANSPOSED = {"attention_in", "attention_out", "mlp_in", "mlp_out", "kernel"}  # in BERT
# Copies of other tensors, which must be equal to them.
COPIES = {
    "lm_head.weight": "wte.weight",
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
MASKS = ("attn.bias", "attn.masked_bias", "embeddings.position_ids")  # constants, which need no import

log = logging.getLogger(__name__)


def load(folder):
    """Loads a checkpoint into networks of this package.

    Returns:
        (encoder, head or None, tokenizer, names of tensors that were not imported).

    Raises:
        ValueError: a file is missing or damaged; the model is of another family or has options that
            are not supported; a tensor is missing, has another shape, or is not finite.
    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    tokenizer = tokenizers.load(folder)
    with naming(folder / "config.json"):
        network = _network(config)
    family, vocabulary = network.keywords["architecture"], network.keywords["vocabulary"]
    if tokenizer.vocabulary > vocabulary:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary} tokens, but the model only {vocabulary}. "
            "Expected the tokenizer of this model."
        )
    stored = open_weights(folder, PREFIX[family])

    def make():
        with_head = BERT_HEAD["kernel"][0] in stored
        keywords = {name: network.keywords[name] for name in ("vocabulary", "width", "epsilon")}
        return network.build(), Network("masked_head", **keywords).build() if with_head else None

    # A config may ask for any size, so check it first where nothing is allocated.
    with tf.Graph().as_default(), naming(folder):
        for graph, names in _tensors_of(*make()):
            variables = named_variables(graph)
            for name, theirs in names.items():
                _check_shape(stored, theirs, name, tuple(variables[name].shape), family)
    encoder, head = make()
    unused = set(stored)
    with naming(folder):
        for graph, names in _tensors_of(encoder, head):
            variables = named_variables(graph)
            for name, theirs in names.items():
                variables[name].assign(_read_value(stored, theirs, name, family))
            unused -= {name for theirs in names.values() for name in theirs}
        for copy, original in COPIES.items():
            if copy in unused:
                if original not in stored or not np.array_equal(tensor_of(stored, copy), tensor_of(stored, original)):
                    raise ValueError(
                        f"Expected an output layer that is tied to the embedding. Received: {copy} with other values "
                        f"than {original}"
                    )
                unused.remove(copy)
    unused = sorted(name for name in unused if not name.endswith(MASKS))
    if unused:
        log.warning(
            "%s: tensors that the network does not use were not imported: %s", folder, files.excerpt(", ".join(unused))
        )
    return encoder, head, tokenizer, unused


def export(name, out):
    """Writes a saved language model in the Hugging Face layout into the new folder `out`.

    Raises:
        ValueError: the encoder is not a GPT-2 or BERT model.
    """
    encoder, head, card = load_with_head(name)
    if not cards.is_a(card, "transformer"):
        raise ValueError(
            f"{card['name']} is not a language model or a vision transformer. Export it without --hugging-face."
        )
    family = cards.keyword(card, "architecture")
    if family not in PREFIX:
        raise ValueError(
            f"Expected the architecture gpt2 or bert for the Hugging Face layout. Received: {family!r} of "
            f"{card['name']}. Pretrain with --architecture gpt2 (causal_lm) or bert (masked_lm)."
        )
    tokenizer = load_tokenizer(name)
    head = head if cards.is_a(card, "masked_head") else None
    tensors = {}
    for graph, names in _tensors_of(encoder, head):
        variables = named_variables(graph)
        for ours, theirs in names.items():
            parts = np.split(np.asarray(variables[ours]), len(theirs), axis=-1)
            transposed = _is_transposed(family, ours)
            for their, part in zip(theirs, parts):
                prefix = "" if their.startswith("cls.") else PREFIX[family]
                if family == "bert" and head is None:
                    prefix = ""
                tensors[prefix + their] = part.T if transposed else part
    named = {f"{name.strip('[]').lower()}_token": name for name in tokenizers.SPECIAL if name in tokenizer.special}
    with files.new_folder(out) as partial:
        files.make_folder(partial)
        files.write(partial / "model.safetensors", files.tensors_to_bytes(tensors, {"format": "pt"}))
        files.write(partial / "tokenizer.json", tokenizer.json)
        config = _config_of(description(encoder).keywords, tokenizer, head is not None)
        files.write_json(partial / "config.json", config)
        files.write_json(
            partial / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": cards.keyword(card, "context"), **named},
        )


def _network(config):
    """Returns the encoder's `Network` for a config."""
    family = config["model_type"]
    if family == "gpt2":
        required = {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "tie_word_embeddings": True,
        }
        names = {
            "layers": "n_layer",
            "heads": "n_head",
            "width": "n_embd",
            "context": "n_positions",
            "vocabulary": "vocab_size",
        }
        hidden, epsilon = config.get("n_inner"), "layer_norm_epsilon"
    elif family == "bert":
        required = {
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "type_vocab_size": 2,
            "tie_word_embeddings": True,
        }
        names = {
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "width": "hidden_size",
            "context": "max_position_embeddings",
            "vocabulary": "vocab_size",
        }
        hidden, epsilon = config.get("intermediate_size"), "layer_norm_eps"
    else:
        raise ValueError(f"Expected the model_type gpt2 or bert. Received: {family!r}")
    for option, value in required.items():
        if config.get(option, value) != value:
            raise ValueError(f"Expected a {family} model with {option} = {value!r}. Received: {config[option]!r}")
    numbers = {ours: config.get(theirs) for ours, theirs in names.items()} | {"hidden": hidden or 1}
    names["hidden"] = "n_inner or intermediate_size"
    wrong = [names[ours] for ours, value in numbers.items() if type(value) is not int or not 1 <= value <= MAX_NUMBER]
    if wrong:
        raise ValueError(f"Expected integers of 1 to {MAX_NUMBER} for {', '.join(wrong)}.")
    numbers["hidden"] = hidden or 4 * numbers["width"]
    small = config.get(epsilon, 1e-5 if family == "gpt2" else 1e-12)
    if type(small) not in (int, float) or not abs(small) < 1e300:
        raise ValueError(f"Expected a number for {epsilon}. Received: {small!r}")
    return Network("transformer", architecture=family, causal=family == "gpt2", epsilon=float(small), **numbers)


def _config_of(network, tokenizer, with_head):
    """Returns the config for a network with these keywords."""
    if network["architecture"] == "gpt2":
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": network["layers"],
            "n_head": network["heads"],
            "n_embd": network["width"],
            "n_positions": network["context"],
            "n_inner": network["hidden"],
            "vocab_size": network["vocabulary"],
            "activation_function": "gelu_new",
            "layer_norm_epsilon": network["epsilon"],
            "bos_token_id": max(tokenizer.end, 0),
            "eos_token_id": max(tokenizer.end, 0),
        }
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM" if with_head else "BertModel"],
        "num_hidden_layers": network["layers"],
        "num_attention_heads": network["heads"],
        "hidden_size": network["width"],
        "max_position_embeddings": network["context"],
        "intermediate_size": network["hidden"],
        "vocab_size": network["vocabulary"],
        "hidden_act": "gelu",
        "layer_norm_eps": network["epsilon"],
        "type_vocab_size": 2,
        "pad_token_id": max(tokenizer.special.get("[PAD]", 0), 0),
    }


def _tensors_of(encoder, head):
    """Returns [(network, {name of a variable: names of the checkpoint's tensors})]."""
    network = description(encoder).keywords
    family = network["architecture"]
    outer, block, place = (GPT2, GPT2_BLOCK, "h.{}.") if family == "gpt2" else (BERT, BERT_BLOCK, "encoder.layer.{}.")
    names = dict(outer)
    for index in range(network["layers"]):
        for ours, theirs in block.items():
            names[f"block_{index}/{ours}"] = [place.format(index) + name for name in theirs]
    networks = [(encoder, names)]
    if head is not None:
        networks.append((head, {f"output/{ours}": theirs for ours, theirs in BERT_HEAD.items()}))
    return networks


def _is_transposed(family, ours):
    return family == "bert" and ours.split("/")[-1] in TRANSPOSED


def _check_shape(stored, names, ours, expected, family):
    """Compares the header of the file with the shape of a variable, before any tensor is read."""
    shapes = []
    for name in names:
        part = check_floats(stored, name, ours)
        shapes.append(tuple(part.get_shape())[:: -1 if _is_transposed(family, ours) else 1])
    total = (*shapes[0][:-1], sum(shape[-1] for shape in shapes if shape)) if shapes[0] else ()
    if total != expected or len({shape[:-1] for shape in shapes}) > 1 or not all(shapes):
        raise ValueError(f"{', '.join(names)}: expected the shape {expected} in total. Received: {total}")


def _read_value(stored, names, ours, family):
    """Reads the value of a variable from the checkpoint, as float32."""
    parts = [tensor_of(stored, name) for name in names]
    value = np.concatenate([part.T if _is_transposed(family, ours) else part for part in parts], axis=-1)
    if not np.isfinite(value).all():
        raise ValueError(f"{', '.join(names)}: expected finite numbers. Received: NaN or infinity. Get the file again.")
    return value
