"""Words and their tokens: which token is the first piece of which word. Words are separated by white space.

A text is tokenized as a whole, as in pretraining. A token belongs to the word that contains its last character; one
that is a space alone belongs to the word after it, except among characters. For BERT's tokenizer these are the word ids
of `tokenizers` for a list of words; for byte-level BPE too, if it adds a space before each word.

Shapes: `N` texts, `W` tokens, `Y` tags. -1 stands for no word and no tag.
"""

import bisect
import dataclasses

import numpy as np

from ssl_keras.data.readers.tags import CELL
from ssl_keras.data.splits import Splits
from ssl_keras.data.tokens import special_tokens, texts_of


def words(text):
    """Returns the words of a text."""
    return CELL.findall(text)


def first_pieces(texts, tokenizer, context, width):
    """Returns the index of the word whose first piece each token is, int32 (N, W); -1 for all other tokens.

    A word that the tokenizer drops, such as one of control characters, or that is truncated has no piece.

    Args:
        texts: list of N strings. tokenizer: a `Tokenizer`.
        context: the number of tokens to which texts are truncated.
        width: W, as in `tokens.tokenize_texts` of the same texts.
    """
    before, after = special_tokens(tokenizer)
    room, joins = context - len(before) - len(after), tokenizer.kind != "characters"
    tokenizer.backend.encode_special_tokens = True
    marks = np.full((len(texts), width), -1, np.int32)
    for row, text, encoding in zip(marks, texts, tokenizer.backend.encode_batch(texts, add_special_tokens=False)):
        starts, ends = zip(*(match.span() for match in CELL.finditer(text))) if words(text) else ((), ())
        last = -1
        for place, (start, stop) in enumerate(encoding.offsets[:room], len(before)):
            character = max(stop - 1, start)
            character += joins and text[character : character + 1] == " "
            word = bisect.bisect_right(starts, character) - 1
            if word > last and character < ends[word]:
                row[place] = last = word
    return marks


def add_tags(splits, tokenized, names, context):
    """Adds the column "tags" (N, W) int32 to tokenized `Splits`: an index into `names` at a word's first piece, or -1.

    Args:
        splits: `Splits` with the columns "text" and "tags", strings.
        tokenized: the same after `tokens.tokenize_texts`.
    """
    number, parts = {name: index for index, name in enumerate(names)}, []
    for source, made in zip(splits, tokenized):
        tokens = made.column("tokens")
        marks = first_pieces(list(texts_of(source)), made.tokenizer, context, tokens.shape[1])
        tags = np.full(tokens.shape, -1, np.int32)
        for row, mark, line in zip(tags, marks, source.column("tags")):
            known = np.array([number[tag] for tag in words(line)], np.int32)
            row[mark >= 0] = known[mark[mark >= 0]]
        parts.append(dataclasses.replace(made, arrays=made.arrays | {"tags": tags}))
    return Splits(*parts)


def tags_of_words(text, marks, values):
    """Returns the value of each word of a text, [value or None]: that of its first piece. `values` has W entries."""
    found = dict(zip(marks[marks >= 0].tolist(), np.flatnonzero(marks >= 0)))
    return [values[found[word]] if word in found else None for word in range(len(words(text)))]
