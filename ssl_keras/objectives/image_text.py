"""Image and text: two encoders put a picture and its caption at one place, and others elsewhere.

CLIP (Radford et al. 2021): features of an image and of a caption are projected into one space, and of all
captions of the batch an image finds its own, and of all images a caption. A choice of the loss, see `losses.py`:

- `clip`: the symmetric InfoNCE of the two directions;
- `sigmoid`: of each image and each caption, whether they belong together (SigLIP, Zhai et al. 2023).

Candidates are the examples of all replicas. Two examples whose captions are the same tokens are one concept:
they are not each other's negatives. The scale (one over the temperature) is learned, at most 100.

Departures: a small convolutional network and a small transformer, whose states are averaged over the caption;
of an image's captions one is drawn at each step, or several; Adam without decay of norms, biases and the scale;
the transformer may have no blocks, and its states no projection: a mean of token embeddings, which is what a
thousand pairs can teach (`benchmarks/image_text.py`).

Shapes: `B` batch, `H W C` image, `K` captions of an image, `T` tokens, `D` features, `Z` the common space.

Metrics: `loss`, nats per pair; `top1`, the share of images to whom their own caption is the nearest of the batch's,
in [0, 1]; `temperature`, of the loss; `gradient_norm` (training only). Loss and matches depend on the batch size.
"""

import dataclasses
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import losses, pictures
from ssl_keras.data import masking
from ssl_keras.data.augment_images import augment
from ssl_keras.data.images import unit_range
from ssl_keras.data.ranges import Range
from ssl_keras.data.readers import captions
from ssl_keras.encoders.initialize import initialize
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.evaluation import retrieval
from ssl_keras.evaluation.features import spread
from ssl_keras.inference import search
from ssl_keras.modalities import vision
from ssl_keras.modalities.settings import start_from, tokenizer_of
from ssl_keras.networks import Network, towers
from ssl_keras.networks.transformer import ARCHITECTURES, MAX_CONTEXT, MAX_LAYERS

DEFAULTS = Training(
    data="captions:captions.csv",
    epochs=60,
    batch_size=128,
    learning_rate=1e-3,
    schedule="cosine",
    final_rate=0.0,
    warmup=100,
    weight_decay=0.01,
    clip_norm=1.0,
)
STEP = 4  # lengths of captions go up to multiples of this: XLA compiles each length anew
PICTURED_PIXELS, NUM_SHOWN, NUM_EVALUATED = 8, 8, 500


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """A convolutional network, a transformer, the space they share, and what makes a view of an image."""

    loss: Literal[*towers.LOSSES] = "clip"
    """clip or sigmoid."""
    temperature: Annotated[float, Range(1 / towers.MAX_SCALE, 100.0)] | Literal[0] = 0.0
    """Where the learned temperature starts; 0 is the paper's, 0.07 of clip, 0.1 of sigmoid. With few pairs a higher one
    learns less by heart."""
    projection: Annotated[int, Range(0, 1 << 14)] = 128
    """Z, features of the space that images and captions share; 0 is that of the text as it is, without a projection."""
    init_image: str = ""
    """A saved encoder of images to start from."""
    init_text: str = ""
    """A saved encoder of text, of causal_lm or masked_lm, to start from, with its tokenizer."""
    text_architecture: Literal[*ARCHITECTURES] = "modern"
    """The transformer's kind: modern, bert or gpt2."""
    text_layers: Annotated[int, Range(0, MAX_LAYERS)] = 2
    """Its blocks; 0 leaves the mean of its tokens' embeddings."""
    text_heads: Annotated[int, Range(1, 1 << 10)] = 4
    """Its attention heads."""
    text_width: Annotated[int, Range(2, 1 << 14)] = 128
    """Its features of a token."""
    context: Annotated[int, Range(2, MAX_CONTEXT)] = 32
    """The most tokens of a caption."""
    tokenizer: str = "bpe"
    """characters, bpe, wordpiece (trained on the captions), or the path of a tokenizer.json."""
    vocabulary: Annotated[int, Range(2, 1 << 24)] = 2048
    """Tokens that a tokenizer may learn."""
    freeze_image: bool = False
    """Leave the image network as it was loaded, and learn the rest (LiT, Zhai et al. 2022)."""
    max_captions: Annotated[int, Range(1, captions.MOST)] = 1
    """The most captions of an image that are joined at a step; one to so many are drawn."""
    token_dropout: Annotated[float, Range(0, 1, open="high")] = 0.0
    """The share of a caption's tokens that are left out at a step, another one each time."""
    causal: Annotated[bool, tyro.conf.Suppress] = False
    epsilon: Annotated[float, tyro.conf.Suppress] = 1e-5
    text_hidden: Annotated[int, tyro.conf.Suppress] = 0

    def __post_init__(self):
        super().__post_init__()
        if self.text_width % (self.text_heads * (2 if self.text_architecture == "modern" else 1)):
            raise ValueError(
                "text_width must be a multiple of text_heads (modern: an even one). Received: "
                f"{self.text_width}, {self.text_heads}"
            )


