"""Pairs of texts: templates, segments, and truncation of the longer one first."""

import dataclasses

import numpy as np
import pytest
from tokenizers import processors

from ssl_keras import encoders
from ssl_keras.data import text_pairs
from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import Splits
from ssl_keras.data.tokenizer import Tokenizer, train

TEXTS = ["Who wrote it ?", "the [SEP] river", "What city is it in , the city of the king ?"]
OTHERS = ["Where ?", "a much longer text than the other one", "What is the name of the river in the city ?"]


def pairs():
    source = documents("p", TEXTS, [0, 1, 0], ("a", "b"))
    source.arrays["text2"] = np.array(OTHERS, object)
    return Splits(source, source, source)


def without_padding(tokens):
    return [row[row >= 0].tolist() for row in tokens]


def test_bert_frames_both_texts():
    tokenizer = encoders.load_tokenizer("masked_lm-trec")
    made = text_pairs.tokenize(pairs(), tokenizer, 200).train
    cls, sep = (tokenizer.backend.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    first, second = tokenizer.encode(TEXTS), tokenizer.encode(OTHERS)
    expected = [[cls, *a, sep, *b, sep] for a, b in zip(first, second)]
    assert without_padding(made.column("tokens")) == expected
    assert made.column("label").tolist() == [0, 1, 0]
    assert text_pairs.separator(tokenizer) == sep


@pytest.mark.parametrize("context", [9, 12, 13, 16])
def test_the_longer_text_is_truncated_first(context):
    tokenizer = encoders.load_tokenizer("masked_lm-trec")
    found = without_padding(text_pairs.tokenize(pairs(), tokenizer, context).train.column("tokens"))
    for a, b, row in zip(tokenizer.encode(TEXTS), tokenizer.encode(OTHERS), found):
        a, b = list(a), list(b)
        while len(a) + len(b) > context - 3:
            (a if len(a) > len(b) else b if len(b) > len(a) else a).pop()
        middle = row.index(text_pairs.separator(tokenizer))
        assert {len(row[1:middle]), len(row[middle + 1 : -1])} == {len(a), len(b)}
        assert row[1:middle] == tokenizer.encode([TEXTS[0]])[0][: middle - 1] or len(row) == context


def test_a_tokenizer_without_a_template_joins_by_its_end_token():
    tokenizer = train("bpe", TEXTS + OTHERS, 300, "pairs")
    found = without_padding(text_pairs.tokenize(pairs(), tokenizer, 500).train.column("tokens"))
    end = tokenizer.backend.token_to_id("[SEP]")
    assert found == [[*a, end, *b] for a, b in zip(tokenizer.encode(TEXTS), tokenizer.encode(OTHERS))]
    assert text_pairs.separator(tokenizer) == end  # segments, if the encoder has them


def test_roberta_keeps_its_template_and_has_no_segments():
    backend = train("bpe", TEXTS + OTHERS, 300, "pairs").backend
    backend.add_special_tokens(["<s>", "</s>"])
    ids = {name: backend.token_to_id(name) for name in ("<s>", "</s>")}
    backend.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    tokenizer = Tokenizer(backend)
    found = without_padding(text_pairs.tokenize(pairs(), tokenizer, 500).train.column("tokens"))
    a, b, end = tokenizer.encode(TEXTS)[0], tokenizer.encode(OTHERS)[0], ids["</s>"]
    assert found[0] == [ids["<s>"], *a, end, end, *b, end]
    assert text_pairs.separator(tokenizer) == -1


def test_very_long_pairs_take_linear_time():
    """The library makes every combination of the pieces of both texts: here ten million."""
    tokenizer = encoders.load_tokenizer("masked_lm-trec")
    made = pairs()
    for source in made:
        source.arrays["text"] = source.arrays["text2"] = np.array(["what is it " * 10_000] * 3, object)
    assert text_pairs.tokenize(made, tokenizer, 16).train.column("tokens").shape == (3, 16)


def test_bad_pairs_are_refused():
    tokenizer = encoders.load_tokenizer("masked_lm-trec")
    with pytest.raises(ValueError, match="context is too short. Expected at least 5. Received: 4"):
        text_pairs.tokenize(pairs(), tokenizer, 4)
    pieces = [dataclasses.replace(source, arrays=source.arrays | {"ends": np.array([1, 0, 1])}) for source in pairs()]
    with pytest.raises(ValueError, match="expected whole texts"):
        text_pairs.tokenize(Splits(*pieces), tokenizer, 50)


@pytest.mark.parametrize("form", ["single", "pair"])
def test_a_template_with_too_many_tokens_is_refused(form):
    backend = train("bpe", TEXTS + OTHERS, 300, "pairs").backend
    templates = {"single": "$A", "pair": "$A $B"}
    templates[form] += 65 * " [SEP]"
    backend.post_processor = processors.TemplateProcessing(
        **templates, special_tokens=[("[SEP]", backend.token_to_id("[SEP]"))]
    )
    with pytest.raises(ValueError, match="The post_processor adds too many tokens"):
        Tokenizer(backend)
