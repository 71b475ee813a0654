"""Sequence to sequence: a recurrent network that predicts what comes later, or from one sequence another.

The tutorial's section 4.3 is `--task next`: one recurrent network g reads x₁…x_t, and
P(x_{t+h} | x₁…x_t) = softmax over the vocabulary of the inner products ⟨g(x₁…x_t), embedding of x⟩;
the horizon h is 2. The loss is −log P, averaged over tokens.

The other tasks have an encoder that reads both ways and a decoder that attends to it (Sutskever et al.
2014; Bahdanau et al. 2015; `networks/recurrent.py` says what differs), trained with the true target as
its input: −log P(y_u | y_1…y_{u−1}, source), averaged over target tokens, the end included.

- `denoise`: the source is a sequence with spans of it hidden, the target the sequence (Lewis et al. 2020).
- `continue`: the source is x₁…x_t for a t drawn at random, the target what comes from x_{t+h} on.
- `pairs`: sources and targets from the data; this is the fine-tuning (`--init` of the two before).

Departures: a hidden token is a mask each, not one for a span, and a span has one length. Dropout has one
mask for all positions of an example (Gal & Ghahramani 2016), drawn by its position in the batch, so that
replicas change nothing; what `--sampling` mixes in comes from a pass with the true target (Mihaylova &
Martins 2019), not from step by step decoding (Bengio et al. 2015). A batch is as long as its longest
sequence, so XLA (`--jit`) would compile again and again: it is for `next` alone.

Shapes: `B` batch, `T` tokens, `U` target tokens, `D` width, `V` target vocabulary, `P` places of dropout.

Metrics: `loss`, nats per target token (smoothed, if so asked, while training); `accuracy`, the share of
target tokens that the likeliest token hits; `gradient_norm` (training only).
"""

import dataclasses
import hashlib
import itertools
import logging
import typing

import keras
import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import encoders
from ssl_keras.data import sequences, tokens
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.splits import Splits
from ssl_keras.encoders import card as cards
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.evaluation.features import spread
from ssl_keras.inference import beam_search, translation
from ssl_keras.modalities import language
from ssl_keras.modalities.language import Resolved
from ssl_keras.modalities.settings import check_ranges, network_settings_from
from ssl_keras.networks import recurrent

