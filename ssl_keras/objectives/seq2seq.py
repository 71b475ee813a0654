"""Sequence to sequence (Bahdanau et al. 2015): a recurrent encoder, and a decoder with attention to it.

The tutorial's section 4.3 mentions sequence-to-sequence models; the network and horizon that it defines are in
`recurrent_lm`. Here a decoder is trained by teacher forcing (Sutskever et al. 2014; see
`networks/recurrent.py` for what differs). The loss is −log P(y_u | y_1…y_{u−1}, source), averaged over target
tokens, the end included. The task defines source and target:

- `denoise`: the target is a sequence, the source the same sequence with masked spans (Lewis et al. 2020).
- `continue`: the source is x₁…x_t for a random t, the target the rest from x_{t+h} on, with the horizon h.
- `pairs`: sources and targets come from the data. This task fine-tunes encoders of the other two (`--init`).

Departures: every token of a masked span becomes a mask token, where the paper has one for the whole span; all spans
have the same length. Dropout has one mask for all positions of an example (Gal & Ghahramani 2016), keyed by
its position in the batch, so the number of replicas does not change it. `--scheduled-sampling` mixes in predictions of
a teacher-forced pass (Mihaylova & Martins 2019), not of step-by-step decoding (Bengio et al. 2015). A
batch is as long as its longest sequence, so XLA (`--jit`) would compile many times.

Shapes: `B` batch, `T` tokens, `U` target tokens, `D` width, `V` target vocabulary, `P` dropout masks per example.

Metrics: `loss`, nats per target token, with label smoothing in training; `accuracy`, top-1 on target tokens, in
[0, 1]; `gradient_norm` (training only); `quality/symbol_error_rate` and `quality/sequence_error_rate` on a sample of
the validation pairs (task pairs).
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
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.inference import beam_search, translation
from ssl_keras.modalities import language, recurrent_text
from ssl_keras.modalities.language import Resolved
from ssl_keras.modalities.settings import start_from, tokenizer_of
from ssl_keras.networks import Network, recurrent

TASKS = ("denoise", "continue", "pairs")
MAX_SYMBOLS = 10_000
NUM_EVALUATED = 512  # validation pairs that are decoded for a report
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
    """The encoder and the decoder, their tokenizer, and the task."""

    task: Literal[*TASKS] = "denoise"
    """Task: restore a sequence with masked spans (denoise), generate the rest of a sequence (continue), or map
    sources to targets (pairs)."""
    horizon: Annotated[int, Range(1, recurrent_text.MAX_CONTEXT)] = 2
    """Distance from the last source token to the first target token, in tokens (task continue). 1 predicts the next
    token."""
    unit: Literal["", *sequences.UNITS] = ""
    """Unit of text that is one sequence (tasks denoise and continue); rows are those of a table or of pairs. By default
    rows if the data has labels or targets, else words."""
    context: Annotated[int, Range(2, recurrent_text.MAX_CONTEXT)] = 64
    """Maximum length of a source and of a target, in tokens. Longer ones are truncated."""
    symbols: bool = False
    """Read targets as symbols separated by whitespace, such as phonemes, with their own vocabulary (task pairs)."""
    mask_ratio: Annotated[float, Range(0, 1, open="both")] = 0.3
    """Approximate fraction of source tokens to mask (task denoise)."""
    mask_span: Annotated[int, Range(1, recurrent_text.MAX_CONTEXT)] = 2
    """Length of a masked span, in tokens (task denoise)."""
    scheduled_sampling: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Scheduled sampling: fraction of the decoder's inputs that are its own predictions. 0 is teacher forcing."""
    alphabet: Annotated[str, tyro.conf.Suppress] = ""
    fresh_targets: Annotated[bool, tyro.conf.Suppress] = True
    mask_token: Resolved = -1
    end_token: Resolved = -1

    def __post_init__(self):
        super().__post_init__()
        for name in ("mask_token", "end_token"):
            if not -1 <= getattr(self, name) < self.vocabulary:
                raise ValueError(f"{name} must be the id of a token, or -1. Received: {getattr(self, name)}")
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
        """The token that starts and ends a target."""
        return symbols.END if self.symbols else self.end_token

    @property
    def targets(self):
        """V, the size of the target vocabulary."""
        return symbols.Symbols(self.alphabet).vocabulary if self.symbols else self.vocabulary

    def reader(self, tokenizer):
        """Returns the tokenizer of targets: `tokenizer`, or `Symbols`."""
        return symbols.Symbols(self.alphabet) if self.symbols else tokenizer


