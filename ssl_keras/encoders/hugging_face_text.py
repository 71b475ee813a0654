"""Import and export of language models in the Hugging Face layout; `text_layouts.py` has the families.

A checkpoint is a folder with `config.json`; `model.safetensors`, or shards with `model.safetensors.index.json`; and
`tokenizer.json`, or a vocabulary. The networks here compute the same as those models. Only the names and
layouts of weights differ.

Other tensors of a checkpoint (BERT's pooler, a classifier, mask buffers) are not imported;
they are logged and returned. Nothing in the folder is executed.
"""

import logging
import pathlib

import numpy as np
import tensorflow as tf

from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import layouts, text_configs
from ssl_keras.encoders.checkpoint_files import naming, open_weights, read_config, tensor_of, write_checkpoint
from ssl_keras.encoders.loading import load_tokenizer, load_with_head, named_variables
from ssl_keras.encoders.text_layouts import FAMILIES, head_rules, rules
from ssl_keras.networks import Network, description

SPEC = {"tokens": ((None,), tf.int32)}
# Ends of the names of constants, which need no import.
CONSTANTS = ("attn.bias", "attn.masked_bias", "embeddings.position_ids", "rotary_emb.inv_freq")
ROLES = {  # special tokens in `tokenizer_config.json`: their usual names
    "pad_token": tokenizers.PADS,
    "unk_token": tokenizers.UNKNOWNS,
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": tokenizers.MASKS,
    "bos_token": ("<s>", "<|begin_of_text|>"),
    "eos_token": ("</s>", "<|end_of_text|>", "<|endoftext|>"),
}
log = logging.getLogger(__name__)


def load(folder):
    """Loads a checkpoint into networks of this package.

    Returns:
        (encoder, head or None, tokenizer, names of tensors that were not imported).

    Raises:
        ValueError: a file is missing or damaged; the model is of another family or has options that are not
            supported; the tokenizer is not the model's; a tensor is missing, has another shape, or is not finite.
    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    with naming(folder / "config.json"):
        network = Network("transformer", **text_configs.keywords_of(config))
    tokenizer = tokenizers.load(folder)
    with naming(folder):
        text_configs.check_tokenizer(config, tokenizer)
    family, padding = FAMILIES[config["model_type"]], text_configs.padding_of(config)
    stored = open_weights(folder, family.prefix)
    head = _head(family, config, network.keywords, stored)

    def make():
        return [network.build(), head and head.build()]

    def rules_of(encoder, head):
        made = rules(family, description(encoder).keywords, padding)
        return [(encoder, made)] + ([(head, head_rules(family))] if head else [])

    (encoder, head), unused = layouts.build_and_assign(folder, stored, make, rules_of)
    with naming(folder):
        unused -= _check_copies(family, stored, unused)
    layouts.check_depth(folder, unused, family.block, network.keywords["layers"])
    return encoder, head, tokenizer, layouts.leftovers(folder, unused, CONSTANTS)


def _head(family, config, keywords, stored):
    """Returns the `Network` of the head, or None without one."""
    sizes = {name: keywords[name] for name in ("vocabulary", "width")}
    if family.builder == "untied_head":
        return None if config.get("tie_word_embeddings") else Network("untied_head", **sizes)
    if family.builder and family.head["kernel"] in stored:
        return Network("masked_head", **sizes, epsilon=keywords["epsilon"])
    return None


def _check_copies(family, stored, unused):
    """Returns the unused tensors that are copies of others. Raises ValueError if one differs from its original."""
    copies = family.copies.keys() & unused
    for copy in copies:
        original = family.copies[copy]
        if original not in stored or not np.array_equal(tensor_of(stored, copy), tensor_of(stored, original)):
            raise ValueError(
                f"Expected an output layer that is tied to the embedding. Received: {copy} with other values than "
                f"{original}"
            )
    return copies


def export(name, out):
    """Writes a saved language model in the Hugging Face layout into the new folder `out`.

    Raises:
        ValueError: no family of `FAMILIES` has such a network.
    """
    encoder, head, card = load_with_head(name)
    if not cards.is_a(card, "transformer"):
        raise ValueError(
            f"{card['name']} is not a language model, a vision transformer or an imported ResNet. Export it without "
            "--hugging-face."
        )
    keywords = description(encoder).keywords
    with naming(card["name"]):
        family_name = text_configs.family_for(keywords)
    family = FAMILIES[family_name]
    is_tuned = cards.target(card)["kind"] is not None
    if family.builder == "untied_head" and is_tuned:
        raise ValueError(
            f"{card['name']} was fine-tuned, and the output of a llama model is not part of it. Expected the encoder "
            "that it was fine-tuned from, or export without --hugging-face."
        )
    head = head if head is not None and description(head).builder == family.builder else None
    if is_tuned:
        log.warning("%s: the fine-tuned head is not part of this layout, and is left out.", card["name"])
    tokenizer = load_tokenizer(name)
    padding = next((tokenizer.special[pad] for pad in tokenizers.PADS if pad in tokenizer.special), None)
    padding = text_configs.PADDING.get(family_name, 0) if padding is None else padding
    prefix = "" if head is None and family.builder == "masked_head" else family.prefix
    made = layouts.written(rules(family, keywords, padding), named_variables(encoder))
    tensors = {prefix + theirs: value for theirs, value in made.items()}
    if head is not None:
        tensors |= layouts.written(head_rules(family), named_variables(head))
    config = text_configs.config_of(family_name, keywords, tokenizer, head, padding)
    described = _tokenizer_config(tokenizer, keywords["context"])
    contents = {"config.json": config, "tokenizer.json": tokenizer.json, "tokenizer_config.json": described}
    write_checkpoint(out, tensors, contents)


def _tokenizer_config(tokenizer, context):
    """Returns the tokenizer_config.json of a tokenizer."""
    found = {role: next((name for name in names if name in tokenizer.special), None) for role, names in ROLES.items()}
    named = {role: name for role, name in found.items() if name is not None}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, **named}
