"""CTC: recognize which symbols, words or characters, are said in a clip, in their order.

For the tutorial's section 6, which names speech recognition; was `recognizer`. Connectionist temporal
classification (Graves et al. 2006): the network says at each frame t which of V symbols begins, or none (the
blank); the loss is −log of the summed probability of all ways π to write the target with them,

    −log Σ_{π → y} Π_t P(π_t | x),   averaged over target symbols,

where π → y drops repetitions, then blanks. It is how a pretrained speech encoder learns to recognize from
few transcribed clips (Baevski et al. 2020, section 3.2): `--init` of what `wav2vec2` saved. Decoding takes the
likeliest symbol of each frame.

Departure: no language model.

Shapes: `B` batch, `L` samples, `T` frames, `D` width, `U` target symbols, `V` symbols.

Metrics: `loss`, nats per target symbol; `gradient_norm` (training only); `quality/symbol_error_rate` and
`quality/sequence_error_rate` of some validation clips.
"""

import dataclasses
import logging
from typing import Annotated

import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import encoders
from ssl_keras.data import audio, augment_audio, masking, sequences, symbols
from ssl_keras.data.inputs import network_input
from ssl_keras.data.ranges import Range
from ssl_keras.data.splits import Splits
from ssl_keras.encoders import card as cards
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.evaluation.features import spread
from ssl_keras.inference import ctc
from ssl_keras.modalities import sound
from ssl_keras.networks import Network, waveform

DEFAULTS = Training(
    data="connected:tfds:spoken_digit[*_theo_*]",
    steps=2000,
    batch_size=32,
    learning_rate=1e-3,
    schedule="cosine",
    final_rate=0.01,
    warmup=200,
    clip_norm=1.0,
    eval_every=200,
    report_every=1,
)
MAX_SYMBOLS = 1_000
NUM_EVALUATED = 256  # validation clips that are decoded now and then
NUM_SHOWN = 6

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings(sound.Settings):
    """A network for waveforms, and what is read off its states."""

    seconds: Annotated[float, Range(0.1, audio.LONGEST)] = 10.0
    """Longer clips are left out: their transcript would not fit a part of them."""
    words: bool = False
    """Symbols are whole words; else characters."""
    alphabet: Annotated[str, tyro.conf.Suppress] = ""  # no flag: `prepare` fills it in

    @property
    def symbols(self):
        """The vocabulary that reads and writes transcripts."""
        return symbols.Symbols(self.alphabet, characters=not self.words)

    def __post_init__(self):
        super().__post_init__()
        if self.shift:
            raise ValueError(f"shift would cut off words that the transcript has: leave it out. Received: {self.shift}")


def prepare(settings, splits, init=None):
    """Clips at the encoder's rate, with the column "target" (N, U) int32, -1 for padding.

    Raises:
        ValueError: no transcripts; more symbols than are usual, or others than those of the saved network that
            a run starts from; a part without a clip that is short enough, and long enough for what is said in it.
    """
    if "target" not in splits.train.arrays:
        raise ValueError(
            f"{splits.train.base} has no transcripts. Expected --data transcripts:FILE, or connected:DATA of "
            "labeled clips."
        )
    settings, splits = sound.prepare(settings, splits, init)
    if init is not None:
        decoding = cards.read(encoders.find(init))["decoding"] or {}
        if "words" in decoding:  # of a saved encoder of ctc
            settings = dataclasses.replace(settings, alphabet=" ".join(decoding["symbols"]), words=decoding["words"])
    if not settings.alphabet:
        hint = "Leave out --words: characters are fewer." if settings.words else "Write it in fewer."
        alphabet = symbols.alphabet_of(splits, MAX_SYMBOLS, hint, characters=not settings.words)
        settings = dataclasses.replace(settings, alphabet=alphabet)
    return settings, Splits(*(_with_targets(part, settings) for part in splits))


