"""What the settings of several objectives are checked for, and what they take over from a saved encoder."""

import logging

from ssl_keras import encoders
from ssl_keras.encoders import card as cards

log = logging.getLogger(__name__)


def check_ranges(settings, *ranges):
    """Raises ValueError where a number is out of its range; `ranges` are (name, least, most)."""
    for name, least, most in ranges:
        if not least <= getattr(settings, name) <= most:
            raise ValueError(f"{name} must be {least} to {most}. Received: {getattr(settings, name)}")


def start_from(init, settings, kind, names, refusal=""):
    """What a run that starts from the saved encoder `init` takes over: ({name: value}, the saved settings).

    Args:
        init: a saved encoder's name or path.
        settings: those of the run, as asked for.
        kind: the class that the saved settings must be of.
        names: of the settings that are taken over; a dict where they have other names in the saved ones.
        refusal: what is said of `init` where they are of another class; without, that is ({}, None).

    Raises:
        ValueError: saved settings of another class; `settings` that ask for another network.
    """
    card = cards.read(encoders.find(init))
    saved = card["settings"] and cards.settings(card)
    if not isinstance(saved, kind):
        if refusal:
            raise ValueError(f"{init} {refusal}")
        return {}, None
    saved = saved.filled() if hasattr(saved, "filled") else saved
    kept = network_settings_from(settings, saved, names, init)
    log.info("The network is that of %s: %s", init, kept)
    return kept, saved


def network_settings_from(settings, saved, names, init):
    """{name: value} of the network that a run takes over from the encoder `init`, whose settings are `saved`.

    Raises:
        ValueError: settings that ask for another network; those at their defaults ask for none.
    """
    theirs = names if isinstance(names, dict) else {name: name for name in names}
    kept = {name: getattr(saved, theirs[name]) for name in theirs}
    other = [name for name in names if getattr(settings, name) not in (getattr(type(settings), name), kept[name])]
    if other:
        raise ValueError(
            f"With init the network is that of {init}. Leave out {', '.join(other)}, or take "
            + ", ".join(f"{name}={kept[name]}" for name in other) + "."
        )
    return kept