def prepare(settings, splits, init=None):
    """Turns text or pairs into tokens; completes the settings from the tokenizer, the data and `init`.

    Raises:
        ValueError: the data does not suit the task; the tokenizer has no end or mask token; the network of `init`
            is of another kind.
    """
    paired = "target" in splits.train.arrays
    if settings.task == "pairs" and not paired:
        raise ValueError(
            "The task pairs needs data with sources and targets: --data pairs:FILE, cmudict, or a translation dataset "
            f"of tfds. Received: {splits.train.base}"
        )
    if settings.task != "pairs":
        unit = settings.unit or ("rows" if paired or "label" in splits.train.arrays else "words")
        splits = tokens.drop_targets(sequences.split_into_units(splits, unit))
    if init is not None:
        settings = _start_from(init, settings)
    with_targets = settings.task == "pairs" and not settings.symbols
    tokenizer = tokenizer_of(settings, init, lambda: tokens.training_texts(splits.train, with_targets))
    if tokenizer.end < 0 or (settings.task == "denoise" and tokenizer.mask < 0):
        raise ValueError(
            "The tokenizer needs an end-of-text token and a mask token (task denoise). Train one that has both, for "
            "example with --tokenizer bpe."
        )
    settings = dataclasses.replace(
        settings, vocabulary=tokenizer.vocabulary, mask_token=tokenizer.mask, end_token=tokenizer.end
    )
    if settings.symbols and not settings.alphabet:
        hint = "Leave out --symbols: a tokenizer splits words into pieces."
        settings = dataclasses.replace(settings, alphabet=symbols.alphabet_of(splits, MAX_SYMBOLS, hint))
    splits = sequences.tokenize(splits, tokenizer, settings.context, settings.reader(tokenizer))
    if settings.task == "continue":
        sequences.check_longer_than(splits.train, settings.horizon)
    return settings, splits


def _start_from(init, settings):
    """Returns the settings with the network and tokenizer of the saved encoder `init`."""
    kept, card = start_from(
        init,
        settings,
        ("recurrent",),
        recurrent_text.NETWORK,
        "is not a bidirectional recurrent encoder. Expected an encoder saved by seq2seq (--task denoise).",
        bidirectional=True,
    )
    known = (card["decoding"] or {}).get("symbols")
    if settings.symbols and known:
        kept["alphabet"] = " ".join(known)
    kept["fresh_targets"] = settings.symbols != bool(known)  # saved ids stand for other tokens
    return dataclasses.replace(settings, tokenizer=str(init), **kept)


def encoder(settings, spec):
    """Returns the bidirectional encoder, tokens (B, T) -> states (B, T, D), as a `Network`."""
    return Network(
        "recurrent", vocabulary=settings.vocabulary, width=settings.width, layers=settings.layers, cell=settings.cell
    )


def head(settings, spec=None):
    """Returns the decoder, see `recurrent.attending_decoder`, as a `Network`."""
    return Network(
        "attending_decoder",
        vocabulary=settings.targets,
        width=settings.width,
        layers=settings.layers,
        source_width=settings.width,
        cell=settings.cell,
    )


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return Seq2Seq(settings, recurrent_text.chosen_encoder(settings, spec, encoder), head(settings).build())


