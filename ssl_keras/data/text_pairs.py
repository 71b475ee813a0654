"""Pairs of texts as tokens: [CLS] a [SEP] b [SEP], or as the tokenizer's own template for pairs has it.

A tokenizer without such a template, as in GPT-2, joins both texts by its end token. Of a pair that is too long, the
longer text is truncated first.

Shapes: `N` pairs, `W` tokens. -1 is padding.
"""

import dataclasses
import itertools
import logging

import numpy as np
import tokenizers
from tokenizers import processors

from ssl_keras.data.splits import Splits, check_whole_texts
from ssl_keras.data.tokens import TARGETS, check_unknown, count_unknown, texts_of

log = logging.getLogger(__name__)
ENDS = 2  # tokens that a pair needs besides special tokens: one of each text


def encoder(tokenizer):
    """Returns a `tokenizers.Tokenizer` that encodes pairs, a copy of that of a `Tokenizer`.

    Raises:
        ValueError: The tokenizer has neither a template for pairs nor an end token.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    parts = [key for key, _ in itertools.groupby(backend.encode("a", "a").sequence_ids)]
    if parts[parts.index(0) + 1] == 1:  # no special token stands between the texts
        if tokenizer.end < 0:
            raise ValueError(
                "The tokenizer has no token to separate two texts. Expected [SEP], </s> or <|endoftext|> among its "
                "special tokens. Choose another encoder, or join the texts yourself."
            )
        end = backend.id_to_token(tokenizer.end)
        backend.post_processor = processors.TemplateProcessing(
            single="$A", pair=f"$A {end} $B:1", special_tokens=[(end, tokenizer.end)]
        )
    backend.encode_special_tokens = True  # text that looks like a special token is text
    return backend


def separator(tokenizer):
    """Returns the token that ends the first text if the second has segment 1, as in BERT; -1 if it has segment 0."""
    encoding = encoder(tokenizer).encode("a", "b")
    return encoding.ids[encoding.type_ids.index(1) - 1] if 1 in encoding.type_ids else -1


def tokenize(splits, tokenizer, context):
    """Converts `Splits` of pairs, "text" and "text2", to `Splits` of tokens (N, W), W at most `context`.

    Raises:
        ValueError: The context is too short, texts are in pieces, or more than half of the tokens are unknown.
    """
    backend = encoder(tokenizer)
    special = backend.encode("a", "b").special_tokens_mask
    if context < sum(special) + ENDS:
        raise ValueError(f"The context is too short. Expected at least {sum(special) + ENDS}. Received: {context}")
    backend.enable_truncation(context, strategy="longest_first")
    parts, cut = [], 0
    for source in splits:
        check_whole_texts(source)
        encoded = backend.encode_batch_fast(list(zip(texts_of(source), source.column("text2"))))
        cut += sum(bool(each.overflowing) for each in encoded)
        parts.append([each.ids for each in encoded])
    if cut:
        log.warning("%s: %d pairs are longer than %d tokens. Truncating them.", splits.train.base, cut, context)
    width = max(len(ids) for part in parts for ids in part)
    made = []
    for source, part in zip(splits, parts):
        tokens = np.full((len(part), width), -1, np.int32)
        for row, ids in zip(tokens, part):
            row[: len(ids)] = ids
        arrays = {"tokens": tokens} | {name: source.column(name) for name in TARGETS if name in source.arrays}
        made.append(dataclasses.replace(source, arrays=arrays, rows=None, tokenizer=tokenizer))
    return check_unknown(Splits(*made), [count_unknown(part, tokenizer) for part in parts])
