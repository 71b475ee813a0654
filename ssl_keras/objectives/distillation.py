"""Distillation: a small encoder learns the features of a frozen saved encoder, its teacher (SEED, Fang et al. 2021).

The teacher's features t of every example are computed once, without augmentation (`evaluation/stored.py`). The student
sees an augmented image, or the same text or clip; a projection, which is discarded, maps its features s to p. Losses:

- `cosine`: 1 − cos(p, t), a regression of the teacher's features.
- `components`: 1 − cos(s, Vᵀt), where V has as many principal components of the teacher's features (uncentered, of unit
  length) as the student has features. So cosines of s are those of t, as nearly as its dimension allows, and nothing is
  discarded. The token embeddings of a text student start from the components of the teacher's features of each token
  alone (Tulkens & van Dongen 2024, Model2Vec).
- `similarity`: the cross-entropy between two distributions over candidates c, softmax of cos(t, c)/τ_T and of
  cos(p, c)/τ_S (SEED, section 3.2). The student learns how similar the teacher finds two examples.

Departures from SEED: the candidates are the teacher's features of the batch, on all replicas, and not of a queue of
earlier batches. So replicas equal one device, and the teacher's temperature is higher, since among few candidates its
distribution would otherwise be that of the example itself. The teacher sees no augmented image. For its encoder
instead of its projection head, and for texts and audio, SEED has no recipe. Texts and clips of a batch have similar
lengths.

Shapes: `B` batch (`b` a replica's part), `D` features of the teacher, `S` features of the student, `V` tokens.

Metrics: `loss`, in [0, 2] for cosine and components, and nats per example for similarity (it depends on the batch
size); `cosine`, the mean of cos(p, t) or cos(s, Vᵀt), in [−1, 1]; `gradient_norm` (training only).
"""

import dataclasses
import logging
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import encoders, losses
from ssl_keras.data import audio, inputs, masking
from ssl_keras.data.augment_images import augment
from ssl_keras.data.passages import cut_into_passages
from ssl_keras.data.ranges import Range
from ssl_keras.data.splits import Splits
from ssl_keras.data.tokens import tokenize_texts, with_lengths
from ssl_keras.encoders import card as cards
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.evaluation import stored
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.modalities import language, sound, vision
from ssl_keras.networks import description, pooled_features, realize, transformer, waveform
from ssl_keras.networks.projector import projector
from ssl_keras.networks.vit_block import draw_depth, stochastic_depth

