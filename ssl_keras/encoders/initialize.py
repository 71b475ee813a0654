"""Initialization of a network with the weights of a saved encoder (warm start)."""

import logging

import numpy as np

from ssl_keras.encoders.loading import load_with_head, named_variables

log = logging.getLogger(__name__)


def initialize(encoder, name, head=None, fresh=()):
    """Copies the weights of a saved encoder that match by name and shape.

    A head is copied only if all its shapes match those of the saved head. Weights named in `fresh` are neither
    compared nor copied.

    Returns:
        The names of weights without a match: (in the new encoder, in the saved one).

    Raises:
        ValueError: no weight matches.
    """
    saved, saved_head, _ = load_with_head(name)
    saved = named_variables(saved)
    new = named_variables(encoder)
    matched = [key for key in new if key in saved and saved[key].shape == new[key].shape]
    if not matched:
        raise ValueError(
            f"No weight of the encoder {name} fits the new encoder. Expected weights such as "
            f"{ {k: tuple(v.shape) for k, v in list(new.items())[:3]} }. "
            f"Received: { {k: tuple(v.shape) for k, v in list(saved.items())[:3]} }"
        )
    for key in matched:
        new[key].assign(np.asarray(saved[key]))
    unmatched = sorted(new.keys() - set(matched)), sorted(saved.keys() - set(matched))
    log.info("Initialized %d of %d encoder weights from %s", len(matched), len(new), name)
    if head is not None and saved_head is not None:
        theirs, ours = (
            {key: v for key, v in named_variables(network).items() if key not in fresh}
            for network in (saved_head, head)
        )
        if {key: v.shape for key, v in theirs.items()} == {key: v.shape for key, v in ours.items()}:
            for key, variable in ours.items():
                variable.assign(np.asarray(theirs[key]))
            log.info("Initialized %s from %s%s", head.name, name, f", except {', '.join(fresh)}" if fresh else "")
        else:
            log.warning("%s is initialized at random, because that of %s has other shapes.", head.name, name)
    if any(unmatched):
        log.warning("Not initialized: %s. Not used from %s: %s", unmatched[0], name, unmatched[1])
    return unmatched
