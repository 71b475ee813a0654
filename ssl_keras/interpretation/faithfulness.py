"""Faithfulness: whether an attribution says what the network responds to.

- Deletion and insertion curves (Petsiuk et al. 2018, "RISE"): the score while the units of an input are removed, or
  put back into the baseline, in the order of their attributions. A faithful order has a smaller area under the
  deletion curve, and a larger one under the insertion curve, than a random order.
- The sanity check (Adebayo et al. 2018): maps must change when the weights are randomized, from the last layer down.

`gradients.completeness_error` is the third check.

Shapes: `B` batch, `U` units, `S` steps of a curve.
"""

import numpy as np
from scipy.stats import rankdata

from ssl_keras.interpretation import units as parts

STEPS, ORDERS = 16, 4  # steps of a curve; random orders
STAGES = 6  # of the randomization, at most
LARGEST_CORRELATION = 0.5  # of maps before and after all weights were randomized
CURVES = ("deletion", "insertion")


def curves(explained, inputs, index, values, units, transform=None, steps=STEPS):
    """Returns {"deletion", "insertion"}: the chosen score after each step, float32 (B, steps + 1) each.

    At step s of an example with n units, the ⌈s·n/steps⌉ units with the largest values are absent (deletion), or are
    the only ones that are present (insertion).

    Args:
        explained: an `Explained`.
        inputs: (B, …) as the network takes them.
        index: (B,) the score of each example.
        values: (B, U) the order; those of units that an example does not have are ignored.
        units: (B, *positions) int, see `interpretation/units.py`.
        transform: function of scores (B, K), such as `outputs.probabilities`, or None.
        steps: S.
    """
    inputs, index, rows = np.asarray(inputs), np.asarray(index), np.arange(len(inputs))
    x, baseline = explained.represent(inputs), explained.baseline(inputs)
    count = parts.counts(units)
    own = np.arange(values.shape[1]) < count[:, None]
    ranks = np.argsort(np.argsort(np.where(own, -values, np.inf), axis=1, kind="stable"), axis=1)  # 0 is the largest
    picked = ranks[rows.reshape(-1, *[1] * (units.ndim - 1)), np.maximum(units, 0)]
    found = {name: [] for name in CURVES}
    for step in range(steps + 1):
        taken = -(-step * count // steps).reshape(-1, *[1] * (units.ndim - 1))
        first = ((picked < taken) & (units >= 0))[..., None]
        for name, changed in (("deletion", np.where(first, baseline, x)), ("insertion", np.where(first, x, baseline))):
            scores = explained.scores(inputs, changed)
            found[name].append((transform(scores) if transform else scores)[rows, index])
    return {name: np.stack(each, 1) for name, each in found.items()}


def areas(explained, inputs, index, values, units, transform=None, steps=STEPS):
    """Returns {"deletion", "insertion"}: the area under each curve of `curves`, (B,), for fractions from 0 to 1."""
    made = curves(explained, inputs, index, values, units, transform, steps)
    return {name: np.trapezoid(curve, axis=1) / steps for name, curve in made.items()}


def random_areas(explained, inputs, index, units, transform=None, steps=STEPS, orders=ORDERS, seed=0):
    """Returns `areas` of random orders, the mean over `orders` of them."""
    random = np.random.Generator(np.random.Philox(seed))
    shape = len(units), int(units.max(initial=-1)) + 1
    drawn = [areas(explained, inputs, index, random.random(shape), units, transform, steps) for _ in range(orders)]
    return {name: np.mean([each[name] for each in drawn], 0) for name in CURVES}


def sanity_check(network, attribute, reference=None, stages=STAGES, seed=0):
    """Randomizes a network from the last layer down, and compares its maps with those before.

    The entries of each variable are permuted, which keeps their distribution, instead of drawn again as in the paper.
    The weights are restored at the end, also after an error.

    Args:
        network: functional graph with the weights that `attribute` uses.
        attribute: function without arguments to maps (B, …).
        reference: the maps before, if they are known.
        stages: largest number of stages; layers are joined evenly.
        seed: seed of the permutations.

    Returns:
        {last layer that was randomized: mean over examples of Spearman's correlation with the maps before}.
    """
    reference = attribute() if reference is None else reference
    layers = [layer for layer in network.layers if layer.variables][::-1]
    ends = {int(each) for each in np.linspace(0, len(layers), min(stages, len(layers)) + 1)[1:]}
    random = np.random.Generator(np.random.Philox(seed))
    kept = [(variable, variable.numpy()) for variable in network.variables]
    found = {}
    try:
        for number, layer in enumerate(layers, 1):
            for variable in layer.variables:
                if variable.dtype.startswith("float"):
                    variable.assign(random.permutation(variable.numpy().ravel()).reshape(variable.shape))
            if number in ends:
                found[layer.name] = float(np.mean(correlations(reference, attribute())))
    finally:
        for variable, value in kept:
            variable.assign(value)
    return found


def correlations(first, second):
    """Returns Spearman's rank correlation of two sets of maps (B, …), per example, (B,).

    Places where both maps are 0, such as padding and what equals the baseline, are left out. A constant map has the
    correlation 0.
    """
    made = []
    for a, b in zip(np.asarray(first).reshape(len(first), -1), np.asarray(second).reshape(len(second), -1)):
        used = (a != 0) | (b != 0)
        a, b = rankdata(a[used]), rankdata(b[used])
        constant = len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0
        made.append(0.0 if constant else np.corrcoef(a, b)[0, 1])
    return np.array(made)
