"""Tokenizers from older files: BERT's `vocab.txt`, and the `vocab.json` and `merges.txt` of GPT-2 and RoBERTa."""

import json
import logging

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ssl_keras.data import tokenizer_parts

NAMES = "vocab.txt (BERT), or vocab.json and merges.txt (GPT-2, RoBERTa)"
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
GPT2_SPECIAL = ("<|endoftext|>", "<s>", "<pad>", "</s>", "<unk>", "<mask>")

log = logging.getLogger(__name__)


def found(folder):
    """Returns the paths of the vocabulary files in a folder; empty if there are none."""
    for names in (("vocab.txt",), ("vocab.json", "merges.txt")):
        paths = [folder / name for name in names]
        if all(path.is_file() for path in paths):
            return paths
    return []


def backend(paths):
    """Returns the `tokenizers.Tokenizer` of `found` files. Raises ValueError if they are not a valid vocabulary."""
    texts = [path.read_text("utf-8") for path in paths]
    made = _gpt2(*texts) if len(paths) == 2 else _bert(*texts, paths[0].with_name("tokenizer_config.json"))
    log.info("%s: built the tokenizer from %s", paths[0].parent, " and ".join(path.name for path in paths))
    return made


def _bert(content, config):
    words = content.removesuffix("\n").split("\n")
    words = {word.removesuffix("\r"): index for index, word in enumerate(words)}
    options = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    if not isinstance(options, dict):
        raise ValueError(f"{config} is not a tokenizer config. Expected a JSON object.")
    # BERT lowercases by default, but a vocabulary with capitals is cased.
    cased = any(word != word.lower() for word in words if not word.startswith("["))
    lower = options.get("do_lower_case", not cased)
    if "[UNK]" not in words or not isinstance(lower, bool):
        raise ValueError("Expected one token per line, with [UNK], and a do_lower_case of true or false.")
    made = tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=options.get("strip_accents"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made.add_special_tokens([word for word in BERT_SPECIAL if word in words])
    if "[CLS]" in words and "[SEP]" in words:
        made.post_processor = framing(made)
    return made


def framing(tokenizer):
    """Returns the post-processor that puts [CLS] before a text and [SEP] after it."""
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )


def _gpt2(vocabulary, merges):
    words = json.loads(vocabulary)
    if not isinstance(words, dict) or not all(type(index) is int and index >= 0 for index in words.values()):
        raise ValueError("Expected a vocab.json that maps each token to its id.")
    tokenizer_parts.check_sizes({"model": {"vocab": words}})
    pairs = [tuple(line.split(" ")) for line in merges.split("\n") if line.strip() and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("Expected a merges.txt with two tokens per line.")
    made = tokenizers.Tokenizer(models.BPE(words, pairs))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([word for word in GPT2_SPECIAL if word in words and word != "<mask>"])
    if {"<s>", "</s>", "<mask>"} <= words.keys():  # RoBERTa, whose mask includes the space before it
        made.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
        ends = [(name, words[name]) for name in ("</s>", "<s>")]
        made.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    return made
