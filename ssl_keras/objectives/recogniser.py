"""Speech recognition: which symbols, words or characters, are said in a clip, in their order.

Connectionist temporal classification (Graves et al. 2006): the network says at each frame t which of V
symbols begins, or none (the blank); the loss is −log of the summed probability of all ways π to write
the target with them,

    −log Σ_{π → y} Π_t P(π_t | x),   averaged over target symbols,

where π → y drops repetitions, then blanks. It is how a pretrained speech encoder learns to recognise from
few transcribed clips (Baevski et al. 2020, section 3.2): `--init` of what `speech` saved. Decoding takes the
likeliest symbol of each frame.

Departure: no language model.

Shapes: `B` batch, `L` samples, `T` frames, `D` width, `U` target symbols, `V` symbols.

Metrics: `loss`, nats per target symbol; `gradient_norm` (training only); `quality/symbol_error_rate` and
`quality/sequence_error_rate` of some validation clips.
"""

import dataclasses
import logging
import typing

import keras
import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import card as cards
from ssl_keras import decoding, encoders, evaluation, hearing
from ssl_keras.data import audio, sound, sources
from ssl_keras.data.batches import Batches
from ssl_keras.data.inputs import network_input
from ssl_keras.networks import waveform
from ssl_keras.objective import Objective, example_weight
from ssl_keras.training.run import Training

DEFAULTS = Training(
    data="connected:tfds:spoken_digit[*_theo_*]", steps=2000, batch_size=32, learning_rate=1e-3, schedule="cosine",
    final_rate=0.01, warmup=200, clip_norm=1.0, interval=200, quality_every=1,
)
BLANK = 0  # symbols are numbered from 1
SPACE = "␣"  # what stands for a space among characters
MOST_SYMBOLS = 1_000
JUDGED = 256  # validation clips that are decoded now and then
SHOWN = 6

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings(hearing.Settings):
    """A network for waveforms, and what is read off its states."""

    seconds: float = 10.0
    """Longer clips are left out: their transcript would not fit a part of them."""
    words: bool = False
    """Symbols are whole words; else characters."""
    alphabet: typing.Annotated[str, tyro.conf.Suppress] = ""  # no flag: `prepare` fills it in

    @property
    def symbols(self):
        """The V symbols, in their order."""
        return self.alphabet.split()

    def cut(self, text):
        """A transcript as a list of symbols."""
        return text.split() if self.words else list(" ".join(text.split()).replace(" ", SPACE))

    def join(self, symbols):
        """Symbols as a transcript."""
        return " ".join(symbols) if self.words else "".join(symbols).replace(SPACE, " ")


def prepare(settings, splits, init=None):
    """Clips at the encoder's rate, with the column "target" (N, U) int32, -1 for padding.

    Raises:
        ValueError: no transcripts; symbols that the training part has not; no clip that is long enough for what
            is said in it.
    """
    if "target" not in splits.train.arrays:
        raise ValueError(
            f"{splits.train.base} has no transcripts. Expected --data transcripts:FILE, or connected:DATA of "
            "labelled clips."
        )
    settings, splits = hearing.prepare(settings, splits, init)
    cut = [[settings.cut(text) for text in part.column("target")] for part in splits]
    if not settings.alphabet:
        found = {symbol for targets in cut for target in targets for symbol in target}
        if len(found) > MOST_SYMBOLS:
            raise ValueError(
                f"{splits.train.base} has {len(found)} different symbols, more than {MOST_SYMBOLS}. "
                "Leave out --words: characters are fewer."
            )
        settings = dataclasses.replace(settings, alphabet=" ".join(sorted(found)))
    ids = {symbol: 1 + index for index, symbol in enumerate(settings.symbols)}
    widest = max(len(target) for targets in cut for target in targets)
    return settings, sources.Splits(*(
        _with_targets(part, targets, ids, settings, widest) for part, targets in zip(splits, cut)
    ))


