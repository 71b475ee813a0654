"""Arms of the race: the objectives and settings that are tried for each kind of data, and why others are not.

`ARMS` is the whole table; where the time is short, the last ones of a kind are not tried. An arm has the objective's
default settings, except for those that it names, and a constant learning rate, so that its run can be resumed with
more steps.
"""

import dataclasses
import logging
import re
import typing

from ssl_keras import objectives

MAX_ARMS = 10
SYMBOLS = {"flip": False, "color": 0.0, "gray": 0.0}  # a mirrored digit is another digit, or none
NOT_TRIED = {
    "classifier": "learns labels; the row scratch measures that",
    "freematch": "learns labels and unlabeled images together: ssl-keras finetune --unlabeled",
    "distillation": "learns the features of a teacher, which you must name: --teacher",
    "dcgan": "trains a generator, to make images rather than features",
}
log = logging.getLogger(__name__)


class Arm(typing.NamedTuple):
    """An objective with some settings that differ from its defaults."""

    name: str
    objective: str
    settings: dict[str, typing.Any] = {}


ARMS = {
    "image": (
        Arm("contrastive", "contrastive"),
        Arm("autoencoder", "autoencoder"),
        Arm("rotation", "rotation"),
        Arm("jigsaw", "jigsaw"),
        Arm("masked_autoencoder", "masked_autoencoder"),
        Arm("contrastive-symbols", "contrastive", SYMBOLS),
        Arm("contrastive-vicreg", "contrastive", {"loss": "vicreg"}),
        Arm("contrastive-lejepa", "contrastive", {"loss": "lejepa"}),
        Arm("autoencoder-denoising", "autoencoder", {"masking_noise": 0.3}),
        Arm("masked_autoencoder-symbols", "masked_autoencoder", {"flip": False}),
    ),
    "text": (
        Arm("causal_lm", "causal_lm"),
        Arm("masked_lm", "masked_lm"),
        Arm("sentence", "sentence"),
        Arm("recurrent_lm", "recurrent_lm"),
        Arm("seq2seq-denoise", "seq2seq", {"task": "denoise"}),
        Arm("masked_lm-words", "masked_lm", {"whole_words": True}),
    ),
    "waveform": (
        Arm("wav2vec2", "wav2vec2"),
        Arm("wav2vec2-mel", "wav2vec2", {"frontend": "mel"}),
        Arm("wav2vec2-voices", "wav2vec2", {"frontend": "mel", "cross_clip_negatives": 4}),
    ),
}
KINDS = {"image": "images", "text": "text", "waveform": "audio"}
NEEDS = {"image_text": ("captions", "caption"), "ctc": ("transcripts", "target")}  # objectives: what else they learn


def kind_of(splits):
    """Returns the kind of data: image, text or waveform.

    Raises:
        ValueError: the data are of none of these kinds.
    """
    arrays = splits.train.arrays
    kind = next((name for name in KINDS if name in arrays), None)
    if kind is None:
        raise ValueError(
            f"{splits.train.name}: no objective takes these data. Expected images, text or audio. Received: "
            f"{', '.join(arrays)}. Choose other --data."
        )
    return kind


def applicable(splits, arms=None):
    """Lists the arms that take the data.

    Args:
        splits: `Splits`.
        arms: the arms to try; None takes those of `ARMS`.

    Returns:
        ([`Arm`], {name of an arm or objective: why it is not tried, a line}).

    Raises:
        ValueError: no arm takes the data.
    """
    kind, taken, reasons = kind_of(splits), [], {}
    for arm in ARMS[kind] if arms is None else arms:
        reason = _reason(arm, splits)
        if reason:
            reasons[arm.name] = reason
        else:
            taken.append(arm)
    if not taken:
        why = " ".join(f"{name}: {reason}." for name, reason in reasons.items())
        raise ValueError(f"{splits.train.name}: no objective takes these data. {why} Choose other --data.")
    if len(taken) > MAX_ARMS:
        raise ValueError(f"Expected at most {MAX_ARMS} arms. Received: {len(taken)}. Leave some out.")
    tried = {arm.objective for arm in (*taken, *(arms or ARMS[kind]))}
    reasons |= {name: _why_not(name, kind, splits) for name in objectives.names() if name not in tried}
    return taken, reasons


def _reason(arm, splits):
    """Returns why an arm does not take the data, in one line; empty if it does."""
    module = objectives.module(arm.objective)
    try:
        module.prepare(module.Settings(**arm.settings), splits)
    except ValueError as error:
        return first_sentence(error)
    return ""


def first_sentence(error):
    """Returns the first sentence of an error's message, without its period."""
    return re.split(r"\.(?:\s|$)", str(error).strip(), maxsplit=1)[0]


def _why_not(name, kind, splits):
    if name in NOT_TRIED:
        return NOT_TRIED[name]
    if name in NEEDS:
        what, column = NEEDS[name]
        has = column in splits.train.arrays
        return f"learns {what}, which {'are more than these data alone' if has else 'these data do not have'}"
    own = next((each for each, arms in ARMS.items() if name in {arm.objective for arm in arms}), None)
    if own == kind:
        return "was not among the arms that were asked for"
    return f"takes {KINDS[own]}; these data are {KINDS[kind]}" if own else "is not in the table of arms"


def defaults(arm):
    """Returns the (settings, `Training`) of an arm, before the budget decides on steps.

    The learning rate is constant, so that a run can be resumed with more steps. XLA is off, since every resumed run
    would compile again.
    """
    module = objectives.module(arm.objective)
    training = dataclasses.replace(module.DEFAULTS, epochs=0, steps=1, schedule="constant", jit=False)
    return module.Settings(**arm.settings), training


def batch_size(training, count):
    """Returns the batch size of a run on `count` prepared examples: at most a quarter of them, as a power of two."""
    most = 1 << max(count // 4, 2).bit_length() - 1
    return min(training.batch_size, most)


def fill(arm, splits, seed, data="", image_size=None):
    """Returns the (settings, `Training`) of an arm for these data."""
    settings, training = defaults(arm)
    _, prepared = objectives.module(arm.objective).prepare(settings, splits)
    return settings, dataclasses.replace(
        training,
        data=data or splits.train.base,
        image_size=image_size,
        batch_size=batch_size(training, len(prepared.train)),
        seed=seed,
    )


def flags(arm, settings, training):
    """Returns the words of the command that repeats a run, `ssl-keras pretrain …`.

    They are the data, the steps, the seed, and all other settings that are not defaults.
    """
    module = objectives.module(arm.objective)
    words = ["ssl-keras", "pretrain", arm.objective]
    shown, skipped = {"data", "steps", "seed"}, {"epochs", "runs", "resume", "tensorboard"}
    for value, default in ((settings, module.Settings()), (training, module.DEFAULTS)):
        for field in dataclasses.fields(value):
            one = getattr(value, field.name)
            if field.name in skipped or (field.name not in shown and one == getattr(default, field.name)):
                continue
            words += _flag(field.name.replace("_", "-"), one)
    return words


def _flag(name, value):
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, tuple):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", "none" if value is None else str(value)]
