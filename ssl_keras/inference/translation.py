"""Translation of texts with a saved seq2seq encoder and its decoder, and the error rates."""

from ssl_keras import encoders
from ssl_keras.data import sequences
from ssl_keras.data.readers import pairs
from ssl_keras.data.symbols import Symbols
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.inference import beam_search


class Translator:
    """Translates texts with a saved encoder and its decoder.

    Args:
        name: a saved encoder of `seq2seq`.
        beams: the number of beams of the beam search; 1 is greedy decoding.

    Raises:
        ValueError: the name is unknown, or the encoder has no decoder.
    """

    def __init__(self, name, beams=5):
        network, output, card = encoders.load_with_head(name)
        if not cards.is_a(card, "attending_decoder"):
            raise ValueError(f"{card['name']} has no decoder. Expected an encoder of seq2seq.")
        self.name, self.decoding = card["name"], cards.decoding(card)
        self.context, self.tokenizer = self.decoding["context"], encoders.load_tokenizer(name)
        self.decoder = beam_search.Decoder(network, output, self.decoding["end"], self.context, beams)

    def __call__(self, texts):
        """Returns the targets of a list of texts, as texts.

        Raises:
            ValueError: a text is empty or too long, or has unknown characters.
        """
        for text, ids in zip(texts, self.tokenizer.encode(texts)):
            if not ids:
                raise ValueError(f"Expected a text that is not empty. Received: {text!r}")
            if self.tokenizer.unknown in ids:
                known = "".join(token for token in self.tokenizer.tokens() if len(token) == 1)
                raise ValueError(
                    f"Expected only characters that the encoder's tokenizer has: {known}. Received: {text!r}"
                )
            if len(ids) > self.context:
                raise ValueError(
                    f"{text[:60]!r} has {len(ids)} tokens, more than the context of {self.context}. Shorten it."
                )
        return [decode_target(self.decoding, self.tokenizer, ids) for ids in self.targets(texts)]

    def targets(self, texts):
        """Returns the target ids of texts; long texts are truncated, and unknown tokens kept, as in training."""
        encoded = self.tokenizer.encode(texts)
        width = min(self.context, max(1, *map(len, encoded)))
        decoded = beam_search.decode(self.decoder, sequences.padded_rows(encoded, width))
        return [target if ids else [] for target, ids in zip(decoded, encoded)]

    def read(self, target):
        """Returns the ids of a reference target; -1 stands for a symbol that the decoder does not have."""
        symbols = target_symbols(self.decoding, self.tokenizer)
        if symbols is not self.tokenizer:
            return [symbols.ids.get(symbol, -1) for symbol in symbols.split(target)]
        return self.tokenizer.encode([target])[0]


def score(translator, source):
    """Measures a translator on a source of pairs, each text once.

    A symbol is a target token. Where a text has several references, the nearest one counts.

    Returns:
        {"texts", "symbol error rate", "sequence error rate"}.

    Raises:
        ValueError: the decoder was not trained on pairs.
    """
    task = translator.decoding["task"]
    if task != "pairs":
        raise ValueError(f"Expected an encoder of the task pairs. Received: {translator.name}, of the task {task}")
    targets_of = pairs.references(source)
    references = [[translator.read(target) for target in targets] for targets in targets_of.values()]
    rates = error_rates(translator.targets(list(targets_of)), references)
    return {"texts": len(targets_of), **dict(zip(("symbol error rate", "sequence error rate"), rates))}


def target_symbols(decoding, tokenizer):
    """Returns the tokenizer or the `Symbols` of the targets; for `decoding` see `Objective.decoding`."""
    return tokenizer if decoding["symbols"] is None else Symbols(" ".join(decoding["symbols"]))


def decode_target(decoding, tokenizer, ids):
    """Returns the text of target ids, without the end token and padding."""
    return target_symbols(decoding, tokenizer).decode([int(i) for i in ids if i >= 0 and i != decoding["end"]])