def _with_targets(part, targets, ids, settings, widest):
    rows = np.full((len(targets), widest), -1, np.int32)
    for row, target in zip(rows, targets):
        unknown = [symbol for symbol in target if symbol not in ids]
        if unknown:
            raise ValueError(
                f"{part.name}: the transcript {settings.join(target)!r} has the unknown symbol {unknown[0]!r}. "
                f"Expected: {settings.alphabet}"
            )
        row[: len(target)] = [ids[symbol] for symbol in target]
    hop = settings.rate // waveform.FRAMES_PER_SECOND
    # At its fastest a clip must have a frame for each symbol, and a blank between two alike.
    frames = part.lengths / (1 + settings.speed) // hop
    repeated = ((rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] >= 0)).sum(1)
    fits = (frames >= (rows >= 0).sum(1) + repeated) & (part.lengths <= settings.samples)
    if not fits.any():
        raise ValueError(
            f"{part.name}: no clip is at most {settings.seconds:g} s (--seconds) and has a frame of 20 ms for each "
            "symbol of its transcript."
        )
    if not fits.all():
        log.warning(
            "%s: %d of %d clips are left out, longer than %g s or too short for their transcripts", part.name,
            (~fits).sum(), len(fits), settings.seconds,
        )
    rows_of = np.arange(len(part)) if part.rows is None else part.rows
    whole = np.full((len(part.arrays["waveform"]), widest), -1, np.int32)
    whole[rows_of] = rows
    return dataclasses.replace(part, arrays=part.arrays | {"target": whole}).take(np.flatnonzero(fits))


encoder = hearing.encoder


def head(settings, spec=None):
    """A fresh head: states (B, T, D) -> logits (B, T, 1 + V), the blank first."""
    states = keras.Input((None, settings.width), name="states")
    logits = keras.layers.Dense(1 + len(settings.symbols), dtype="float32", name="logits")(states)
    return keras.Model(states, logits, name="head")


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return Recogniser(settings, hearing.chosen_encoder(settings, spec, encoder), head(settings))


class Recogniser(Objective):
    """Holds `encoder` and `head`; trains both on `batch["waveform"]` and `batch["target"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="recogniser")
        self.settings, self.encoder, self.head = settings, encoder, head

    def views(self, batch, draws):
        """`waveform` (B, L) float32, changed, and `target` (B, U) int32, -1 for padding."""
        x = sound.trimmed(audio.unit_range(batch["waveform"]))
        return {
            "waveform": sound.change(x, draws, self.settings, self.settings.rate, self.settings.samples),
            "target": batch["target"], "weight": batch["weight"],
        }

    def held_out_views(self, batch, draws):
        return {"waveform": network_input(batch), "target": batch["target"], "weight": batch["weight"]}

    def train_step(self, batch):
        mean, count = self.descend(self.errors, batch)
        self.loss_metric.update_state(mean, count)

    def test_step(self, batch):
        total, count = self.errors(batch)
        self.loss_metric.update_state(tf.math.divide_no_nan(total, count), count)

    def errors(self, batch):
        """Summed loss and (weighted) number of target symbols."""
        logits, frames = frame_logits(self.encoder, self.head, batch["waveform"])
        count = tf.reduce_sum(tf.cast(batch["target"] >= 0, tf.int32), 1)  # (B,)
        loss = tf.nn.ctc_loss(
            tf.maximum(batch["target"], 0), logits, count, frames, logits_time_major=False, blank_index=BLANK
        )
        weight = example_weight(batch)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight * tf.cast(count, tf.float32))

    def qualities(self, splits):
        some = splits.validation.take(evaluation.spread(len(splits.validation), JUDGED))
        right = [[[int(i) for i in target if i >= 0]] for target in some.column("target")]
        rates = decoding.error_rates(heard(self.encoder, self.head, some), right)
        return dict(zip(("quality/symbol_error_rate", "quality/sequence_error_rate"), rates))

    def pictures(self, batch):
        """For TensorBoard: spectrograms, and below them where which symbol begins."""
        x = batch["waveform"]
        logits, _ = frame_logits(self.encoder, self.head, x)
        said = tf.transpose(tf.nn.softmax(logits)[..., 1:], (0, 2, 1))[..., None]  # (B, V, T, 1)
        said = tf.repeat(tf.repeat(said, hearing.PIXELS, 1), hearing.PIXELS, 2)
        said = tf.pad(said, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=0.5)
        return {"alignment": [hearing.spectrograms(self.encoder, self.settings.rate, x), said]}

    def sounds(self, batch):
        return {"clips": (batch["waveform"], self.settings.rate)}

    def texts(self, batch, tokenizer):
        """For TensorBoard: what was heard, beside what was said."""
        lines = ["| said | heard |", "|---|---|"]
        made = greedy(*frame_logits(self.encoder, self.head, batch["waveform"][:SHOWN]))
        for target, ids in zip(batch["target"].numpy(), made):
            lines.append(f"| {text_of(self.settings, target)} | {text_of(self.settings, ids)} |")
        return {"heard": "\n".join(lines)}


def frame_logits(encoder, head, x):
    """(logits (B, T, 1 + V), frames (B,) int32) of waveforms (B, L)."""
    features, places = waveform.features(encoder, x)
    logits = head(waveform.context(encoder, features, places))
    return tf.cast(logits, tf.float32), tf.reduce_sum(tf.cast(places >= 0, tf.int32), 1)


def greedy(logits, frames):
    """A list of B lists of ids: the likeliest symbol of each frame, without repetitions, then without blanks."""
    path = tf.argmax(logits, -1, tf.int32).numpy()
    made = []
    for row, count in zip(path, np.asarray(frames)):
        row = row[:count]
        kept = row[np.flatnonzero(np.diff(row, prepend=-1))]
        made.append([int(i) for i in kept if i != BLANK])
    return made


def heard(encoder, head, source, batch_size=64):
    """What is heard in every clip of a source: a list of lists of ids."""
    run = tf.function(
        lambda x: frame_logits(encoder, head, x), input_signature=[tf.TensorSpec((None, None), tf.float32)]
    )
    batches = Batches(source, min(batch_size, len(source)), shuffle=False)
    made = []
    for batch in batches.dataset(0, batches.steps_per_epoch):
        made += greedy(*run(network_input(batch)))
    return made[: len(source)]


def text_of(settings, ids):
    """The transcript of ids, without padding."""
    return settings.join([settings.symbols[i - 1] for i in ids if i > 0])


def score(name, splits, part="test"):
    """{"clips", "word error rate", "symbol error rate", "sequence error rate"} of a saved recogniser on transcribed
    clips.

    Raises:
        ValueError: an encoder that is no recogniser; transcripts with symbols that it does not know.
    """
    encoder, head, settings = load(name)
    _, splits = prepare(dataclasses.replace(settings, speed=0.0), splits)
    source = getattr(splits, part)
    made = [text_of(settings, ids) for ids in heard(encoder, head, source)]
    right = [text_of(settings, target) for target in source.column("target")]

    def rates(cut):
        return decoding.error_rates([cut(text) for text in made], [[cut(text)] for text in right])

    symbols, sequences = rates(settings.cut)
    return {
        "clips": len(source), "word error rate": rates(str.split)[0], "symbol error rate": symbols,
        "sequence error rate": sequences,
    }


def load(name):
    """(encoder, head, settings) of a saved recogniser. Raises ValueError where it is none."""
    encoder, head, card = encoders.load_with_head(name)
    if card["objective"] != "recogniser" or card["head"] != "objective":
        raise ValueError(f"{card['name']} recognises nothing. Expected what pretraining with recogniser saved.")
    return encoder, head, cards.settings(card)


@dataclasses.dataclass(frozen=True)
class Transcribe:
    """Writes what is said in sound files."""

    encoder: tyro.conf.Positional[str]
    """A saved recogniser's name or path."""
    files: tyro.conf.Positional[tuple[str, ...]]
    """One or more files: WAV, FLAC, OGG or MP3, of any rate."""