def _with_targets(part, settings):
    """The part of those clips that are short enough, and long enough to say so many symbols."""
    try:
        said = settings.symbols.encode(part.column("target"))
    except ValueError as error:
        raise ValueError(f"{part.name}: {error}. Start from an encoder of wav2vec2 to learn others.") from error
    # At its fastest a clip must have a frame for each symbol, and a blank between two alike.
    needed = np.array([len(one) + sum(a == b for a, b in zip(one, one[1:])) for one in said])
    frames = part.lengths / (1 + settings.speed) // (settings.rate // waveform.FRAMES_PER_SECOND)
    fits = np.flatnonzero((frames >= needed) & (part.lengths <= settings.samples))
    if not len(fits):
        raise ValueError(
            f"{part.name}: no clip is at most {settings.seconds:g} s (--seconds) and has a frame of 20 ms for each "
            "symbol of its transcript."
        )
    if len(fits) < len(said):
        log.warning(
            "%s: %d of %d clips are left out, longer than %g s or too short for their transcripts",
            part.name,
            len(said) - len(fits),
            len(said),
            settings.seconds,
        )
    targets = sequences.padded_rows([said[i] for i in fits], max(len(said[i]) for i in fits))
    part = part.take(fits)
    whole = part.arrays["waveform"]
    clips = audio.Clips(whole.samples, whole.starts[part.rows], whole.lengths[part.rows])
    return dataclasses.replace(part, arrays={"waveform": clips, "target": targets}, rows=None, classes=())


encoder = sound.encoder


def head(settings, spec=None):
    """The head, states (B, T, D) -> logits (B, T, 1 + V), the blank first, as a `Network`."""
    return Network("frame_classifier", width=settings.width, symbols=len(settings.symbols.names))


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return CTC(settings, sound.chosen_encoder(settings, spec, encoder), head(settings).build())


class CTC(Objective):
    """Holds `encoder` and `head`; trains both on `batch["waveform"]` and `batch["target"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="ctc")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.decoding = {"symbols": settings.symbols.names, "words": settings.words}

    def preprocess(self, batch, random):
        """`waveform` (B, L) float32, changed, and `target` (B, U) int32, -1 for padding."""
        made, settings = self.preprocess_eval(batch, random), self.settings
        changed = augment_audio.change(made["waveform"], random, settings, settings.rate, settings.samples)
        return made | {"waveform": changed}

    def preprocess_eval(self, batch, random):
        return {"waveform": network_input(batch), "target": batch["target"], "weight": batch["weight"]}

    def train_step(self, batch):
        self.descend(self.batch_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch))

    def batch_loss(self, batch):
        """Summed loss and (weighted) number of target symbols."""
        logits, frames = ctc.frame_logits(self.encoder, self.head, batch["waveform"])
        count = masking.lengths(batch["target"])  # (B,)
        said = tf.where(batch["target"] >= 0)
        labels = tf.SparseTensor(
            said, tf.gather_nd(batch["target"], said), tf.shape(batch["target"], out_type=tf.int64)
        )
        # With sparse labels it is a kernel of its own, whose time and memory grow with T·U and not with T·U².
        loss = tf.nn.ctc_loss(labels, logits, None, frames, logits_time_major=False, blank_index=ctc.BLANK)
        weight = example_weight(batch)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight * tf.cast(count, tf.float32))

    def report(self, batch, examples, splits):
        """Clips, their spectrograms, below them where which symbol begins, what was heard, and error rates."""
        x, rate = batch["waveform"], self.settings.rate
        logits, _ = ctc.frame_logits(self.encoder, self.head, x)
        said = tf.transpose(tf.nn.softmax(logits)[..., 1:], (0, 2, 1))[..., None]  # (B, V, T, 1)
        return Report(
            images={"alignment": [sound.spectrograms(self.encoder, rate, x), sound.framed(said)]},
            audio={"clips": (x, rate)},
            texts={"heard": self._heard(batch)},
            scalars=self._error_rates(splits),
        )

    def _error_rates(self, splits):
        """{tag: rate} of some validation clips, decoded greedily."""
        some = splits.validation.take(spread(len(splits.validation), NUM_EVALUATED))
        right = [[[int(i) for i in target if i >= 0]] for target in some.column("target")]
        rates = error_rates(ctc.transcribe(self.encoder, self.head, some), right)
        return dict(zip(("quality/symbol_error_rate", "quality/sequence_error_rate"), rates))

    def _heard(self, batch):
        """A table of what was said and what was heard."""
        lines = ["| said | heard |", "|---|---|"]
        made = ctc.greedy(*ctc.frame_logits(self.encoder, self.head, batch["waveform"][:NUM_SHOWN]))
        for target, ids in zip(batch["target"].numpy(), made):
            said, heard = (self.settings.symbols.decode(each) for each in (target, ids))
            lines.append(f"| {said} | {heard} |")
        return "\n".join(lines)
