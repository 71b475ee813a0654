"""N-gram models that predict a token `horizon` places ahead: the baseline for recurrent_lm and language models.

P_n(w | c) = (count(c, w) + types(c) · P_{n−1}(w | c′)) / (count(c) + types(c)), where c is the last
n − 1 tokens, c′ is c without its first token, and types(c) is the number of different tokens that follow c (Witten &
Bell 1991, as in Chen & Goodman 1999, section 2.6). P_0 is uniform.
"""

import numpy as np


def cross_entropies(train, test, vocabulary, order, horizon=1):
    """Returns the mean −log P of the tokens of `test`, in nats, for every order up to `order`.

    Args:
        train, test: (N,), (M,) integers in 0..vocabulary − 1.
        vocabulary: V; V^order must be below 2⁶³.
        order: the largest n; the context is n − 1 tokens.
        horizon: the number of places from the last token of the context to the predicted one.

    Returns:
        A list for the orders 0 (uniform), 1 (unigrams), …, `order`. All orders predict the same tokens: those of `test`
        from the first one that order `order` can predict.

    Raises:
        ValueError: the order is too large, or a text is too short.
    """
    if vocabulary**order >= 2**63:
        raise ValueError(f"Expected vocabulary^order below 2⁶³. Received: {vocabulary}^{order}. Use a lower order.")
    skipped = order - 2 + horizon  # tokens before the first that all orders can predict
    if min(len(train), len(test)) <= skipped + 1:
        raise ValueError(
            f"Expected more than {skipped + 1} tokens in each text. Received: {len(train)} and {len(test)}"
        )
    train, test = np.asarray(train, np.int64), np.asarray(test, np.int64)
    start = max(skipped, 0)
    targets = test[start:]
    probability = np.full(len(targets), 1 / vocabulary)
    losses = [-np.mean(np.log(probability))]
    for n in range(1, order + 1):
        known, wanted = (_contexts(tokens, n - 1, horizon, vocabulary, start) for tokens in (train, test))
        pairs, pair_counts = np.unique(known * vocabulary + train[start:], return_counts=True)
        contexts, first, types = np.unique(pairs // vocabulary, return_index=True, return_counts=True)
        totals = np.add.reduceat(pair_counts, first)
        count = _look_up(pairs, pair_counts, wanted * vocabulary + targets)
        total, kinds = (_look_up(contexts, values, wanted) for values in (totals, types))
        seen = total > 0
        mixed = (count + kinds * probability) / np.maximum(total + kinds, 1)
        probability = np.where(seen, mixed, probability)
        losses.append(-np.mean(np.log(probability)))
    return [float(loss) for loss in losses]


def _contexts(tokens, length, horizon, vocabulary, start):
    """Returns the `length` tokens that end `horizon` places before each token from `start` on, as one number."""
    number = np.zeros(len(tokens) - start, np.int64)
    for back in range(length):
        shift = horizon + length - 1 - back  # oldest first
        number = number * vocabulary + tokens[start - shift : len(tokens) - shift]
    return number


def _look_up(keys, values, wanted):
    """Returns the value of each wanted key, or 0 for an absent key."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