DEFAULTS = Training(
    epochs=50,
    batch_size=256,
    learning_rate=2e-3,
    schedule="cosine",
    final_rate=0.0,
    warmup=200,
    weight_decay=1e-4,
    clip_norm=1.0,
)
LOSSES = ("cosine", "similarity", "components")
ONE_SIGN = ("convolution", "dense")  # kinds of networks whose features come from a ReLU
SAMPLE = 1 << 14  # examples that the principal components are computed from
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The teacher and the loss; the student's network, for the kind of data that the teacher takes."""

    teacher: str = ""
    """Name or path of the saved encoder whose features the student learns. Its weights stay as they are."""
    loss: Literal[*LOSSES] = "cosine"
    """Loss: regression of the teacher's features (cosine), of their principal components without a projection
    (components; for text, audio and vit), or of its similarities between the examples of a batch, as in SEED
    (similarity)."""
    temperature: Annotated[float, Range(0, open="low")] = 0.2
    """Temperature of the student's similarities (loss similarity)."""
    teacher_temperature: Annotated[float, Range(0, open="low")] = 0.04
    """Temperature of the teacher's similarities (loss similarity). A lower one sharpens their distribution."""
    projection: Annotated[int, Range(0, 1 << 14)] = 0
    """Number of hidden units in the projection from the student's features to the teacher's, which is discarded after
    training. 0 makes it linear. The loss components has no projection."""
    width: Annotated[int, Range(0, 1 << 12)] = 0
    """Size of the student: number of channels in the first stage of an image encoder, or hidden size of a text or audio
    encoder. 0 uses the default of the architecture."""
    layers: Annotated[int, Range(0, transformer.MAX_LAYERS)] = 0
    """Number of transformer blocks of a text or audio encoder, or of the image encoder vit. 0 uses the default: 4 for
    text, 3 for audio, 6 for vit."""
    heads: Annotated[int, Range(0, 1 << 10)] = 0
    """Number of attention heads per block of a text or audio encoder. 0 uses the default, 4."""
    architecture: Literal[*transformer.ARCHITECTURES] = "modern"
    """Architecture of a text encoder, whose tokens attend to both sides: gpt2, bert, llama (as published) or modern."""
    context: Annotated[int, Range(0, transformer.MAX_CONTEXT)] = 0
    """Maximum sequence length of a text encoder, in tokens. 0 uses the default, 128."""
    passage: Annotated[int, Range(16)] = 400
    """Maximum length of a text, in characters. Longer ones are cut into passages, each of which is an example."""
    tokenizer: str = ""
    """Tokenizer of a text encoder: a kind to train on the run's text, or the path of a tokenizer.json. By default that
    of the encoder in --init, else that of the teacher."""
    vocabulary: Annotated[int, Range(0, 1 << 24)] = 0
    """Maximum vocabulary size of a tokenizer that the run trains, in tokens. 0 uses the default, 2048."""
    frontend: Literal[*waveform.FRONTS] = "convolution"
    """Front end of an audio encoder: convolutions on the samples, or a log-mel spectrogram."""
    rate: Annotated[int, tyro.conf.Suppress] = 0  # these have no flags: `prepare` sets them
    teacher_weights: Annotated[str, tyro.conf.Suppress] = ""


TEXT = ("architecture", "layers", "heads", "width", "context", "tokenizer", "vocabulary")
AUDIO = ("frontend", "layers", "heads", "width", "rate")
STUDENTS = {  # by the column of the data: the kind of data, the settings of its students
    "image": ("images", tuple(field.name for field in dataclasses.fields(vision.Settings))),
    "tokens": ("text", (*TEXT, "passage")),
    "waveform": ("audio", AUDIO),
}


def prepare(settings, splits, init=None):
    """Computes the teacher's features, the column "features", and prepares the data for the student.

    Raises:
        ValueError: no teacher; the data do not fit it; its features are not finite; a setting is for other data.
    """
    card = teacher_card(settings)
    kind = inputs.column(card["input"])
    _check_settings(settings, kind, card)
    if cards.license_of(card) == cards.UNKNOWN:
        log.warning("The card of %s names no licenses. Check what its weights and its data permit.", card["name"])
    if "text2" in splits.train.arrays:
        raise ValueError(
            f"{splits.train.name} has pairs of texts. Expected single texts for distillation. Rename the column text2."
        )
    if kind == "tokens" and "text" in splits.train.arrays:
        splits = cut_into_passages(splits, settings.passage)
    features = stored.compute(settings.teacher, splits)
    if kind == "image":
        settings, splits = vision.prepare(settings, splits, init)
    elif kind == "waveform":
        own, splits = sound.prepare(student(settings, kind), splits)
        settings, splits = dataclasses.replace(settings, rate=own.rate), audio.limit_lengths(splits)
    else:
        named = dataclasses.replace(
            settings, tokenizer=settings.tokenizer or str(encoders.find(init or settings.teacher))
        )
        own, tokenizer = language.prepare(student(named, kind), splits)
        settings = dataclasses.replace(settings, vocabulary=own.vocabulary)
        splits = Splits(*map(with_lengths, tokenize_texts(splits, tokenizer, own.context)))
    settings = dataclasses.replace(settings, teacher_weights=card["weights"]["sha256"][:16])
    return settings, Splits(*(stored.with_features(part, *each) for part, each in zip(splits, features)))


def teacher_card(settings):
    """Reads the card of the teacher. Raises ValueError if none is named, or there is none of this name."""
    if not settings.teacher:
        raise ValueError(
            f"distillation needs a teacher (--teacher). Expected one of {', '.join(sorted(encoders.available()))}, or "
            "the path of a saved encoder. Received: none"
        )
    return cards.read(encoders.find(settings.teacher))


