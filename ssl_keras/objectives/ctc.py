"""CTC (Graves et al. 2006): recognize speech as characters or words, supervised by transcripts.

Section 6 of the tutorial mentions speech recognition. Connectionist temporal classification predicts
one of V symbols, or the blank, for each frame t. The loss is −log of the total probability of all paths π of
symbols and blanks that map to the target y,

    −log Σ_{π → y} Π_t P(π_t | x),   averaged over target symbols,

where π → y merges repeats, then removes blanks. With `--init` of an encoder saved by `wav2vec2` it fine-tunes a
pretrained encoder on few transcribed clips (Baevski et al. 2020, section 3.2). Decoding is greedy: it takes
the most likely symbol of each frame.

Departure: there is no language model.

Shapes: `B` batch, `L` samples, `T` frames, `D` width, `U` target symbols, `V` symbols.

Metrics: `loss`, nats per target symbol; `gradient_norm` (training only); `quality/symbol_error_rate` and
`quality/sequence_error_rate` on a sample of the validation clips.
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
from ssl_keras.evaluation.features import evenly_spaced
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
NUM_EVALUATED = 256  # validation clips that are decoded for a report
NUM_SHOWN = 6

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings(sound.Settings):
    """The waveform encoder, the augmentation of its clips, and the symbols to recognize."""

    seconds: Annotated[float, Range(0.1, audio.LONGEST)] = 10.0
    """Maximum clip length, in seconds. Longer clips are left out, since a crop would not match its transcript."""
    shift: Annotated[float, Range(0)] = 0.0
    """Must be 0, since a time shift could cut off words that are in the transcript."""
    words: bool = False
    """Recognize whole words as symbols instead of characters."""
    alphabet: Annotated[str, tyro.conf.Suppress] = ""  # has no flag: `prepare` sets it

    @property
    def symbols(self):
        """The vocabulary that encodes and decodes transcripts."""
        return symbols.Symbols(self.alphabet, characters=not self.words)

    def __post_init__(self):
        super().__post_init__()
        if self.shift:
            raise ValueError(
                f"shift must be 0, since a shift could cut off words of the transcript. Received: {self.shift}"
            )


def prepare(settings, splits, init=None):
    """Resamples clips to the encoder's rate and adds the column "target" (N, U) int32, -1 for padding.

    Raises:
        ValueError: no transcripts; more than MAX_SYMBOLS symbols; symbols that the head of `init` does not have; a
            split in which no clip is short enough, and long enough for its transcript.
    """
    if "target" not in splits.train.arrays:
        raise ValueError(
            "Expected data with transcripts: --data transcripts:FILE, or connected:DATA for labeled clips. Received: "
            f"{splits.train.base}"
        )
    settings, splits = sound.prepare(settings, splits, init)
    if init is not None:
        card = cards.read(encoders.find(init))
        if cards.is_a(card, "frame_classifier"):  # `init` was saved by ctc
            decoding = cards.decoding(card)
            settings = dataclasses.replace(settings, alphabet=" ".join(decoding["symbols"]), words=decoding["words"])
    if not settings.alphabet:
        hint = "Leave out --words: there are fewer characters." if settings.words else "Use fewer characters."
        alphabet = symbols.alphabet_of(splits, MAX_SYMBOLS, hint, characters=not settings.words)
        settings = dataclasses.replace(settings, alphabet=alphabet)
    return settings, Splits(*(_with_targets(part, settings) for part in splits))


def _with_targets(part, settings):
    """Returns the split with targets, without clips that are too long, or too short for their transcripts."""
    try:
        targets = settings.symbols.encode(part.column("target"))
    except ValueError as error:
        raise ValueError(f"{part.name}: {error}. Use --init with a wav2vec2 encoder to learn new symbols.") from error
    # At the highest speed a clip must still have one frame per symbol, and one for a blank between equal symbols.
    needed = np.array([len(one) + sum(a == b for a, b in zip(one, one[1:])) for one in targets])
    frames = part.lengths / (1 + settings.speed) // (settings.rate // waveform.FRAMES_PER_SECOND)
    fits = np.flatnonzero((frames >= needed) & (part.lengths <= settings.samples))
    if not len(fits):
        raise ValueError(
            f"{part.name}: expected clips of at most {settings.seconds:g} s (--seconds) with a frame of 20 ms for each "
            "symbol of the transcript. Received: none"
        )
    if len(fits) < len(targets):
        log.warning(
            "%s: %d of %d clips are skipped, since they are longer than %g s or too short for their transcripts",
            part.name,
            len(targets) - len(fits),
            len(targets),
            settings.seconds,
        )
    targets = sequences.padded_rows([targets[i] for i in fits], max(len(targets[i]) for i in fits))
    part = part.take(fits)
    whole = part.arrays["waveform"]
    clips = audio.Clips(whole.samples, whole.starts[part.rows], whole.lengths[part.rows])
    return dataclasses.replace(part, arrays={"waveform": clips, "target": targets}, rows=None, classes=())


encoder = sound.encoder


def head(settings, spec=None):
    """Returns the head, states (B, T, D) -> logits (B, T, 1 + V) with the blank first, as a `Network`."""
    return Network("frame_classifier", width=settings.width, symbols=len(settings.symbols.names))


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return CTC(settings, sound.chosen_encoder(settings, spec, encoder), head(settings).build())


class CTC(Objective):
    """Holds `encoder` and `head`; trains both on `batch["waveform"]` and `batch["target"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="ctc")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.decoding = {"symbols": settings.symbols.names, "words": settings.words}

    def preprocess(self, batch, random):
        """Returns `waveform` (B, L) float32, augmented, and `target` (B, U) int32, -1 for padding."""
        batch, settings = self.preprocess_eval(batch, random), self.settings
        augmented = augment_audio.change(batch["waveform"], random, settings, settings.rate, settings.samples)
        return batch | {"waveform": augmented}

    def preprocess_eval(self, batch, random):
        return {"waveform": network_input(batch), "target": batch["target"], "weight": batch["weight"]}

    def train_step(self, batch):
        self.descend(self.batch_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch))

    def batch_loss(self, batch):
        """Returns the summed loss and the weighted number of target symbols."""
        logits, frames = ctc.frame_logits(self.encoder, self.head, batch["waveform"])
        count = masking.lengths(batch["target"])  # (B,)
        index = tf.where(batch["target"] >= 0)
        labels = tf.SparseTensor(
            index, tf.gather_nd(batch["target"], index), tf.shape(batch["target"], out_type=tf.int64)
        )
        # Sparse labels select a kernel whose time and memory grow with T·U instead of T·U².
        loss = tf.nn.ctc_loss(labels, logits, None, frames, logits_time_major=False, blank_index=ctc.BLANK)
        weight = example_weight(batch)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight * tf.cast(count, tf.float32))

    def report(self, batch, examples, splits):
        """Clips, spectrograms above the symbols' probabilities over time, transcripts, and error rates."""
        x, rate = batch["waveform"], self.settings.rate
        logits, _ = ctc.frame_logits(self.encoder, self.head, x)
        probabilities = tf.transpose(tf.nn.softmax(logits)[..., 1:], (0, 2, 1))[..., None]  # (B, V, T, 1)
        return Report(
            images={"alignment": [sound.spectrograms(self.encoder, rate, x), sound.framed(probabilities)]},
            audio={"clips": (x, rate)},
            texts={"heard": self._transcripts(batch)},
            scalars=self._error_rates(splits),
        )

    def _error_rates(self, splits):
        """Returns {tag: rate} of greedy decoding on a sample of the validation clips."""
        sample = splits.validation.take(evenly_spaced(len(splits.validation), NUM_EVALUATED))
        targets = [[[int(i) for i in target if i >= 0]] for target in sample.column("target")]
        rates = error_rates(ctc.transcribe(self.encoder, self.head, sample), targets)
        return dict(zip(("quality/symbol_error_rate", "quality/sequence_error_rate"), rates))

    def _transcripts(self, batch):
        """Markdown table of true and decoded transcripts."""
        lines = ["| transcript | decoded |", "|---|---|"]
        decoded = ctc.greedy(*ctc.frame_logits(self.encoder, self.head, batch["waveform"][:NUM_SHOWN]))
        for pair in zip(batch["target"].numpy(), decoded):
            transcript, text = map(self.settings.symbols.decode, pair)
            lines.append(f"| {transcript} | {text} |")
        return "\n".join(lines)