# Setting: keyword of the towers, or of the language model, that a run starts from.
OF_LANGUAGE_MODEL = {
    "text_architecture": "architecture",
    "text_layers": "layers",
    "text_heads": "heads",
    "text_width": "width",
    "text_hidden": "hidden",
    "context": "context",
    "epsilon": "epsilon",
    "vocabulary": "vocabulary",
    "causal": "causal",
}
TEXT_NETWORK = {name: name for name in (*OF_LANGUAGE_MODEL, "projection")}


def prepare(settings, splits, init=None):
    """Captions -> tokens; the settings with what the tokenizer and the encoders to start from decide.

    Raises:
        ValueError: no captions; a network asked for that is not that of the encoder to start from; both `init` and
            one of `init_image` and `init_text`; `locked` without a network to start from.
    """
    splits.train.column_spec("caption")
    if init is not None and (settings.init_image or settings.init_text):
        raise ValueError("Expected --init, or --init-image and --init-text. Received: both.")
    if settings.freeze_image and not (init or settings.init_image):
        raise ValueError("locked leaves the image network as it was loaded. Expected --init-image or --init with it.")
    settings, _ = vision.prepare(settings, splits, init or settings.init_image or None)
    source = init or settings.init_text
    if init is not None:
        refusal = "is no encoder of image_text. Its encoder alone is taken by --init-image."
        kept, _ = start_from(init, settings, ("towers",), TEXT_NETWORK, refusal, key="head")
    elif settings.init_text:
        refusal = "is no language model's encoder. Expected one of causal_lm or masked_lm."
        kept, _ = start_from(settings.init_text, settings, ("transformer",), OF_LANGUAGE_MODEL, refusal)
    else:
        kept = {}
    tokenizer = tokenizer_of(settings, source, lambda: captions.training_texts(splits.train))
    kept |= {"tokenizer": str(source)} if source else {"vocabulary": tokenizer.vocabulary}
    settings = dataclasses.replace(settings, **kept)
    return settings, captions.tokenize(splits, tokenizer, settings.context)


encoder = vision.encoder


def head(settings, features):
    """The towers, image features (B, D) and tokens (B, T) -> both in the common space, (B, Z), as a `Network`."""
    names = (*TEXT_NETWORK, "loss", "temperature")
    return Network("towers", features=features, **{name: getattr(settings, name) for name in names})


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: a given encoder whose input or output does not fit.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    both = head(settings, network.output_shape[-1]).build()
    if settings.init_image:
        initialize(network, settings.init_image)
    if settings.freeze_image:
        network.trainable = False
    if settings.init_text:
        initialize(towers.text_network(both), settings.init_text)
    elif settings.text_architecture == "modern":
        towers.shrink_embeddings(both)
    return ImageText(settings, network, both)