class Seq2Seq(Objective):
    """Holds `encoder` and `head`, the decoder; trains both to predict `batch["target"]` from `batch["tokens"]`."""

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
        """Returns `preprocess_eval`'s batch, with random numbers for dropout and scheduled sampling."""
        settings = self.settings
        batch = self.preprocess_eval(batch, random)
        if settings.dropout:
            batch["dropout"] = recurrent_text.draw_dropout([self.encoder, self.head], settings.width, random)
        if settings.scheduled_sampling:
            own = random.uniform("sampling", (settings.context + 1,)) < settings.scheduled_sampling
            batch["own"] = own[:, : tf.shape(batch["target"])[1]]
        return batch

    def preprocess_eval(self, batch, random):
        """Returns the source `tokens` (B, T) int32 and `target` (B, U) with its end, without shared padding."""
        settings = self.settings
        tokens, target = batch["tokens"], batch.get("target", batch["tokens"])
        if settings.task == "denoise":
            masked = masking.mask_spans(tokens >= 0, settings.mask_ratio, settings.mask_span, random)
            tokens = tf.where(masked, settings.mask_token, tokens)
        elif settings.task == "continue":
            tokens, target = masking.split_at_random(tokens, settings.horizon, random)
        target = masking.trim(masking.append_end(target, settings.end, settings.context))
        return {"tokens": masking.trim(tokens), "target": target, "weight": batch["weight"]}

    def train_step(self, batch):
        self.descend(self.smoothed_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, self.logits(batch)))

    def smoothed_loss(self, batch):
        """Returns `batch_loss` with dropout, scheduled sampling and label smoothing, if they are set."""
        predictions = tf.argmax(self.logits(batch), -1, tf.int32) if self.settings.scheduled_sampling else None
        drop = recurrent_text.dropout(batch, self.settings.dropout)
        return self.batch_loss(batch, self.logits(batch, drop, predictions), self.settings.label_smoothing)

    def batch_loss(self, batch, logits, label_smoothing=0.0):
        """Returns the summed loss and the weighted number of target tokens; updates `accuracy`."""
        return recurrent_text.token_loss(batch["target"], logits, example_weight(batch), self.accuracy, label_smoothing)

    def logits(self, batch, drop=None, predictions=None):
        """Returns logits (B, U, V) float32 of each target token, given the source and the target before it.

        Args:
            batch: as from `preprocess`.
            drop: function applied to the layers' inputs, or None.
            predictions: (B, U) int32, which replace the decoder's inputs where `batch["own"]` is True; or None.
        """
        tokens = batch["tokens"]
        states = recurrent.encode(self.encoder, tokens, drop) if drop else self.encoder(tokens)
        before = self.before(batch, predictions)
        if drop:
            return recurrent.logits(self.head, recurrent.decode(self.head, before, states, tokens, drop))
        return recurrent.logits(self.head, self.head([before, states, tokens]))

    def before(self, batch, predictions=None):
        """Returns the decoder's inputs (B, U) int32: the end token, then the target without its last token."""
        target = batch["target"]
        if predictions is not None:
            target = tf.where(batch["own"] & (target >= 0), predictions, target)
        return tf.pad(target[:, :-1], [[0, 0], [1, 0]], constant_values=self.settings.end)

    def report(self, batch, examples, splits):
        """Attention maps, decoded sources, error rates of pairs, and token embeddings."""
        tokenizer = splits.train.tokenizer
        return Report(
            images={"attention": self._attention(batch)},
            texts={"decoded": self._decoded(batch, tokenizer)},
            scalars=self._error_rates(splits) if self.settings.task == "pairs" else {},
            embeddings=language.projections(recurrent.parts(self.encoder).embeddings, tokenizer),
        )

    def _attention(self, batch):
        """Returns a row of pictures of the last layer's attention, targets in rows and sources in columns."""
        tokens = batch["tokens"][:PICTURED]
        weights = recurrent.alignments(self.head, self.before(batch)[:PICTURED], self.encoder(tokens), tokens)
        return [pictures.enlarged(weights[..., None], PICTURED_PIXELS, frame=2)]

    def _decoded(self, batch, tokenizer):
        """Returns a table of held-out sources, their targets, and decoded outputs."""
        decoded = self.decoder.greedy(batch["tokens"][:NUM_SHOWN]).numpy()
        lines = ["| source | target | decoded |", "|---|---|---|"]
        for source, target, row in zip(batch["tokens"].numpy(), batch["target"].numpy(), decoded):
            texts = (translation.decode_target(self.decoding, tokenizer, ids) for ids in (target, row))
            cells = tokenizer.decode(source), *texts
            lines.append("| " + " | ".join(cell.replace("|", "¦").replace("\n", "⏎") for cell in cells) + " |")
        return "\n".join(lines)

    def _error_rates(self, splits):
        """Returns {tag: rate} of greedy decoding on a sample of the validation pairs."""
        targets = {}  # all targets of each source
        for source, target in zip(splits.validation.column("tokens"), splits.validation.column("target")):
            targets.setdefault(tuple(source), []).append([int(i) for i in target if i >= 0])
        sample = [list(targets)[index] for index in evenly_spaced(len(targets), NUM_EVALUATED)]
        decoded = beam_search.decode(self.decoder, np.array(sample, np.int32))
        rates = error_rates(decoded, [targets[source] for source in sample])
        return dict(zip(("quality/symbol_error_rate", "quality/sequence_error_rate"), rates))
