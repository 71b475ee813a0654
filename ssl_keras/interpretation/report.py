"""Reports: every picture and check of this package for one encoder and some examples, as arrays.

Shapes: `B` examples, `P…` places of a map, `U` units.
"""

import dataclasses
import functools

import numpy as np
from scipy import stats
from tqdm import tqdm

from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.features import evenly_spaced, extract_features
from ssl_keras.interpretation import dense, faithfulness, gradients, integrated, layers, methods, outputs, questions
from ssl_keras.interpretation import units as parts
from ssl_keras.networks.transformer import ROTARY

CHECKED = 4  # examples of the sanity check, which computes every map again for each stage
TRAIN, HELD_OUT = 1_000, 500  # examples that probes of layers learn from, and are measured on
GALLERY = 1_000  # examples among which those that excite a feature are searched
RANDOM = "random order"
FEATURES, EXCITING = 4, 6  # features that are shown, and examples of each


@dataclasses.dataclass
class Report:
    """The findings about one encoder.

    Attributes:
        loaded, question: the encoder with its data, and what was asked.
        explained: the `Explained`.
        maps: {method: (B, *positions)} attributions.
        units, texts: (B, *positions) int, and the words of each example for an encoder of tokens, else None.
        errors: (B,) completeness error of integrated gradients.
        areas: {method: {"deletion" or "insertion": (B,)}}; `RANDOM` is one of them.
        gains: {method: {"deletion" or "insertion": (mean, low, high)}}: by how much it is better than random order.
        sanity: {method: {layer: correlation}}.
        colors, alike: principal colors (B, P…, 3), and similarities (B, P…) with `place` of the first example; None
            for a network without places.
        place: that place, a tuple.
        accuracies: {layer: accuracy of a linear probe}, empty without labels.
        exciting: {feature: rows of the split that excite it most}.
    """

    loaded: questions.Loaded
    question: questions.Question
    explained: gradients.Explained
    maps: dict
    units: np.ndarray
    texts: list | None
    errors: np.ndarray
    areas: dict
    gains: dict
    sanity: dict
    colors: np.ndarray | None
    alike: np.ndarray | None
    place: tuple
    accuracies: dict
    exciting: dict

    def failures(self, method):
        """Returns in which checks a method fails on this encoder, a list of texts."""
        found = []
        if method == methods.INTEGRATED and (self.errors > integrated.TOLERANCE).any():
            missed = int((self.errors > integrated.TOLERANCE).sum())
            found.append(f"{missed} of {len(self.errors)} maps do not sum to the difference of scores")
        for curve, (_, low, _) in self.gains[method].items():
            if low <= 0:
                found.append(f"{curve} is not better than in random order")
        if last_correlation(self.sanity[method]) > faithfulness.LARGEST_CORRELATION:
            found.append("its maps hardly change when all weights are randomized")
        return found


def last_correlation(stages):
    """Returns the correlation after all weights were randomized."""
    return list(stages.values())[-1]


def explain(loaded, question, split):
    """Computes the `Report` of an encoder, with progress on long work.

    Args:
        loaded, question: of `questions.open_encoder` and `questions.ask`.
        split: the split of the question's examples, in which those that excite features are searched.
    """
    explained, inputs = explained_of(loaded, question), question.inputs
    tokenizer = loaded.tokenizer if explained.at == "vectors" else None
    units_of = methods.units_of(explained, tokenizer)
    units, found = units_of(inputs), methods.available(explained, units_of)
    with tqdm(desc=loaded.card["name"], unit=" parts", disable=None, leave=False) as bar:
        maps, areas = _attribute(found, explained, question, units, bar)
        sanity = _check(found, explained, question, bar)
        difference = gradients.score_difference(explained, inputs, question.index)
        colors, alike, place = _dense(loaded.encoder, inputs, maps[methods.INTEGRATED])
        _done(bar, "dense features")
        accuracies = _probes(loaded)
        _done(bar, "probes of layers")
        exciting = _exciting(loaded, split)
    return Report(
        loaded=loaded,
        question=question,
        explained=explained,
        maps=maps,
        units=units,
        texts=parts.texts(inputs, units, tokenizer) if tokenizer else None,
        errors=gradients.completeness_error(maps[methods.INTEGRATED], *difference),
        areas=areas,
        gains={name: gains(areas[name], areas[RANDOM]) for name in maps},
        sanity=sanity,
        colors=colors,
        alike=alike,
        place=place,
        accuracies=accuracies,
        exciting=exciting,
    )


