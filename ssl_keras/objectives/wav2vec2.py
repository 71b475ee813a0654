"""wav2vec 2.0: from the frames around it, tell which of many a hidden frame of a clip was.

Baevski et al. 2020; for the tutorial's section 6, which names speech; was `speech`. A front end makes features
z of a waveform's frames; spans of them are
hidden (their section 3.1), and a context network gives states c. Each feature is quantized: of G codebooks
with V entries one of each is taken by Gumbel softmax, straight through (equation 1), and joined to q.
For every hidden frame t (equations 2 to 4):

    −log exp(s(c_t, q_t)/κ) / Σ_{q̃ ∈ Q} exp(s(c_t, q̃)/κ)  +  α · (G·V − Σ_g exp(H(p̄_g))) / (G·V),

s the cosine of projections, Q the true one and the distractors, p̄_g the mean use of codebook g over hidden
frames: entries are to be used alike. Averaged over hidden frames.

Departures: the distractors are all other hidden frames of the clip, not a hundred drawn of them, and (an
option) some frames of every other clip of the batch, on whichever replica; one whose code is the true one is no
distractor. At least one frame of each clip is hidden. The diversity term is that of the authors' code, in
place of equation 4's entropy. No dropout; features are not scaled back. The last checkpoint is the encoder's.

Shapes: `B` batch (`b` a replica's part), `L` samples, `T` frames, `C` features, `D` width, `Z` projection,
`G V` codebooks and their entries, `P` frames of all clips.

Metrics: `loss`, nats per hidden frame and the weighted diversity term; `accuracy`, the share of hidden
frames whose own code is the likeliest; `codes`, how many entries of each codebook are in even use, of V
(exp of the entropy of what was chosen; 1 is collapse); `gradient_norm` (training only).
"""

import dataclasses
from typing import Annotated

import keras
import tensorflow as tf

from ssl_keras import losses
from ssl_keras.data import audio, augment_audio, masking
from ssl_keras.data.ranges import Range
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import sound
from ssl_keras.networks import waveform
from ssl_keras.networks.quantizer import Quantizer

DEFAULTS = Training(
    data="tfds:spoken_digit[*_theo_*]",
    steps=4000,
    batch_size=64,
    learning_rate=1e-3,
    schedule="cosine",
    final_rate=0.01,
    warmup=400,
    clip_norm=1.0,
    weight_decay=0.01,
    eval_every=200,
    report_every=5,
)
MIN_LOG = 1e-7  # added to a probability before its logarithm is taken
COLLAPSED = 1.5  # codes in use


@dataclasses.dataclass(frozen=True)
class Settings(sound.Settings):
    """A network for waveforms, what is hidden of them, and what hidden frames are told from."""

    mask_ratio: Annotated[float, Range(0, 1, open="both")] = 0.5
    """Of frames that are hidden, about."""
    mask_span: Annotated[int, Range(1, 100)] = 5
    """Hidden frames in a row; a frame is 20 ms."""
    codebooks: Annotated[int, Range(1, 64)] = 2
    """G."""
    codes: Annotated[int, Range(2, 1 << 14)] = 64
    """V, entries of each codebook."""
    projection: Annotated[int, Range(1, 1 << 12)] = 128
    """Features in which states and codes are compared."""
    cross_clip_negatives: Annotated[int, Range(0, 1 << 10)] = 0
    """Frames of each other clip that are distractors too. They can be told by the voice, so states learn who speaks."""
    temperature: Annotated[float, Range(0, open="low")] = 0.1
    """κ, what cosines are divided by."""
    diversity: Annotated[float, Range(0)] = 0.1
    """α, the weight of the codes' diversity."""
    gumbel_start: Annotated[float, Range(0, open="low")] = 2.0
    """The Gumbel softmax's temperature at first."""
    gumbel_end: Annotated[float, Range(0, open="low")] = 0.5
    """And at last."""
    gumbel_decay: Annotated[float, Range(0, 1, open="low")] = 0.999
    """By which it is multiplied at each step."""

    def __post_init__(self):
        super().__post_init__()
        if self.gumbel_end > self.gumbel_start:
            raise ValueError(
                f"gumbel_end must be at most gumbel_start, {self.gumbel_start}. Received: {self.gumbel_end}"
            )


