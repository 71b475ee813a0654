"""wav2vec 2.0 (Baevski et al. 2020): identify the quantized features of masked frames of speech.

Section 6 of the tutorial mentions speech. A front end computes features z of a waveform's frames. Spans
of them are masked (their section 3.1), and a context network computes states c. Each feature is quantized to q
by one entry of each of G codebooks with V entries, chosen by a straight-through Gumbel softmax (equation 1).
The loss of a masked frame t, averaged over masked frames, is (equations 2 to 4)

    −log exp(s(c_t, q_t)/κ) / Σ_{q̃ ∈ Q} exp(s(c_t, q̃)/κ)  +  α · (G·V − Σ_g exp(H(p̄_g))) / (G·V),

where s is the cosine similarity of projections, Q holds q_t and its distractors, and p̄_g is the mean of codebook
g's probabilities over masked frames. The second term encourages equal use of the entries.

Departures: the distractors are all other masked frames of the clip, not a sample of a hundred, and optionally some
frames of every other clip of the batch, on all replicas. A frame with the same codes as the true one is not
a distractor. At least one frame of each clip is masked. The diversity term is that of the authors' code instead
of equation 4's entropy. There is no dropout, and the front end's gradients are not scaled down. The last
checkpoint is saved, not the best.

Shapes: `B` batch (`b` a replica's part), `L` samples, `T` frames, `C` features, `D` width, `Z` projection,
`G V` codebooks and their entries, `P` frames sampled from all clips.

Metrics: `loss`, nats per masked frame plus the weighted diversity term; `accuracy`, top-1 among the distractors,
in [0, 1]; `codes`, perplexity of the chosen entries per codebook, at most V (1 is collapse); `gradient_norm`
(training only).
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
MIN_LOG = 1e-7  # added to a probability, so that its logarithm is finite
COLLAPSED = 1.5  # perplexity of the codebooks below which a run warns


@dataclasses.dataclass(frozen=True)
class Settings(sound.Settings):
    """The waveform encoder, the masking, the quantizer and the loss."""

    mask_ratio: Annotated[float, Range(0, 1, open="both")] = 0.5
    """Approximate fraction of frames to mask."""
    mask_span: Annotated[int, Range(1, 100)] = 5
    """Length of a masked span, in frames of 20 ms."""
    codebooks: Annotated[int, Range(1, 64)] = 2
    """Number of codebooks of the quantizer (G in the paper)."""
    codes: Annotated[int, Range(2, 1 << 14)] = 64
    """Number of entries in each codebook (V in the paper)."""
    projection: Annotated[int, Range(1, 1 << 12)] = 128
    """Size of the projections of context states and quantized features, which are compared."""
    cross_clip_negatives: Annotated[int, Range(0, 1 << 10)] = 0
    """Number of frames from each other clip of the batch that are added to the negatives. 0 takes negatives only from
    the same clip. Negatives of other speakers differ in voice, so the features also encode the speaker."""
    temperature: Annotated[float, Range(0, open="low")] = 0.1
    """Temperature κ, which divides the cosine similarities."""
    diversity: Annotated[float, Range(0)] = 0.1
    """Weight α of the codebook diversity loss. 0 disables it."""
    gumbel_start: Annotated[float, Range(0, open="low")] = 2.0
    """Temperature of the Gumbel softmax at the first step."""
    gumbel_end: Annotated[float, Range(0, open="low")] = 0.5
    """Minimum temperature of the Gumbel softmax, at which the decay stops."""
    gumbel_decay: Annotated[float, Range(0, 1, open="low")] = 0.999
    """Factor by which the temperature of the Gumbel softmax is multiplied in each step. 1 keeps it constant."""

    def __post_init__(self):
        super().__post_init__()
        if self.gumbel_end > self.gumbel_start:
            raise ValueError(
                f"gumbel_end must be at most gumbel_start, {self.gumbel_start}. Received: {self.gumbel_end}"
            )


prepare = sound.prepare
encoder = sound.encoder


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    network = sound.chosen_encoder(settings, spec, encoder)
    return Wav2Vec2(settings, network, Quantizer(settings.codebooks, settings.codes, settings.projection))


class Wav2Vec2(Objective):
    """Holds `encoder` and `quantizer`; trains both to identify masked frames of `batch["waveform"]`."""

    # The last checkpoint is kept, since the lowest loss is that of collapsed codes, which leave no distractors.
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
        """Returns `preprocess_eval`'s batch, augmented, with Gumbel noise `gumbel` (B, T, G, V) for the quantizer."""
        settings = self.settings
        x = augment_audio.change(self._crop(batch, random), random, settings, settings.rate, settings.samples)
        batch = self._mask(x, batch, random)
        u = random.uniform("gumbel", (settings.frames, settings.codebooks, settings.codes))
        u = u[:, : tf.shape(batch["mask"])[1]]
        return batch | {"gumbel": -tf.math.log(MIN_LOG - tf.math.log(u + MIN_LOG))}

    def preprocess_eval(self, batch, random):
        """Returns cropped clips and their mask.

        `waveform` (B, L) is float32; `mask` (B, T) bool is True for masked frames; `pool` (B, others) in [0, 1)
        chooses the clip's frames that are distractors for other clips.
        """
        return self._mask(self._crop(batch, random), batch, random)

    def _crop(self, batch, random):
        return audio.unit_range(augment_audio.cut(batch["waveform"], self.settings.samples, random))

    def _mask(self, x, batch, random):
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

    def gumbel_temperature(self):
        """Returns the temperature of the Gumbel softmax at the current step."""
        settings = self.settings
        return tf.maximum(
            settings.gumbel_end, settings.gumbel_start * settings.gumbel_decay ** tf.cast(self.step, tf.float32)
        )

    def batch_loss(self, batch):
        """Returns the summed loss and the weighted number of masked frames; updates `accuracy` and `codes`."""
        features, places = waveform.features(self.encoder, batch["waveform"])  # (b, T, C)
        mask = batch["mask"][..., None]
        states = waveform.context(
            self.encoder, features, places, lambda x: tf.where(mask, tf.cast(self.quantizer.hidden, x.dtype), x)
        )
        hard, soft = self.quantizer.choose(features, batch.get("gumbel"), self.gumbel_temperature())
        weight = tf.cast(batch["mask"], tf.float32) * example_weight(batch)[:, None]  # (b, T)
        loss, right = contrastive_loss(
            self.quantizer.states(states),
            self.quantizer.codes_of(hard),
            tf.argmax(hard, -1, tf.int32),
            batch["mask"],
            places,
            batch["pool"],
            example_weight(batch),
            self.settings.temperature,
        )
        perplexity, count = codebook_perplexity(soft, weight), tf.reduce_sum(weight)
        self.accuracy.update_state(right, weight)
        self.codes.update_state(tf.reduce_mean(codebook_perplexity(tf.stop_gradient(hard), weight)), count)
        return tf.reduce_sum(weight * loss) + count * self.settings.diversity * (
            1 - tf.reduce_mean(perplexity) / self.settings.codes
        ), count

    def warnings(self, logs):
        if logs.get("codes", self.settings.codes) < COLLAPSED:
            return [f"the codebooks have collapsed: their perplexity is {logs['codes']:.2f} of {self.settings.codes}."]
        return []

    def report(self, batch, examples, splits):
        """Clips, their spectrograms without and with masked frames, and a histogram of codes."""
        shown, rate = (None, ~batch["mask"]), self.settings.rate
        features, places = waveform.features(self.encoder, examples()["waveform"])
        hard, _ = self.quantizer.choose(features, None, 1.0)
        return Report(
            images={"hidden": [sound.spectrograms(self.encoder, rate, batch["waveform"], each) for each in shown]},
            audio={"clips": (batch["waveform"], rate)},
            histograms={"codes": tf.reshape(tf.boolean_mask(tf.argmax(hard, -1), places >= 0), [-1])},
        )