def _check_settings(settings, kind, card):
    """Raises ValueError if a setting that is not at its default is for another kind of data than the teacher's."""
    content, own = STUDENTS[kind]
    others = {name for _, names in STUDENTS.values() for name in names} - set(own)
    wrong = [name for name in sorted(others) if getattr(settings, name) != getattr(Settings, name)]
    if wrong:
        raise ValueError(
            f"{card['name']} takes {content}. Expected settings for {content}: {', '.join(own)}. Received: "
            f"{', '.join(wrong)}. Leave these out."
        )


def student(settings, kind):
    """Returns the `Settings` of `modalities` for the student; those that are 0 or empty are at their defaults."""
    if kind == "image":
        return settings
    make, names = (language.Settings, TEXT) if kind == "tokens" else (sound.Settings, AUDIO)
    given = {name: getattr(settings, name) for name in names if getattr(settings, name)}
    if kind == "waveform" and settings.width:
        given["channels"] = settings.width
    return make(**given)


def encoder(settings, spec):
    """Returns the student, from images, tokens or waveforms to features (B, S) or states (B, T, S), as a `Network`."""
    kind = inputs.column(spec)
    if kind == "tokens":
        return language.trunk(student(settings, kind), causal=False)
    return (vision if kind == "image" else sound).encoder(student(settings, kind), spec)


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from the data to features or states.

    Raises:
        ValueError: there is no column of features; the encoder's input or output does not fit; the loss components with
            a projection, or with a network whose features have one sign.
    """
    if "features" not in spec:
        raise ValueError("The teacher's features are not in the data. Call prepare(settings, splits) first.")
    is_image = inputs.column(spec) == "image"
    network = vision.chosen_encoder(settings, spec, encoder) if is_image else realize(encoder, settings, spec)
    hidden, ((size,), _) = [settings.projection] * bool(settings.projection), spec["features"]
    card = teacher_card(settings)
    teacher = {"name": card["name"], "weights": card["weights"]["sha256"], "license": cards.license_of(card)}
    width = network.output_shape[-1]
    if settings.loss == "components":
        if hidden:
            raise ValueError(
                f"The loss components has no projection. Received: projection={settings.projection}. Leave it out."
            )
        described = description(network)
        if described is not None and described.kind in ONE_SIGN:
            raise ValueError(
                f"The loss components needs features of either sign, and those of {described.builder} are not "
                "negative. Use the loss cosine or similarity, or another network, such as vit."
            )
        return Distillation(settings, network, None, teacher, components=Components(size, width))
    return Distillation(settings, network, projector(width, (*hidden, size)), teacher)


def similarity(student, teacher, weight, temperature, teacher_temperature):
    """Cross-entropy between the similarities of teacher and student to candidates, (b,) nats (Fang et al. 2021).

    The candidates are the teacher's features of all replicas' examples, the example itself included.

    Args:
        student, teacher: (b, D) projections of the student, and features of the teacher, of any norm.
        weight: (b,) 0 for padding, which is not a candidate.
        temperature, teacher_temperature: divide the cosine similarities of student and teacher.
    """
    teacher = losses.l2_normalize(teacher)
    candidates, present = losses.all_gather(teacher), losses.all_gather(weight) > 0  # (B, D), (B,)

    def scores(x, temperature):
        return tf.where(present, tf.matmul(x, candidates, transpose_b=True) / temperature, losses.FAR)  # (b, B)

    target = tf.nn.softmax(scores(teacher, teacher_temperature))
    return tf.nn.softmax_cross_entropy_with_logits(target, scores(losses.l2_normalize(student), temperature))


class Components(keras.layers.Layer):
    """Principal components of the teacher's features, (b, D) -> (b, S). `adapt` sets them; they are not trained."""

    def __init__(self, size, count):
        super().__init__(name="components", dtype="float32", trainable=False)
        self.basis = self.add_weight((size, count), keras.initializers.Orthogonal(seed=0), name="basis")
        self.built = True

    def call(self, features):
        return tf.matmul(tf.cast(features, tf.float32), tf.convert_to_tensor(self.basis))

    def adapt(self, features):
        """Sets the first S components of features (N, D), scaled to unit length; beyond D they are 0.

        All D of them only rotate the features. Then the basis is the identity, so that a student which is made of the
        teacher's own layers starts near its target.
        """
        if min(self.basis.shape) == self.basis.shape[0]:
            self.basis.assign(np.eye(*self.basis.shape, dtype=np.float32))
            return
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        vectors = np.linalg.eigh(features.T.astype(np.float64) @ features)[1][:, ::-1]
        vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(len(vectors))])  # eigenvectors have no sign
        self.basis.assign(vectors[:, : self.basis.shape[1]])