prepare = sound.prepare
encoder = sound.encoder


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    network = sound.chosen_encoder(settings, spec, encoder)
    return Wav2Vec2(settings, network, Quantizer(settings.codebooks, settings.codes, settings.projection))


class Wav2Vec2(Objective):
    """Holds `encoder` and `quantizer`; trains both to tell hidden frames of `batch["waveform"]`."""

    # The lowest loss of all is that of collapsed codes: where all frames have one, there is nothing to tell apart.
    batch_coupled, min_batch_size, keep_last_checkpoint = True, 2, True

    def __init__(self, settings, encoder, quantizer):
        super().__init__(name="wav2vec2")
        self.settings, self.encoder, self.quantizer = settings, encoder, quantizer
        self.longest = settings.samples
        sizes = encoder.get_layer("features").output.shape, encoder.get_layer("norm").output.shape
        quantizer.build(*sizes)
        quantizer.built = True
        self.accuracy = keras.metrics.Mean("accuracy")
        self.codes = keras.metrics.Mean("codes")

    def preprocess(self, batch, random):
        """As `preprocess_eval`, changed, and with `gumbel` (B, T, G, V), the noise that codes are chosen with."""
        settings = self.settings
        x = augment_audio.change(self._cut(batch, random), random, settings, settings.rate, settings.samples)
        made = self._hidden(x, batch, random)
        u = random.uniform("gumbel", (settings.frames, settings.codebooks, settings.codes))
        u = u[:, : tf.shape(made["mask"])[1]]
        return made | {"gumbel": -tf.math.log(MIN_LOG - tf.math.log(u + MIN_LOG))}

    def preprocess_eval(self, batch, random):
        """`waveform` (B, L) float32, cut to length; `mask` (B, T) bool, the hidden frames; `pool` (B, others) in
        [0, 1), which say what frames other clips have as distractors."""
        return self._hidden(self._cut(batch, random), batch, random)

    def _cut(self, batch, random):
        return audio.unit_range(augment_audio.cut(batch["waveform"], self.settings.samples, random))

    def _hidden(self, x, batch, random):
        settings = self.settings
        valid = self.encoder.get_layer("frames")(x) >= 0
        return {
            "waveform": x,
            "mask": masking.mask_spans(valid, settings.mask_ratio, settings.mask_span, random, settings.frames),
            "pool": random.uniform("pool", (settings.cross_clip_negatives,)),
            "weight": batch["weight"],
        }

    def train_step(self, batch):
        self.descend(self.batch_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch))

    def heat(self):
        """The Gumbel softmax's temperature at this step."""
        settings = self.settings
        return tf.maximum(
            settings.gumbel_end, settings.gumbel_start * settings.gumbel_decay ** tf.cast(self.step, tf.float32)
        )

    def batch_loss(self, batch):
        """Summed loss and (weighted) number of hidden frames; updates `accuracy` and `codes`."""
        features, places = waveform.features(self.encoder, batch["waveform"])  # (b, T, C)
        mask = batch["mask"][..., None]
        states = waveform.context(
            self.encoder, features, places, lambda x: tf.where(mask, tf.cast(self.quantizer.hidden, x.dtype), x)
        )
        hard, soft = self.quantizer.choose(features, batch.get("gumbel"), self.heat())
        weight = tf.cast(batch["mask"], tf.float32) * example_weight(batch)[:, None]  # (b, T)
        loss, right = contrast(
            self.quantizer.states(states),
            self.quantizer.codes_of(hard),
            tf.argmax(hard, -1, tf.int32),
            batch["mask"],
            places,
            batch["pool"],
            example_weight(batch),
            self.settings.temperature,
        )
        use, count = in_use(soft, weight), tf.reduce_sum(weight)
        self.accuracy.update_state(right, weight)
        self.codes.update_state(tf.reduce_mean(in_use(tf.stop_gradient(hard), weight)), count)
        return tf.reduce_sum(weight * loss) + count * self.settings.diversity * (
            1 - tf.reduce_mean(use) / self.settings.codes
        ), count

    def warnings(self, logs):
        if logs.get("codes", self.settings.codes) < COLLAPSED:
            return [f"The codebooks have collapsed: {logs['codes']:.2f} of {self.settings.codes} entries are in use."]
        return []

    def report(self, batch, examples, splits):
        """Clips, their spectrograms, below them the same without the hidden frames, and which codes are used."""
        shown, rate = (None, ~batch["mask"]), self.settings.rate
        features, places = waveform.features(self.encoder, examples()["waveform"])
        hard, _ = self.quantizer.choose(features, None, 1.0)
        return Report(
            images={"hidden": [sound.spectrograms(self.encoder, rate, batch["waveform"], each) for each in shown]},
            audio={"clips": (batch["waveform"], rate)},
            histograms={"codes": tf.reshape(tf.boolean_mask(tf.argmax(hard, -1), places >= 0), [-1])},
        )