class ImageText(Objective):
    """Holds `encoder` and `head`; trains both on `batch["image"]` and `batch["tokens"]`."""

    batch_coupled, min_batch_size = True, 2

    def __init__(self, settings, encoder, head):
        super().__init__(name="image_text")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.similarity = head.get_layer("similarity")
        self.top1 = keras.metrics.Mean("top1")
        self.temperature = keras.metrics.Mean("temperature")

    def preprocess(self, batch, random):
        """`image` (B, H, W, C) float32 in [0, 1], augmented, and `tokens` (B, T) of some of its captions."""
        settings = self.settings
        tokens = masking.sample_captions(
            batch["captions"], random, settings.max_captions, settings.token_dropout, settings.context
        )
        return self._trimmed(augment(batch["image"], random, settings), tokens, batch)

    def preprocess_eval(self, batch, random):
        """The image as it is, and its first caption."""
        return self._trimmed(unit_range(batch["image"]), batch["captions"][:, 0], batch)

    def _trimmed(self, image, tokens, batch):
        """Most captions are far shorter than the longest of all: what is padding in the whole batch is left out."""
        return {"image": image, "tokens": masking.trim(tokens, multiple=STEP), "weight": batch["weight"]}

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Summed loss and (weighted) number of pairs of a batch; updates the metrics."""
        weight, scale = example_weight(batch), tf.exp(tf.convert_to_tensor(self.similarity.log_scale))
        features = self.encoder(batch["image"], training=training)
        image, text = self.head([features, batch["tokens"]], training=training)  # (b, Z) each
        same = masking.hash_rows(batch["tokens"])
        if self.similarity.bias is None:
            loss = losses.clip(image, text, weight, scale, same)
        else:
            loss = losses.siglip(image, text, weight, scale, tf.convert_to_tensor(self.similarity.bias), same)
        self.top1.update_state(losses.top1(image, text, weight, same), weight)
        self.temperature.update_state(1 / scale)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def report(self, batch, examples, splits):
        """Pairs and their similarity, and retrieval among some validation pairs, by their names."""
        source, image, text = self._judged(splits)
        tokenizer = splits.train.tokenizer

        def together():
            names = [tokenizer.decode(row) for row in source.column("captions")[:, 0]]
            return np.concatenate([image, text]), [f"image: {name}" for name in names] + names

        return Report(
            images=self._similarity(batch) | {"found by name": self._found(source, image, text)},
            texts={"captions": "\n\n".join(tokenizer.decode(row) for row in batch["tokens"].numpy())},
            scalars=self._recall(source, image, text),
            embeddings={"images and captions": together},
        )

    def _similarity(self, batch):
        """The images, and how similar each (row) is to each caption (column), black to white."""
        image, text = (losses.unit(x) for x in self.head([self.encoder(batch["image"]), batch["tokens"]]))
        similarity = (tf.matmul(image, text, transpose_b=True)[None, ..., None] + 1) / 2
        return {"views": [batch["image"]], "similarity": [pictures.enlarged(similarity, PICTURED_PIXELS)]}

    def _recall(self, source, image, text):
        """{tag: recall} both ways among validation pairs."""
        concepts = np.unique(source.column("captions")[:, 0], axis=0, return_inverse=True)[1]
        found = retrieval.both_ways(image, text, concepts)
        return {f"quality/{way}, recall@{k}": value for way, each in found.items() for k, value in each.items()}

    def _found(self, source, image, text):
        """Rows of images: in each column a picture, below it those that its name finds first."""
        chosen = spread(len(source), NUM_SHOWN)
        found = np.argsort(-(text[chosen] @ image.T), axis=1)[:, :NUM_SHOWN]
        images = source.column("image")
        return [unit_range(tf.constant(images[rows])) for rows in (chosen, *found.T)]

    def _judged(self, splits):
        """(source, images, names): some validation pairs, and where both are in the common space, (N, Z)."""
        source = splits.validation.take(spread(len(splits.validation), NUM_EVALUATED))
        return (
            source,
            search.embeddings_of_images(self.encoder, self.head, source.column("image")),
            search.embeddings_of_texts(self.head, source.column("captions")[:, 0]),
        )