def contrastive_loss(states, targets, codes, mask, places, pool, weight, temperature):
    """Returns the contrastive loss of each frame in nats, and 1.0 where its own target is most likely; (b, T) each.

    Args:
        states, targets: (b, T, Z) projections of states and of quantized features, of any norm.
        codes: (b, T, G) int32, the targets' codebook entries.
        mask: (b, T) bool, True for masked frames.
        places: (b, T) int32, −1 for padding.
        pool: (b, others) in [0, 1), chooses the clip's frames that are distractors for other clips.
        weight: (b,) 0 for padding.
        temperature: κ, divides the cosine similarities.
    """
    states, targets = losses.l2_normalize(states), losses.l2_normalize(targets)
    positive = tf.reduce_sum(states * targets, -1) / temperature  # (b, T)
    similarity = tf.matmul(states, targets, transpose_b=True) / temperature  # (b, T, T)
    distractor = mask[:, None] & ~tf.reduce_all(tf.equal(codes[:, :, None], codes[:, None]), -1)  # equal codes excluded
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
    right = (best < positive) & (best > losses.FAR)  # without distractors, no frame counts as right
    return tf.reduce_logsumexp(logits, -1) - positive, tf.cast(right, tf.float32)


def codebook_perplexity(probabilities, weight):
    """Returns the perplexity of each codebook's mean probabilities over all replicas' masked frames: (G,) in 1 … V.

    Args:
        probabilities: (b, T, G, V).
        weight: (b, T), 0 for frames that are not masked.
    """
    local = tf.concat([tf.reshape(tf.einsum("bt,btgv->gv", weight, probabilities), [-1]), [tf.reduce_sum(weight)]], 0)
    total = tf.reduce_sum(losses.all_gather(local[None]), 0)
    mean = tf.reshape(tf.math.divide_no_nan(total[:-1], total[-1]), probabilities.shape[2:])
    return tf.exp(-tf.reduce_sum(mean * tf.math.log(mean + MIN_LOG), -1))
