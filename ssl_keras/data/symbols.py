"""Symbols: targets that are words, phonemes or characters with a vocabulary of their own, in place of a tokenizer."""

SPACE = "␣"  # what stands for a space among characters
END = 0  # the end of a target, or CTC's blank; symbols are numbered from 1


class Symbols:
    """Reads and writes targets symbol by symbol; to whom it is given it is like a `Tokenizer`.

    Args:
        alphabet: the V symbols, separated by spaces.
        characters: each character is a symbol; else they stand between white space.

    Attributes:
        names: the V symbols, in their order.
        ids: {symbol: id}, from 1.
        vocabulary: 1 + V.
    """

    def __init__(self, alphabet, characters=False):
        self.names, self.characters = alphabet.split(), characters
        self.ids = {symbol: 1 + index for index, symbol in enumerate(self.names)}
        self.vocabulary = 1 + len(self.names)

    def split(self, text):
        """A text as a list of symbols."""
        return list(" ".join(text.split()).replace(" ", SPACE)) if self.characters else text.split()

    def join(self, symbols):
        """Symbols as a text."""
        return "".join(symbols).replace(SPACE, " ") if self.characters else " ".join(symbols)

    def encode(self, texts):
        """A list of texts -> a list of lists of ids. Raises ValueError where a symbol is unknown."""
        rows = []
        for text in texts:
            symbols = self.split(text)
            unknown = [symbol for symbol in symbols if symbol not in self.ids]
            if unknown:
                raise ValueError(
                    f"the target {text!r} has the unknown symbol {unknown[0]!r}. Expected those that the encoder "
                    f"knows: {' '.join(self.names[:50])}"
                )
            rows.append([self.ids[symbol] for symbol in symbols])
        return rows

    def decode(self, ids):
        """Ids -> a text, without the end (or blanks) and padding."""
        return self.join([self.names[i - 1] for i in ids if i > END])


def alphabet_of(splits, most, hint, characters=False):
    """Collects the symbols of the targets of all parts, sorted, separated by spaces.

    Raises:
        ValueError: more than `most`; `hint` says what to do then.
    """
    split = Symbols("", characters).split
    # Of all parts: a rare symbol may be in one alone, and to know that it exists is no answer.
    found = {symbol for part in splits for target in part.column("target") for symbol in split(target)}
    if len(found) > most:
        raise ValueError(f"{splits.train.base} has {len(found)} different target symbols, more than {most}. {hint}")
    return " ".join(sorted(found))
