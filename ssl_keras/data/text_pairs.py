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


def _frame(backend):
    """Returns what a pair consists of, in order: ids of special tokens, and "first" and "second" for the texts."""
    # Of a long pair, the library would make every combination of the pieces of both texts.
    example, names, frame = backend.encode("a", "a"), {0: "first", 1: "second"}, []
    for which, index in zip(example.sequence_ids, example.ids):
        if which is None:
            frame.append(index)
        elif names[which] not in frame:
            frame.append(names[which])
    return frame


def _framed(frame, first, second):
    ids = []
    for piece in frame:
        ids += {"first": first, "second": second}.get(piece, [piece])
    return ids


def _shortened(pair, length):
    """Returns both lists of ids, the longer one truncated first, to `length` together."""
    if sum(map(len, pair)) <= length:
        return pair
    first, second = map(len, pair)
    half = length // 2
    if first <= second:  # the shorter text keeps at least half
        kept = min(first, half)
        return pair[0][:kept], pair[1][: length - kept]
    kept = min(second, half)
    return pair[0][: length - kept], pair[1][:kept]


def tokenize(splits, tokenizer, context):
    """Converts `Splits` of pairs, "text" and "text2", to `Splits` of tokens (N, W), W at most `context`.

    Raises:
        ValueError: The context is too short, texts are in pieces, or more than half of the tokens are unknown.
    """
    backend = encoder(tokenizer)
    frame = _frame(backend)
    special = sum(isinstance(piece, int) for piece in frame)
    if context < special + ENDS:
        raise ValueError(f"The context is too short. Expected at least {special + ENDS}. Received: {context}")
    parts, cut = [], 0
    for source in splits:
        check_whole_texts(source)
        both = [
            [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=False)]
            for texts in (list(texts_of(source)), source.column("text2").tolist())
        ]
        cut += sum(len(first) + len(second) > context - special for first, second in zip(*both))
        parts.append([_framed(frame, *_shortened(pair, context - special)) for pair in zip(*both)])
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