def _done(bar, what):
    bar.set_postfix_str(what)
    bar.update()


def _attribute(found, explained, question, units, bar):
    """Returns ({method: maps}, {method or RANDOM: areas under its curves})."""
    transform = functools.partial(outputs.probabilities, question.output)
    arguments = explained, question.inputs, question.index
    maps, areas = {}, {}
    for name, method in found.items():
        maps[name] = method.attribute(*arguments[1:])
        areas[name] = faithfulness.areas(*arguments, parts.totals(maps[name], units), units, transform)
        _done(bar, name)
    areas[RANDOM] = faithfulness.random_areas(*arguments, units, transform)
    return maps, areas


def _check(found, explained, question, bar):
    """Returns {method: correlations of the sanity check} on a few examples."""
    few, correlations = slice(0, CHECKED), {}
    for name, method in found.items():
        attribute = functools.partial(method.quick, question.inputs[few], question.index[few])
        correlations[name] = faithfulness.sanity_check(explained.network, attribute)
        _done(bar, f"{name}, randomized")
    return correlations


def explained_of(loaded, question):
    """Returns the `Explained` of a question; in its baseline, tokens are [MASK] (or unknown), and special ones stay.

    Without such a token, Llama's baseline is the end of a text, since a network that normalizes vectors takes none as
    absent.
    """
    tokenizer = loaded.tokenizer
    if tokenizer is None or "int" not in question.output.graph.input.dtype:
        return gradients.Explained(question.output.graph)
    absent = [tokenizer.mask, tokenizer.unknown]
    if cards.keyword(loaded.card, "architecture") in ROTARY:
        absent.append(tokenizer.end)
    missing = next((each for each in absent if each >= 0), None)
    kept = [each for each in tokenizer.special.values() if each != missing]
    return gradients.Explained(question.output.graph, missing=missing, kept=kept)


def gains(areas, random):
    """Returns {curve: (mean, low, high)}: by how much areas (B,) are better than random ones, with 95% t-intervals."""
    found = {}
    for curve, sign in (("deletion", -1), ("insertion", 1)):
        better, half = sign * (areas[curve] - random[curve]), np.inf
        if len(better) > 1:
            half = stats.t.ppf(0.975, len(better) - 1) * better.std(ddof=1) / len(better) ** 0.5
        found[curve] = float(better.mean()), float(better.mean() - half), float(better.mean() + half)
    return found


def _dense(encoder, inputs, attributions):
    """Returns (colors, similarities, place), for the place of the first example that attributions point to."""
    try:
        maps, valid = dense.place_features(encoder, inputs)
    except ValueError:  # has no places
        return None, None, ()
    shape = maps.shape[1:-1]
    peak = np.unravel_index(np.argmax(attributions[0]), attributions[0].shape)[: len(shape)]
    place = tuple(int(p * side // whole) for p, side, whole in zip(peak, shape, attributions.shape[1:]))
    alike = np.where(valid, dense.similarities(maps, 0, place), 0)
    return dense.principal_colors(maps, valid), alike, place


def _probes(loaded):
    """Returns the accuracies of linear probes on layers, or {} if there are no labels or only one class."""
    train, validation, test = loaded.splits
    if "label" not in train.arrays or len(np.unique(train.column("label"))) < 2:
        return {}
    some = [
        part.take(evenly_spaced(len(part), n)) for part, n in ((train, TRAIN), (validation, HELD_OUT), (test, HELD_OUT))
    ]
    return layers.probe_layers(loaded.encoder, *some)


def _exciting(loaded, split):
    """Returns {feature: rows of the examples that excite it most}, for the features that vary most."""
    source = getattr(loaded.splits, split)
    rows = evenly_spaced(len(source), GALLERY)
    features = extract_features(loaded.embed, source.take(rows))
    return {
        int(feature): rows[layers.most_exciting(features, feature, EXCITING)]
        for feature in layers.varied_features(features, FEATURES)
    }