def transcribe_command(arguments):
    """Writes what is said in sound files."""
    asked = tyro.cli(Transcribe, prog="ssl-keras transcribe", args=arguments)
    if not asked.files:
        raise ValueError("Expected one file or more.")
    encoder, head, settings = load(asked.encoder)
    for file in asked.files:
        x = audio.unit_range(tf.constant(audio.read(file, settings.rate)))[None]
        print(f"{file}: {text_of(settings, greedy(*frame_logits(encoder, head, x))[0])}")


@dataclasses.dataclass(frozen=True)
class Score:
    """Measures transcripts against the right ones: the share of wrong symbols and of wrong clips."""

    encoder: tyro.conf.Positional[str]
    """A saved recogniser's name or path."""
    data: str
    """transcripts:FILE, or connected:DATA."""
    part: str = "test"
    """validation or test."""
    record: bool = False
    """Write the result into the encoder's card."""


def score_command(arguments):
    """Measures transcripts against the right ones."""
    asked = tyro.cli(Score, prog="ssl-keras score", args=arguments)
    if asked.part not in ("validation", "test"):
        raise ValueError(f"part must be validation or test. Received: {asked.part!r}")
    splits = sources.load(asked.data)
    result = score(asked.encoder, splits, asked.part)
    for name, value in result.items():
        print(f"{name}: {value:.2%}" if isinstance(value, float) else f"{name}: {value}")
    if asked.record:
        encoders.record(asked.encoder, getattr(splits, asked.part).name, result)
