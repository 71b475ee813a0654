"""Symbols: targets of words, phonemes or characters, with their own vocabulary in place of a tokenizer."""

SPACE = "␣"  # represents a space among characters
END = 0  # the end of a target, or CTC's blank; ids of symbols start at 1


class Symbols:
    """Encodes and decodes targets symbol by symbol. Can be used in place of a `Tokenizer`.

    Args:
        alphabet: the V symbols, separated by spaces.
        characters: whether each character is a symbol; else symbols are separated by whitespace.

    Attributes:
        names: the V symbols, in order.
        ids: {symbol: id}, from 1.
        vocabulary: 1 + V.
    """

    def __init__(self, alphabet, characters=False):
        self.names, self.characters = alphabet.split(), characters
        self.ids = {symbol: 1 + index for index, symbol in enumerate(self.names)}
        self.vocabulary = 1 + len(self.names)

    def split(self, text):
        """Splits a text into symbols."""
        return list(" ".join(text.split()).replace(" ", SPACE)) if self.characters else text.split()

    def join(self, symbols):
        """Joins symbols into a text."""
        return "".join(symbols).replace(SPACE, " ") if self.characters else " ".join(symbols)

    def encode(self, texts):
        """Encodes a list of texts as a list of lists of ids. Raises ValueError if a symbol is unknown."""
        rows = []
        for text in texts:
            symbols = self.split(text)
            unknown = [symbol for symbol in symbols if symbol not in self.ids]
            if unknown:
                raise ValueError(
                    f"the target {text!r} has the unknown symbol {unknown[0]!r}. Expected symbols of the encoder: "
                    f"{' '.join(self.names[:50])}"
                )
            rows.append([self.ids[symbol] for symbol in symbols])
        return rows

    def decode(self, ids):
        """Decodes ids to a text; the end (or blanks) and padding are skipped."""
        return self.join([self.names[i - 1] for i in ids if i > END])


def alphabet_of(splits, most, hint, characters=False):
    """Returns the symbols in the targets of all splits, sorted and separated by spaces.

    Raises:
        ValueError: There are more than `most` symbols; the message ends with `hint`.
    """
    split = Symbols("", characters).split
    # All splits are used, because a rare symbol may be in only one of them. This leaks no targets.
    found = {symbol for part in splits for target in part.column("target") for symbol in split(target)}
    if len(found) > most:
        raise ValueError(f"{splits.train.base} has {len(found)} target symbols. Expected at most {most}. {hint}")
    return " ".join(sorted(found))
