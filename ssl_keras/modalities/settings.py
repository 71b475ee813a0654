"""A run's tokenizer, and what a run that starts from a saved encoder takes over from it."""

import logging

from ssl_keras import encoders
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.encoders import card as cards

log = logging.getLogger(__name__)


def tokenizer_of(settings, init, corpus):
    """Loads the tokenizer of the saved encoder `init` or, without, obtains the one that settings ask for.

    Args:
        settings: with `tokenizer` and `vocabulary`.
        init: a saved encoder's name or path; or None or "".
        corpus: function to what a tokenizer is trained on, see `tokenizer.obtain`.
    """
    return encoders.load_tokenizer(init) if init else tokenizers.obtain(settings.tokenizer, settings.vocabulary, corpus)


def start_from(init, settings, builders, names, refusal="", key="network", **wanted):
    """What a run that starts from the saved encoder `init` takes over: ({setting: value}, its card).

    Args:
        init: a saved encoder's name or path.
        settings: those of the run, as asked for.
        builders: the builders of `networks.BUILDERS` that the saved network may be of.
        names: {setting: the keyword of the saved network that it is taken from}; "builder" is the builder's name.
        refusal: what is said of `init` where its network is another one; without, that is ({}, None).
        key: "network", or "head" for what it was saved with.
        **wanted: keywords that the saved network must have these values of.

    Raises:
        ValueError: another network; `settings` that ask for another one, where those at their defaults ask for none.
    """
    card = cards.read(encoders.find(init))
    saved = card[key] or {"builder": ""}
    if saved["builder"] not in builders or any(saved[name] != value for name, value in wanted.items()):
        if refusal:
            raise ValueError(f"{init} {refusal}")
        return {}, None
    kept = {name: saved[keyword] for name, keyword in names.items()}
    other = [name for name in names if getattr(settings, name) not in (getattr(type(settings), name), kept[name])]
    if other:
        raise ValueError(
            f"With init the network is that of {init}. Leave out {', '.join(other)}, or take "
            + ", ".join(f"{name}={kept[name]}" for name in other)
            + "."
        )
    log.info("The network is that of %s: %s", init, kept)
    return kept, card