TASKS = ("next", "denoise", "continue", "pairs")
MOST_LAYERS, MOST_CONTEXT, MOST_SYMBOLS = 64, 1 << 12, 10_000
NETWORK = ("cell", "layers", "width")  # what comes with `init`
JUDGED = 512  # validation pairs that are decoded now and then
SHOWN = 6
PICTURED, PICTURED_PIXELS = 4, 8
DEFAULTS = Training(
    data="pydoc", steps=2000, batch_size=128, learning_rate=2e-3, schedule="cosine", final_rate=0.01, warmup=100,
    clip_norm=1.0, interval=100, quality_every=5,
)
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A recurrent network, its tokenizer, and what it learns."""

    task: str = "next"
    """next: the token `horizon` places on (the tutorial's); denoise, continue: an encoder and a decoder, from a
    sequence with spans hidden or cut off; pairs: from sources to targets, of data that have them."""
    horizon: int = 2
    """Of next and continue: how many places on; 1 is the very next token."""
    unit: str = ""
    """Of denoise and continue, what a sequence is: words or sentences of the text, or the rows of a table or
    of pairs; by default the rows of what has labels or targets, else words."""
    cell: str = "gru"
    """gru or lstm."""
    layers: int = 2
    """Recurrent layers, of the encoder and of the decoder."""
    width: int = 256
    """Features of a token."""
    context: int = 64
    """The most tokens of a sequence, and of its target; of next: the tokens of a training window."""
    tokenizer: str = "characters"
    """characters, bpe, wordpiece (trained on the run's text), or the path of a tokenizer.json."""
    vocabulary: int = 2048
    """Tokens that a tokenizer may learn."""
    symbols: bool = False
    """Of pairs: targets are symbols between white space, phonemes say, with a vocabulary of their own."""
    share: float = 0.3
    """Of denoise: of the tokens that are hidden."""
    span: int = 2
    """Of denoise: hidden tokens in a row."""
    dropout: float = 0.0
    """Share of features that are dropped, between layers."""
    smoothing: float = 0.0
    """Share of the target's probability that all tokens get alike."""
    sampling: float = 0.0
    """Share of the decoder's inputs that are its own guesses."""
    alphabet: typing.Annotated[str, tyro.conf.Suppress] = ""
    fresh_targets: typing.Annotated[bool, tyro.conf.Suppress] = True
    mask_token: Resolved = -1
    end_token: Resolved = -1

    def __post_init__(self):
        for name, choices in (("task", TASKS), ("cell", tuple(recurrent.GATES)), ("unit", ("", *sequences.UNITS))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(filter(None, choices))}. Received: {getattr(self, name)!r}"
                )
        check_ranges(
            self, ("horizon", 1, MOST_CONTEXT), ("layers", 1, MOST_LAYERS), ("width", 2, 1 << 16),
            ("context", 2, MOST_CONTEXT), ("vocabulary", 2, 1 << 24), ("span", 1, MOST_CONTEXT),
        )
        for name in ("mask_token", "end_token"):
            if not -1 <= getattr(self, name) < self.vocabulary:
                raise ValueError(f"{name} must be a token of the vocabulary, or -1. Received: {getattr(self, name)}")
        if self.width % 2:
            raise ValueError(f"width must be even. Received: {self.width}")
        if self.task == "continue" and self.horizon >= self.context:
            raise ValueError(f"horizon must be less than the context, {self.context}. Received: {self.horizon}")
        if not 0 < self.share < 1:
            raise ValueError(f"share must be between 0 and 1. Received: {self.share}")
        for name in ("dropout", "smoothing", "sampling"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1). Received: {getattr(self, name)}")
        for name, tasks in (
            ("horizon", ("next", "continue")), ("unit", ("denoise", "continue")), ("symbols", ("pairs",)),
            ("share", ("denoise",)), ("span", ("denoise",)), ("sampling", TASKS[1:]),
        ):
            if getattr(self, name) != getattr(Settings, name) and self.task not in tasks:
                raise ValueError(f"{name} is for the task {' or '.join(tasks)}. Received: task {self.task}")

    @property
    def ids(self):
        """{symbol: id} of target symbols (0 is the end), or None where the tokenizer reads targets."""
        return {symbol: 1 + index for index, symbol in enumerate(self.alphabet.split())} if self.symbols else None

    @property
    def end(self):
        """The target token before the first and after the last."""
        return 0 if self.symbols else self.end_token

    @property
    def targets(self):
        """V, how many target tokens there are."""
        return 1 + len(self.ids) if self.symbols else self.vocabulary


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
    if settings.task in ("denoise", "continue"):
        unit = settings.unit or ("rows" if paired or "label" in splits.train.arrays else "words")
        splits = sequences.cut(splits, unit)
    if settings.task != "pairs":
        splits = Splits(*(_without_targets(source) for source in splits))
    if init is not None:
        settings, tokenizer = _from(init, settings)
    elif settings.tokenizer in tokenizers.KINDS:
        read, content = tokens.texts_of(splits.train), tokens.content_of(splits.train)
        if settings.task == "pairs" and not settings.symbols:
            targets = list(splits.train.column("target"))
            read = itertools.chain(read, targets)
            content += hashlib.sha256("\0".join(targets).encode("utf-8", "surrogatepass")).hexdigest()
        tokenizer = tokenizers.train(settings.tokenizer, read, settings.vocabulary, content)
    else:
        tokenizer = tokenizers.load(settings.tokenizer)
    if tokenizer.end < 0 or (settings.task == "denoise" and tokenizer.mask < 0):
        raise ValueError("The tokenizer needs a token for the end of a text, and to denoise one for the mask.")
    settings = dataclasses.replace(
        settings, vocabulary=tokenizer.vocabulary, mask_token=tokenizer.mask, end_token=tokenizer.end
    )
    if settings.task == "next":
        return settings, tokens.corpus(splits, tokenizer, settings.context, target=settings.horizon)
    if settings.symbols and not settings.alphabet:
        # Of all parts: a rare symbol may be in one alone, and to know that it exists is no answer.
        found = {symbol for source in splits for target in source.column("target") for symbol in target.split()}
        if len(found) > MOST_SYMBOLS:
            raise ValueError(
                f"{splits.train.base} has {len(found)} different target symbols, more than {MOST_SYMBOLS}. Leave out "
                "--symbols: a tokenizer takes words to pieces."
            )
        settings = dataclasses.replace(settings, alphabet=" ".join(sorted(found)))
    splits = sequences.tokenised(splits, tokenizer, settings.context, settings.ids)
    if settings.task == "continue":
        long = (splits.train.column("tokens") >= 0).sum(1) > settings.horizon
        if not long.any():
            raise ValueError(f"No sequence of {splits.train.base} has more than {settings.horizon} tokens (--horizon).")
        if not long.all():
            log.warning("%s: %.0f%% of the sequences are not longer than the horizon, and teach nothing but the end",
                        splits.train.base, 100 * (1 - long.mean()))
    return settings, splits


def _without_targets(source):
    arrays = {name: array for name, array in source.arrays.items() if name != "target"}
    return dataclasses.replace(source, arrays=arrays)


def _from(init, settings):
    """(settings, tokenizer): the network and tokenizer of the saved encoder."""
    saved = cards.settings(cards.read(encoders.find(init)))
    if not isinstance(saved, Settings):
        raise ValueError(f"{init} is no encoder of seq2seq. Expected one that pretraining with seq2seq saved.")
    if (saved.task == "next") != (settings.task == "next"):
        raise ValueError(
            f"{init} was trained for the task {saved.task}, and its network reads "
            f"{'one way' if saved.task == 'next' else 'both ways'}. For the task {settings.task} another is needed: "
            f"pretrain it with --task {'next' if settings.task == 'next' else 'denoise'}."
        )
    kept = network_settings_from(settings, saved, NETWORK, init)
    if settings.symbols and saved.symbols:
        kept["alphabet"] = saved.alphabet
    kept["fresh_targets"] = settings.symbols != saved.symbols  # the same numbers would mean something else
    return dataclasses.replace(settings, tokenizer=str(init), **kept), encoders.load_tokenizer(init)


def encoder(settings, spec):
    """A fresh encoder graph: tokens (B, T) -> states (B, T, D)."""
    return recurrent.recurrent_encoder(
        settings.vocabulary, settings.width, settings.layers, cell=settings.cell, both_ways=settings.task != "next"
    )


def head(settings, spec=None):
    """A fresh decoder graph, see `recurrent.attending_decoder`."""
    return recurrent.attending_decoder(
        settings.targets, settings.width, settings.layers, settings.width, cell=settings.cell
    )


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    network = encoder if isinstance(encoder, keras.Model) else encoder(settings, spec)
    names = {layer.name for layer in network.layers}
    if not {"embeddings", "recurrent_0"} <= names:
        raise ValueError(
            "The encoder must be a graph of networks.recurrent.recurrent_encoder: its parts are needed for more than "
            f"calling it. Received: layers {sorted(names)[:5]}"
        )
    return Seq2Seq(settings, network, None if settings.task == "next" else head(settings))


class Seq2Seq(Objective):
    """Holds `encoder` and, but for the task next, `head`, the decoder."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="seq2seq")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.accuracy = keras.metrics.Mean("accuracy")
        self.decoder = head and beam_search.Decoder(encoder, head, settings.end, settings.context)
        self.not_taken_over = ("embeddings/tokens",) if settings.fresh_targets else ()

    def views(self, batch, draws):
        """What is trained on: as `held_out_views`, and the numbers that dropout and sampling need."""
        settings = self.settings
        made = self.held_out_views(batch, draws)
        if settings.dropout:
            networks = [self.encoder] if self.head is None else [self.encoder, self.head]
            places = sum(1 + len(recurrent.layers_of(network, recurrent.Recurrent)) for network in networks)
            made["dropout"] = draws.uniform("dropout", (places, settings.width))
        if settings.sampling:
            own = draws.uniform("sampling", (settings.context + 1,)) < settings.sampling
            made["own"] = own[:, : tf.shape(made["target"])[1]]
        return made

    def held_out_views(self, batch, draws):
        """`tokens` (B, T) int32 the source and, but for the task next, `target` (B, U) with its end, both as
        short as the longest of the batch."""
        settings = self.settings
        if settings.task == "next":
            return language.crop(batch, draws, settings.context + settings.horizon)
        tokens, target = batch["tokens"], batch.get("target", batch["tokens"])
        if settings.task == "denoise":
            tokens = hidden(tokens, settings.mask_token, settings.share, settings.span, draws)
        elif settings.task == "continue":
            tokens, target = divided(tokens, settings.horizon, draws)
        return {
            "tokens": trimmed(tokens), "target": trimmed(ended(target, settings.end, settings.context)),
            "weight": batch["weight"],
        }

    def train_step(self, batch):
        mean, count = self.descend(self.smoothed_errors, batch)
        self.loss_metric.update_state(mean, count)

    def test_step(self, batch):
        total, count = self.errors(batch, self.logits(batch))
        self.loss_metric.update_state(tf.math.divide_no_nan(total, count), count)

    def smoothed_errors(self, batch):
        """`errors` with dropout, the decoder's own guesses and smoothing, where they are asked for."""
        guesses = tf.argmax(self.logits(batch), -1, tf.int32) if self.settings.sampling else None
        return self.errors(batch, self.logits(batch, self.drop(batch), guesses), self.settings.smoothing)

    def errors(self, batch, logits, smoothing=0.0):
        """Summed loss and (weighted) number of target tokens; updates `accuracy`."""
        target = self.target(batch)  # (B, U)
        weight = tf.cast(target >= 0, tf.float32) * example_weight(batch)[:, None]
        hit = tf.equal(tf.argmax(logits, -1, tf.int32), target)
        self.accuracy.update_state(tf.cast(hit, tf.float32), weight)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(target, 0), logits)
        if smoothing:
            uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)  # mean of -log P over tokens
            loss = (1 - smoothing) * loss + smoothing * uniform
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def target(self, batch):
        """(B, U) int32, -1 is padding."""
        return batch["tokens"][:, self.settings.horizon :] if self.head is None else batch["target"]

    def logits(self, batch, drop=None, guesses=None):
        """(B, U, V) float32, of target token u from the source and the target before it.

        Args:
            batch: as `views` makes it.
            drop: what is done to what layers take, or None.
            guesses: (B, U) int32, to be read in place of the true target where `batch["own"]` says so.
        """
        tokens = batch["tokens"]
        if self.head is None:
            tokens = tokens[:, : -self.settings.horizon]
        states = recurrent.encode(self.encoder, tokens, drop) if drop else self.encoder(tokens)
        if self.head is None:
            return recurrent.logits(self.encoder, states)
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

    def drop(self, batch):
        """Dropout, a function of (B, ·, D) that takes the next of the batch's masks at each call; or None."""
        if not self.settings.dropout:
            return None
        rate = self.settings.dropout
        masks = iter(tf.unstack(tf.cast(batch["dropout"] >= rate, tf.float32) / (1 - rate), axis=1))  # P of (B, D)
        return lambda x: x * tf.cast(next(masks), x.dtype)[:, None]

    def pictures(self, batch):
        """For TensorBoard: where each target token (row) looks in the source, by the last layer."""
        if self.head is None:
            return {}
        tokens = batch["tokens"][:PICTURED]
        weights = recurrent.alignments(self.head, self.before(batch)[:PICTURED], self.encoder(tokens), tokens)
        weights = tf.repeat(tf.repeat(weights, PICTURED_PIXELS, axis=1), PICTURED_PIXELS, axis=2)
        return {"attention": [tf.pad(weights, [[0, 0], [2, 2], [2, 2]], constant_values=0.5)[..., None]]}

    def texts(self, batch, tokenizer):
        """For TensorBoard: what it makes of held-out sources, beside what is right."""
        if self.head is None:
            return {}
        made = self.decoder.greedy(batch["tokens"][:SHOWN]).numpy()
        lines = ["| source | target | decoded |", "|---|---|---|"]
        for source, target, row in zip(batch["tokens"].numpy(), batch["target"].numpy(), made):
            texts = (translation.text_of(self.settings, tokenizer, ids) for ids in (target, row))
            cells = tokenizer.decode(source), *texts
            lines.append("| " + " | ".join(cell.replace("|", "¦").replace("\n", "⏎") for cell in cells) + " |")
        return {"decoded": "\n".join(lines)}

    def qualities(self, splits):
        """For TensorBoard: of some validation pairs, decoded greedily, how many symbols are wrong."""
        if self.settings.task != "pairs":
            return {}
        right = {}  # all targets of each source
        for source, target in zip(splits.validation.column("tokens"), splits.validation.column("target")):
            right.setdefault(tuple(source), []).append([int(i) for i in target if i >= 0])
        some = [list(right)[index] for index in spread(len(right), JUDGED)]
        made = beam_search.write(self.decoder, np.array(some, np.int32))
        rates = error_rates(made, [right[source] for source in some])
        return dict(zip(("quality/symbol_error_rate", "quality/sequence_error_rate"), rates))

    def projections(self, splits):
        return language.projections(self.encoder, splits.train.tokenizer)


