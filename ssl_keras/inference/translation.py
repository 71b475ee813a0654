"""What a saved encoder with its decoder is for: targets of texts, and how many of them are right."""

from ssl_keras import encoders
from ssl_keras.data import sequences
from ssl_keras.data.readers import pairs
from ssl_keras.data.symbols import Symbols
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.inference import beam_search


class Translator:
    """A function from texts to texts, with a saved encoder and its decoder.

    Args:
        name: a saved encoder of `seq2seq`.
        beams: targets that beam search follows at a time; 1 is greedy.

    Raises:
        ValueError: unknown name; an encoder without a decoder.
    """

    def __init__(self, name, beams=5):
        network, output, card = encoders.load_with_head(name)
        if not cards.is_a(card, "attending_decoder"):
            raise ValueError(f"{card['name']} has no decoder. Expected an encoder of seq2seq.")
        self.name, self.decoding = card["name"], card["decoding"]
        self.context, self.tokenizer = self.decoding["context"], encoders.load_tokenizer(name)
        self.decoder = beam_search.Decoder(network, output, self.decoding["end"], self.context, beams)

    def __call__(self, texts):
        """A list of texts -> their targets, texts.

        Raises:
            ValueError: an empty text, one with unknown characters, one that is too long.
        """
        for text, ids in zip(texts, self.tokenizer.encode(texts)):
            if not ids:
                raise ValueError(f"Expected a text. Received: {text!r}")
            if self.tokenizer.unknown in ids:
                known = "".join(token for token in self.tokenizer.tokens() if len(token) == 1)
                raise ValueError(f"The encoder's tokenizer does not know all of {text!r}. It knows: {known}")
            if len(ids) > self.context:
                raise ValueError(
                    f"{text[:60]!r} has {len(ids)} tokens, more than the context of {self.context}. Shorten it."
                )
        return [text_of(self.decoding, self.tokenizer, ids) for ids in self.targets(texts)]

    def targets(self, texts):
        """A list of texts -> a list of target ids each; of any texts, read as far as they can be, as in training."""
        encoded = self.tokenizer.encode(texts)
        width = min(self.context, max(1, *map(len, encoded)))
        made = beam_search.write(self.decoder, sequences.padded_rows(encoded, width))
        return [target if ids else [] for target, ids in zip(made, encoded)]

    def read(self, target):
        """The ids of a right target's text; -1 stands for a symbol that the decoder does not know."""
        reader = reader_of(self.decoding, self.tokenizer)
        if reader is not self.tokenizer:
            return [reader.ids.get(symbol, -1) for symbol in reader.split(target)]
        return self.tokenizer.encode([target])[0]


def score(translator, source):
    """{"texts", "symbol error rate", "sequence error rate"} of a source of pairs, each text once.

    A symbol is a target token. Of several right targets the nearest counts.

    Raises:
        ValueError: a decoder that was not trained on pairs.
    """
    task = translator.decoding["task"]
    if task != "pairs":
        raise ValueError(f"{translator.name} was trained for the task {task}, not on pairs.")
    right = pairs.references(source)
    references = [[translator.read(target) for target in targets] for targets in right.values()]
    rates = error_rates(translator.targets(list(right)), references)
    return {"texts": len(right), **dict(zip(("symbol error rate", "sequence error rate"), rates))}


def reader_of(decoding, tokenizer):
    """What reads and writes targets, the tokenizer or `Symbols`; `decoding` as of `Objective.decoding`."""
    return tokenizer if decoding["symbols"] is None else Symbols(" ".join(decoding["symbols"]))


def text_of(decoding, tokenizer, ids):
    """The text of target ids, without the end and padding."""
    return reader_of(decoding, tokenizer).decode([int(i) for i in ids if i >= 0 and i != decoding["end"]])