def contrast(states, targets, codes, mask, places, pool, weight, temperature):
    """−log of the true code's share among the distractors', and whether it is the likeliest; both (b, T).

    Args:
        states, targets: (b, T, Z) projections of states and of what was quantized, of any length.
        codes: (b, T, G) int32, the entries that targets are of.
        mask: (b, T) bool, hidden frames. places: (b, T) int32, −1 for padding.
        pool: (b, others) in [0, 1): which of a clip's frames are distractors for the other clips.
        weight: (b,) 0 for clips that are none.
        temperature: κ.
    """
    states, targets = losses.l2_normalize(states), losses.l2_normalize(targets)
    positive = tf.reduce_sum(states * targets, -1) / temperature  # (b, T)
    similarity = tf.matmul(states, targets, transpose_b=True) / temperature  # (b, T, T)
    distractor = mask[:, None] & ~tf.reduce_all(tf.equal(codes[:, :, None], codes[:, None]), -1)  # its own code is none
    logits = [positive[..., None], tf.where(distractor, similarity, losses.FAR)]
    if pool.shape[1]:
        frames = tf.cast(masking.lengths(places)[:, None], tf.float32)
        chosen = tf.cast(pool * frames, tf.int32)  # (b, others)
        theirs, their_codes = (
            losses.all_gather(tf.gather(x, chosen, batch_dims=1)) for x in (targets, codes)
        )  # (B, others, ·)
        clips = tf.range(tf.shape(theirs)[0])
        other = (losses.all_gather(weight) > 0) & (clips != losses.own_rows(tf.shape(states)[0])[:, None])  # (b, B)
        other = tf.repeat(other, pool.shape[1], axis=1)[:, None]  # (b, 1, P)
        theirs, their_codes = (tf.reshape(x, (-1, x.shape[-1])) for x in (theirs, their_codes))
        across = tf.tensordot(states, theirs, [[-1], [-1]]) / temperature  # (b, T, P)
        other &= ~tf.reduce_all(tf.equal(codes[:, :, None], their_codes), -1)
        logits.append(tf.where(other, across, losses.FAR))
    logits = tf.concat(logits, -1)
    best = tf.reduce_max(logits[..., 1:], -1)
    right = (best < positive) & (best > losses.FAR)  # without a distractor nothing was told
    return tf.reduce_logsumexp(logits, -1) - positive, tf.cast(right, tf.float32)


def in_use(shares, weight):
    """exp of the entropy of each codebook's mean shares over all replicas' hidden frames: (G,) in 1 … V.

    Args:
        shares: (b, T, G, V). weight: (b, T), 0 where a frame is not hidden.
    """
    local = tf.concat([tf.reshape(tf.einsum("bt,btgv->gv", weight, shares), [-1]), [tf.reduce_sum(weight)]], 0)
    everywhere = tf.reduce_sum(losses.all_gather(local[None]), 0)
    mean = tf.reshape(tf.math.divide_no_nan(everywhere[:-1], everywhere[-1]), shares.shape[2:])
    return tf.exp(-tf.reduce_sum(mean * tf.math.log(mean + MIN_LOG), -1))
