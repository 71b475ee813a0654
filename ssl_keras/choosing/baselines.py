"""The rows without a search: features without a network, untrained networks, training from scratch, saved encoders."""

import logging
import time

import keras

from ssl_keras import encoders
from ssl_keras.choosing.runs import quiet
from ssl_keras.data import inputs
from ssl_keras.downstream.columns import few_column
from ssl_keras.downstream.grids import GRIDS, Grid, kind_of
from ssl_keras.downstream.trained_rows import Trainer
from ssl_keras.encoders import card as cards
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.engine.process import seeded

SCRATCH_STEPS = 100
SCRATCH_FRACTION = 0.06  # of the budget, after which no further label seed is trained from scratch
log = logging.getLogger(__name__)


def measure_all(state, runs, names, budget):
    """Measures all baselines that the state does not have yet, and saves it after each.

    Args:
        state: `State` with the entry "baselines".
        runs: `Runs`, with pilots of the arms.
        names: names or paths of saved encoders.
        budget: seconds of the whole search.

    Returns:
        {row: its measurements, with "seconds", "kind" (features, random, scratch or encoder), "from" (the encoder that
        the row's command needs, or "") and, for a network without training, "arms" (those that have this network)}.
    """
    yardstick = runs.yardstick

    def add(row, measure, **about):
        if row not in state["baselines"]:
            began = time.monotonic()
            log.info("measuring %s", row)
            with quiet():
                found = measure()
            state["baselines"][row] = {**found, "seconds": time.monotonic() - began, **about}
            state.save()

    title = {"text": "TF-IDF", "waveform": "log-mel"}
    row = next((name for column, name in title.items() if column in runs.splits.train.arrays), "pixels")
    add(row, lambda: yardstick.of_baseline()[1], kind="features", **{"from": ""})
    for name in names:
        folder = encoders.find(name)
        add(
            cards.read(folder)["name"],
            lambda folder=folder: yardstick.of_encoder(folder),
            kind="encoder",
            **{"from": name},
        )
    groups = architectures(runs, [name for name in runs.arms if name in state["speeds"]])
    for first, arms in groups.items():
        suffix = "" if len(groups) == 1 else f", like {first}"
        folder = runs.encoder(first, pilot=True)
        about = {"from": "", "arms": arms}
        add(
            f"random init{suffix}",
            lambda folder=folder: untrained(yardstick, folder, runs.seed),
            kind="random",
            **about,
        )
    if yardstick.per_class and groups:
        first = max(groups, key=lambda name: len(groups[name]))
        about = {"from": "", "arms": groups[first]}
        add(
            "scratch" if len(groups) == 1 else f"scratch, like {first}",
            lambda: scratch(yardstick, runs.encoder(first, pilot=True), runs.seed, SCRATCH_FRACTION * budget),
            kind="scratch",
            **about,
        )
    return state["baselines"]


def architectures(runs, names):
    """Returns {first arm: arms with the same network}."""
    found = {}
    for name in names:
        card = cards.read(runs.encoder(name, pilot=True))
        found.setdefault(repr((card["network"], card["tokenizer"])), []).append(name)
    return {each[0]: each for each in found.values()}


def _fresh(folder, seed):
    with seeded(seed), dtype_policy("float32"):
        return cards.network(cards.read(folder)).build()


def untrained(yardstick, folder, seed):
    """Measures the network of a saved encoder with random weights, see `Yardstick`."""
    return yardstick.of_encoder(folder, _fresh(folder, seed))


def scratch(yardstick, folder, seed, seconds):
    """Trains the network of an encoder from random weights on the few labels, with one setting.

    Nothing is chosen: the learning rate is the middle one of the kind's grid. At least one label seed is trained, and
    further ones until `seconds` have passed.

    Returns:
        {"probe": [accuracy of the trained classifier, for each label seed that was trained]}.
    """
    card, began = cards.read(folder), time.monotonic()
    adapted = encoders.adapt(folder, card, yardstick.splits)
    network = _fresh(folder, seed)
    rates = GRIDS[kind_of(network, inputs.column(card["input"]))].rates
    grid = Grid((rates[len(rates) // 2],), (SCRATCH_STEPS,), (1,), 64, 64)
    keras.utils.set_random_seed(seed)
    trainer, scores = Trainer(network, card, adapted, grid), []
    for label_seed, learned, predicted in zip(yardstick.seeds, yardstick.learned, yardstick.predicted):
        if scores and time.monotonic() - began > seconds:
            break
        held_out = adapted.validation.take(predicted)
        trainer.splits = adapted._replace(train=adapted.train.take(learned), validation=held_out, test=held_out)
        columns, _ = trainer.row(yardstick.per_class, (label_seed,))
        scores += columns[few_column(yardstick.per_class)]
    return {"probe": scores}
