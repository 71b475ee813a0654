"""Adapts data to a saved encoder: images of its shape, sound at its rate, text as its tokens."""



from ssl_keras.data import audio, inputs, tokens
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.loading import load_tokenizer

LONGEST_TEXT = 512  # tokens, for an encoder whose card does not say its context


def adapt(folder, card, splits):
    """The splits as an encoder takes them: images of its shape, sound at its rate, or text as its tokens.

    Raises:
        ValueError: they do not fit.
    """
    kind = inputs.column(card["input"])
    if kind == "image":
        cards.check_images(card, splits.train)
        return splits
    if kind == "waveform":
        splits.train.column_spec("waveform")
        rate = cards.settings(card).rate if card["settings"] else splits.train.rate
        if not rate:
            raise ValueError(f"{card['name']} does not say at what rate it hears. Expected one in its settings.")
        return audio.prepared(splits, rate)
    if "text" not in splits.train.arrays:
        raise ValueError(
            f"{card['name']} takes text. Received: {', '.join(splits.train.arrays)} from {splits.train.name}. "
            "Choose other --data."
        )
    tokenizer = load_tokenizer(folder)
    context = card["settings"]["context"] if card["settings"] else LONGEST_TEXT
    return tokens.padded(splits, tokenizer, context)
