"""Initializes a network from a saved encoder."""

import logging

import numpy as np

from ssl_keras.encoders.loading import load_with_head, named_variables

log = logging.getLogger(__name__)


def initialize(encoder, name, head=None, fresh=()):
    """Copies the weights of a saved encoder that match by name and shape; lists the others.

    A head is taken over whole, but for its weights named in `fresh`, where the saved one has its shapes; else
    it stays as it is.

    Returns:
        The names left as they were: (in the new encoder, in the saved one).

    Raises:
        ValueError: nothing matches.
    """
    saved, saved_head, _ = load_with_head(name)
    saved = named_variables(saved)
    new = named_variables(encoder)
    matched = [key for key in new if key in saved and saved[key].shape == new[key].shape]
    if not matched:
        raise ValueError(
            f"Nothing in the encoder {name} fits this one. Expected weights such as "
            f"{ {k: tuple(v.shape) for k, v in list(new.items())[:3]} }. "
            f"Received: { {k: tuple(v.shape) for k, v in list(saved.items())[:3]} }"
        )
    for key in matched:
        new[key].assign(np.asarray(saved[key]))
    left = sorted(new.keys() - set(matched)), sorted(saved.keys() - set(matched))
    log.info("Initialized %d of %d weights from %s", len(matched), len(new), name)
    if head is not None and saved_head is not None:
        theirs, ours = (
            {key: v for key, v in named_variables(network).items() if key not in fresh}
            for network in (saved_head, head)
        )
        if {key: v.shape for key, v in theirs.items()} == {key: v.shape for key, v in ours.items()}:
            for key, variable in ours.items():
                variable.assign(np.asarray(theirs[key]))
            log.info("and its %s%s", head.name, f", but for {', '.join(fresh)}" if fresh else "")
        else:
            log.warning("Its %s does not fit this one, which begins at random.", head.name)
    if any(left):
        log.warning("Not initialized: %s; not used from %s: %s", left[0], name, left[1])
    return left