class Distillation(Objective):
    """Holds `encoder`, and `projector` or `components`; trains on an image, tokens or a waveform, and "features"."""

    def __init__(self, settings, encoder, projector, teacher, components=None):
        super().__init__(name="distillation")
        self.settings, self.encoder, self.projector, self.teacher = settings, encoder, projector, teacher
        self.components = components
        self.batch_coupled = settings.loss == "similarity"
        self.min_batch_size = 2 if self.batch_coupled else 1
        self.cosine = keras.metrics.Mean("cosine")

    def adapt(self, source):
        """Sets the principal components, and the token embeddings of a text student."""
        if self.components is None:
            return
        rows = evenly_spaced(len(source), SAMPLE)
        self.components.adapt(source.gather(rows)["features"])
        embeddings = next((each for each in self.encoder.layers if isinstance(each, transformer.Embeddings)), None)
        if embeddings is None or embeddings.tokens.shape[1] != self.encoder.output_shape[-1]:
            return
        features = stored.of_tokens(self.settings.teacher, source.tokenizer)  # (V, D)
        vectors = self.components(features).numpy()
        vectors /= np.maximum(np.sqrt(np.mean(vectors**2, axis=1, keepdims=True)), 1e-12)
        embeddings.tokens.assign(vectors * np.std(embeddings.tokens.numpy()))

    def preprocess(self, batch, random):
        """Returns the batch with the student's input as floats or tokens; images are augmented."""
        if "image" not in batch:
            return self.preprocess_eval(batch, random)
        return batch | {"image": augment(batch["image"], random, self.settings)} | draw_depth(self.encoder, random)

    def preprocess_eval(self, batch, random):
        return masking.trim_texts(batch | {inputs.column(batch): inputs.network_input(batch)})

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the number of examples; updates `cosine`."""
        weight, teacher = example_weight(batch), self.wanted(batch)  # (b,), (b, D)
        predicted = self.predict_features(batch, training)
        cosine = tf.reduce_sum(losses.l2_normalize(predicted) * losses.l2_normalize(teacher), -1)
        self.cosine.update_state(cosine, weight)
        if self.settings.loss != "similarity":
            loss = 1 - cosine
        else:
            temperatures = self.settings.temperature, self.settings.teacher_temperature
            loss = similarity(predicted, teacher, weight, *temperatures)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def predict_features(self, batch, training=False):
        """Returns the projection of the student's features, (b, D); for the loss components its features, (b, S)."""
        with stochastic_depth(batch):
            features = pooled_features(self.encoder, batch[inputs.column(batch)], training)  # (b, S)
        return features if self.components is not None else self.projector(features, training=training)

    def wanted(self, batch):
        """Returns the teacher's features, (b, D), or their principal components, (b, S)."""
        return batch["features"] if self.components is None else self.components(batch["features"])

    def report(self, batch, examples, splits):
        """The images after augmentation, and a histogram of held-out examples' cosine similarity to the teacher."""
        held_out = examples()
        predicted, teacher = (losses.l2_normalize(x) for x in (self.predict_features(held_out), self.wanted(held_out)))
        return Report(
            images={"views": [batch["image"]]} if "image" in batch else {},
            histograms={"cosine": tf.reduce_sum(predicted * teacher, -1)},
        )
