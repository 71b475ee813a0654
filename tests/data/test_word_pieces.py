"""Words and their first pieces, compared with the word ids of `tokenizers`."""

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ssl_keras import encoders
from ssl_keras.data import word_pieces
from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import Splits
from ssl_keras.data.tokenizer import Tokenizer, train
from ssl_keras.data.tokens import special_tokens, tokenize_texts

HARD = (
    "Don't stop",
    "U.S.A. re-enter x86_64 ... …",
    "😀 👨‍👩‍👧 hi😀there 🏳️‍🌈",
    "naïve e\u0301tude Ünïcödé ﬁne",
    "日本語 is かな and हिन्दी too",
    "a \u200b b \u00ad c",
    "antidisestablishmentarianism 3.14159 $1,000.00 #tag @user",
    "no\u00a0break \u00a0 space",
    "[SEP] [MASK] <s> text",
)


def wordpiece():
    return encoders.load_tokenizer("masked_lm-trec")


def cased_wordpiece():
    return train("wordpiece", list(HARD) * 3, 300, "hard")


def byte_level():
    """Byte-level BPE that adds a space before each word, as `tokenizers` wants it for lists of words."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        list(HARD) * 3, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return Tokenizer(made)


@pytest.mark.parametrize("make", [wordpiece, cased_wordpiece, byte_level])
@pytest.mark.parametrize("text", HARD)
def test_first_pieces_are_those_of_the_library(make, text):
    tokenizer, words = make(), word_pieces.words(text)
    before, after = special_tokens(tokenizer)
    tokenizer.backend.encode_special_tokens = True
    encoding = tokenizer.backend.encode(words, is_pretokenized=True, add_special_tokens=False)
    assert tokenizer.encode([text])[0] == encoding.ids
    width = len(encoding.ids) + len(before) + len(after)
    seen, expected = set(), [-1] * width
    for place, word in enumerate(encoding.word_ids, len(before)):
        if word not in seen:
            seen.add(word)
            expected[place] = word
    assert word_pieces.first_pieces([text], tokenizer, 500, width)[0].tolist() == expected


def test_a_character_tokenizer_has_tokens_of_no_word():
    tokenizer = train("characters", ["ab c"], 0, "ab c")
    marks = word_pieces.first_pieces(["ab c", "  c", ""], tokenizer, 10, 4)
    np.testing.assert_array_equal(marks, [[0, -1, -1, 1], [-1, -1, 0, -1], [-1, -1, -1, -1]])


def test_tags_stand_at_first_pieces_and_the_rest_is_truncated():
    tokenizer = wordpiece()
    text, tags = "What is [SEP] Zyzzyva ?", "O O B-X I-X O"
    source = documents("d", [text, "What ?"])
    source.arrays["tags"] = np.array([tags, "O I-X"], object)
    splits = Splits(source, source, source)
    for context in (30, 6):
        made = tokenize_texts(splits, tokenizer, context)
        tagged = word_pieces.add_tags(splits, made, ("B-X", "I-X", "O"), context).train
        tokens, found = tagged.column("tokens"), tagged.column("tags")
        assert found.shape == tokens.shape
        pieces = [tokenizer.encode([f"{' ' * bool(i)}{word}"])[0] for i, word in enumerate(text.split())]
        expected, names = [-1], {"B-X": 0, "I-X": 1, "O": 2}
        for ids, tag in zip(pieces, tags.split()):
            expected += [names[tag], *[-1] * (len(ids) - 1)]
        expected = [*expected[: context - 1], -1]
        assert found[0].tolist() == expected[: tokens.shape[1]]
        assert found[1, :4].tolist() == [-1, 2, 1, -1]
        marks = word_pieces.first_pieces([text], tokenizer, context, tokens.shape[1])[0]
        values = word_pieces.tags_of_words(text, marks, found[0])
        whole = [2, 2, 0, 1, 2]
        assert [value for value in values if value is not None] == whole[: sum(value is not None for value in values)]
        assert (None in values) == (context == 6)