def ended(target, end, most):
    """(B, U) -> (B, U + 1): the end after the last token of each row, but of those of `most` tokens: they were cut."""
    target = tf.pad(target, [[0, 0], [0, 1]], constant_values=-1)
    length = tf.reduce_sum(tf.cast(target >= 0, tf.int32), 1, keepdims=True)  # (B, 1)
    return tf.where((tf.range(target.shape[1]) == length) & (length < most), end, target)


def trimmed(tokens):
    """(B, T) -> (B, the longest row's length, at least 1)."""
    longest = tf.reduce_max(tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), 1))
    return tokens[:, : tf.maximum(longest, 1)]


def hidden(tokens, mask, share, span, draws):
    """(B, T) with spans of about a `share` of each row's tokens replaced by `mask`; where none is drawn, one."""
    width = tokens.shape[1]
    length = tf.cast(tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), 1, keepdims=True), tf.float32)  # (B, 1)
    key = draws.uniform("spans", (width,))  # (B, T): a span begins where it is low
    starts = key < 1 - (1 - share) ** (1 / span)  # a token is spared if none of `span` begins before it
    first = tf.cast(draws.uniform("first", ()) * length[:, 0], tf.int32)[:, None]
    inside = tf.range(width) < tf.cast(length, tf.int32)
    starts |= (tf.range(width) == first) & ~tf.reduce_any(starts & inside, axis=1, keepdims=True)
    covered = tf.zeros_like(starts)
    for shift in range(min(span, width)):
        covered |= tf.pad(starts, [[0, 0], [shift, 0]])[:, :width]
    return tf.where(covered & (tokens >= 0), mask, tokens)


def divided(tokens, horizon, draws):
    """(B, T) cut at a place t drawn for each row: x₁…x_t, and what comes from x_{t+h} on; both (B, T).

    A row of h tokens or fewer has its first token as source, and nothing as target (which then ends at once).
    """
    width = tokens.shape[1]
    length = tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), 1)  # (B,)
    choices = tf.maximum(length - horizon, 1)
    cut = 1 + tf.minimum(tf.cast(draws.uniform("cut", ()) * tf.cast(choices, tf.float32), tf.int32), choices - 1)
    before = tf.where(tf.range(width) < cut[:, None], tokens, -1)
    place = tf.range(width) + cut[:, None] + horizon - 1
    after = tf.gather(tokens, tf.minimum(place, width - 1), batch_dims=1)
    return before, tf.where(place < width, after, -1)
