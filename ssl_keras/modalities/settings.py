"""A run's tokenizer, and the settings that a run takes from the saved encoder given to `--init`."""

import logging

from ssl_keras import encoders
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.encoders import card as cards
from ssl_keras.networks import Network

log = logging.getLogger(__name__)


def tokenizer_of(settings, init, corpus):
    """Loads the tokenizer of the saved encoder `init` or, without one, obtains the tokenizer that the settings name.

    Args:
        settings: settings with `tokenizer` and `vocabulary`.
        init: name or path of a saved encoder; None or "" for none.
        corpus: function that returns the training texts of the tokenizer, see `tokenizer.obtain`.
    """
    return encoders.load_tokenizer(init) if init else tokenizers.obtain(settings.tokenizer, settings.vocabulary, corpus)


def start_from(init, settings, builders, names, refusal="", key="network", **wanted):
    """Returns the settings that a run takes from the saved encoder `init`: ({setting: value}, the encoder's card).

    Args:
        init: name or path of a saved encoder.
        settings: the run's settings, as the user gave them.
        builders: names in `networks.BUILDERS` that the saved network may have.
        names: {setting: keyword of the saved network that gives its value}; "builder" is the builder's name.
        refusal: rest of the error's sentence about `init`, if its network does not fit; "" returns ({}, None) instead.
        key: the card's entry to read, "network" or "head".
        **wanted: required values of the saved network's keywords.

    Raises:
        ValueError: the saved network does not fit; a setting that is not at its default contradicts it.
    """
    card = cards.read(encoders.find(init))
    saved = Network.from_json(card[key]).to_json() if card[key] else {"builder": ""}  # with the keywords' defaults
    if saved["builder"] not in builders or any(saved[name] != value for name, value in wanted.items()):
        if refusal:
            raise ValueError(f"{init} {refusal}")
        return {}, None
    kept = {name: saved[keyword] for name, keyword in names.items()}
    other = [name for name in names if getattr(settings, name) not in (getattr(type(settings), name), kept[name])]
    if other:
        raise ValueError(
            f"The network is taken from {init}. Leave out {', '.join(other)}, or use "
            + ", ".join(f"{name}={kept[name]}" for name in other)
            + ". Received: "
            + ", ".join(f"{name}={getattr(settings, name)}" for name in other)
        )
    log.info("Network taken from %s: %s", init, kept)
    return kept, card
