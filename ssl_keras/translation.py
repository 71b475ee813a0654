"""What a saved encoder with its decoder is for: targets of texts, and how many of them are right."""

import numpy as np

from ssl_keras import card as cards
from ssl_keras import decoding, encoders
from ssl_keras.data import pairs


def load(name, beams=5):
    """A function from texts to texts, `translate(texts, strict=True)`, of a saved encoder with a decoder.

    Raises:
        ValueError: unknown name; an encoder without a decoder.
    """
    network, output, card = encoders.load_with_head(name)
    settings = cards.settings(card)
    if card["objective"] != "seq2seq" or output is None:
        raise ValueError(f"{card['name']} has no decoder. Expected an encoder of seq2seq, not of its task next.")
    tokenizer = encoders.load_tokenizer(name)
    decoder = decoding.Decoder(network, output, settings.end, settings.context, beams)

    def translate(texts, strict=True):
        """Raises ValueError for an empty text and, if `strict`, one with unknown characters or too long a one;
        else these are read as far as they can be, as in training."""
        encoded = tokenizer.encode(texts)
        for text, ids in zip(texts, encoded):
            if not ids:
                raise ValueError(f"Expected a text. Received: {text!r}")
            if strict and tokenizer.unknown in ids:
                known = [token for token in tokenizer.tokens() if len(token) == 1]
                raise ValueError(f"The encoder's tokenizer does not know all of {text!r}. It knows: {''.join(known)}")
            if strict and len(ids) > settings.context:
                raise ValueError(
                    f"{text[:60]!r} has {len(ids)} tokens, more than the context of {settings.context}. Shorten it."
                )
        encoded = [ids[: settings.context] for ids in encoded]
        rows = np.full((len(texts), max(map(len, encoded))), -1, np.int32)
        for row, ids in zip(rows, encoded):
            row[: len(ids)] = ids
        return [text_of(settings, tokenizer, ids) for ids in decoding.write(decoder, rows)]

    return translate


def score(translate, source):
    """{"texts", "symbol error rate", "sequence error rate"} of a source of pairs, each text once.

    Symbols are what white space separates. Of several right targets the nearest counts.
    """
    right = pairs.references(source)
    made = translate(list(right), strict=False)
    rates = decoding.error_rates(
        [text.split() for text in made], [[target.split() for target in targets] for targets in right.values()]
    )
    return {"texts": len(right), **dict(zip(("symbol error rate", "sequence error rate"), rates))}


def text_of(settings, tokenizer, ids):
    """The text of target ids, without the end and padding."""
    ids = [int(i) for i in ids if i >= 0 and i != settings.end]
    if settings.symbols:
        symbols = settings.alphabet.split()
        return " ".join(symbols[i - 1] for i in ids)
    return tokenizer.decode(ids)
