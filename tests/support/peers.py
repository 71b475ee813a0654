"""Makes tests/checkpoints: small GPT-2 and BERT models of `transformers` with random weights, and what they compute.

    python tests/support/peers.py          needs requirements-bench.txt; `make test` only reads the result

Each folder is a checkpoint in the Hugging Face layout, with `expected.safetensors` beside it:
tokens (2, 20) of which the second row's last six are padding, the last hidden states, the logits.
"""

import pathlib

import numpy as np
import safetensors.numpy
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from ssl_keras.data import tokenizer as tokenizers

OUT = pathlib.Path(__file__).with_name("checkpoints")
TEXT = ["the quick brown fox jumps over the lazy dog while seven wizards box"] * 3


def model(family, vocabulary):
    """A model whose every weight is random, norms and biases too."""
    torch.manual_seed(0)
    if family == "gpt2":
        made = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary, n_positions=24, n_embd=16, n_layer=2, n_head=2, bos_token_id=3, eos_token_id=3
            )
        )
    else:
        made = BertForMaskedLM(
            BertConfig(
                vocab_size=vocabulary,
                max_position_embeddings=24,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=40,
            )
        )
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made.eval()


def outputs(made, ids):
    """(last hidden states, logits) as `transformers` computes them; -1 is padding."""
    valid = torch.tensor(ids >= 0)
    with torch.no_grad():
        out = made(torch.tensor(np.maximum(ids, 0)), attention_mask=valid.long(), output_hidden_states=True)
    return out.hidden_states[-1].numpy(), out.logits.numpy()


def tokenizer(family):
    return tokenizers.Tokenizer(tokenizers._bpe(TEXT, 270) if family == "gpt2" else tokenizers._wordpiece(TEXT, 60))


def make(family, folder):
    text = tokenizer(family)
    made = model(family, text.vocabulary + 2)  # some checkpoints have more embeddings than tokens
    made.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "tokenizer.json").write_text(text.json)
    ids = np.random.default_rng(0).integers(0, text.vocabulary, (2, 20))
    ids[1, 14:] = -1
    hidden, logits = outputs(made, ids)
    expected = {"tokens": ids.astype(np.int32), "hidden": hidden, "logits": logits}
    safetensors.numpy.save_file(expected, folder / "expected.safetensors")


if __name__ == "__main__":
    for family in ("gpt2", "bert"):
        make(family, OUT / family)
