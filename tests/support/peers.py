"""Makes tests/checkpoints: small language models of `transformers` with random weights, and what they compute.

    python tests/support/peers.py [FAMILY …]     needs requirements-bench.txt; `make test` only reads the result

Each folder is a checkpoint in the Hugging Face layout, with `expected.safetensors` beside it:
tokens (2, 20 or 12) of which the second row's last six are padding, the last hidden states, the logits.
"""

import pathlib
import sys

import numpy as np
import safetensors.numpy
import tokenizers as library
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data import tokenizer_parts

OUT = pathlib.Path(__file__).with_name("checkpoints")
TEXT = ["the quick brown fox jumps over the lazy dog while seven wizards box"] * 3
LENGTHS = {"gpt2": 20, "bert": 20}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
BERT = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 40}


def config(family, vocabulary, **options):
    """The config of a small model of a family, with some options."""
    if family == "gpt2":
        own = {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 3, "eos_token_id": 3}
        return transformers.GPT2Config(vocab_size=vocabulary, **own | options)
    if family == "bert":
        return transformers.BertConfig(vocab_size=vocabulary, **BERT | {"max_position_embeddings": 24} | options)
    if family == "roberta":
        own = {"max_position_embeddings": 26, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "intermediate_size": 24}
        return transformers.RobertaConfig(vocab_size=vocabulary, **BERT | own | options)
    if family == "distilbert":
        own = {"max_position_embeddings": 24, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 40}
        return transformers.DistilBertConfig(vocab_size=vocabulary, **own | options)
    own = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
    own |= {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3}}
    own |= {"bos_token_id": 0, "eos_token_id": 1}
    return transformers.LlamaConfig(vocab_size=vocabulary, **BERT | own | options)


HEADS = {
    "gpt2": transformers.GPT2LMHeadModel,
    "bert": transformers.BertForMaskedLM,
    "roberta": transformers.RobertaForMaskedLM,
    "distilbert": transformers.DistilBertForMaskedLM,
    "llama": transformers.LlamaForCausalLM,
}


def model(family, vocabulary, **options):
    """A model whose every weight is random, norms and biases too."""
    torch.manual_seed(0)
    made = HEADS[family](config(family, vocabulary, **options))
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made.eval()


def outputs(made, ids):
    """(last hidden states, logits) as `transformers` computes them; -1 is padding."""
    valid, padding = torch.tensor(ids >= 0), made.config.pad_token_id or 0
    ids = torch.tensor(np.where(ids < 0, padding, ids))  # RoBERTa counts the tokens that are not padding
    with torch.no_grad():
        out = made(ids, attention_mask=valid.long(), output_hidden_states=True)
    return out.hidden_states[-1].numpy(), out.logits.numpy()


def tokenizer(family):
    """A tokenizer of the family's kind, trained on a sentence."""
    if family == "gpt2":
        return tokenizers.Tokenizer(tokenizers._bpe(TEXT, 270))
    if family in ("bert", "distilbert"):
        return tokenizers.Tokenizer(tokenizers._wordpiece(TEXT, 60))
    made = library.Tokenizer(models.BPE())
    made.decoder = decoders.ByteLevel()
    if family == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        special = ["<|begin_of_text|>", "<|end_of_text|>"]
        pattern = pre_tokenizers.Split(library.Regex(tokenizer_parts.LLAMA3), "isolated")
        made.pre_tokenizer = pre_tokenizers.Sequence([pattern, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=264, special_tokens=special, initial_alphabet=alphabet)
    )
    if family == "roberta":
        made.add_special_tokens([library.AddedToken("<mask>", lstrip=True)])
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    else:
        frame = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), frame])
    return tokenizers.Tokenizer(made)


def make(family, folder, **options):
    """Writes a checkpoint of a family, and what it computes, into a folder."""
    text = tokenizer(family)
    made = model(family, text.vocabulary + 2, **options)  # some checkpoints have more embeddings than tokens
    made.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "tokenizer.json").write_text(text.json)
    first = 2 if family == "roberta" else 0  # a padding token in a text would not count
    ids = np.random.default_rng(0).integers(first, text.vocabulary, (2, LENGTHS.get(family, 12)))
    ids[1, -6:] = -1
    hidden, logits = outputs(made, ids)
    expected = {"tokens": ids.astype(np.int32), "hidden": hidden, "logits": logits}
    safetensors.numpy.save_file(expected, folder / "expected.safetensors")


if __name__ == "__main__":
    for each in sys.argv[1:] or HEADS:
        make(each, OUT / each)
