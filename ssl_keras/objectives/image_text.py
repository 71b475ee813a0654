"""Image-text contrastive learning (CLIP, SigLIP): embed images and their captions in a joint space.

In CLIP (Radford et al. 2021), features of images and captions are projected into a joint space. The task is to
identify each image's caption among all captions of the batch, and each caption's image. The losses are in `losses.py`:

- `clip`: symmetric InfoNCE over the two directions.
- `sigmoid`: a binary cross-entropy for each pair of an image and a caption (SigLIP, Zhai et al. 2023).

Candidates are the examples of all replicas. Two examples with the same caption tokens are one concept, and
not each other's negatives. The scale (one over the temperature) is learned, and is at most 100.

Departures: a small convolutional network and a small transformer, whose states are averaged over the caption.
Each step draws one of an image's captions, or several. Adam does not decay norms, biases and the scale. The
transformer may have no blocks and no projection; it is then a mean of token embeddings, which a thousand pairs
are enough to train (`benchmarks/image_text.py`).

Shapes: `B` batch (`b` of a replica), `H W C` image, `K` captions per image, `T` tokens, `D` features, `Z` joint space.

Metrics: `loss`, nats per pair; `top1`, accuracy of retrieving an image's caption from the batch, in [0, 1];
`temperature`, the learned one; `gradient_norm` (training only). Loss and top-1 depend on the batch size.
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
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.initialize import initialize
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.evaluation import retrieval
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.inference import search
from ssl_keras.modalities import language, vision
from ssl_keras.modalities.settings import start_from, tokenizer_of
from ssl_keras.networks import Network, towers
from ssl_keras.networks.transformer import ARCHITECTURES, MAX_CONTEXT, MAX_LAYERS, ROTARY
from ssl_keras.networks.vit_block import draw_depth, stochastic_depth

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
LENGTH_MULTIPLE = 4  # captions are padded to multiples of it, since XLA compiles every length separately
PICTURED_PIXELS, NUM_SHOWN, NUM_EVALUATED = 8, 8, 500


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The image encoder and its augmentation, the text encoder, the joint space and the loss."""

    loss: Literal[*towers.LOSSES] = "clip"
    """Loss: the symmetric InfoNCE of CLIP (clip), or the binary cross-entropy per pair of SigLIP (sigmoid)."""
    temperature: Annotated[float, Range(1 / towers.MAX_SCALE, 100.0)] | Literal[0] = 0.0
    """Initial value of the learned temperature. 0 uses that of the paper: 0.07 for clip, 0.1 for sigmoid. A higher
    value overfits less on few pairs."""
    projection: Annotated[int, Range(0, 1 << 14)] = 128
    """Size of the joint space. 0 uses that of the text features, which are then not projected."""
    init_image: str = ""
    """Name or path of a saved image encoder to start from. By default random weights are used."""
    init_text: str = ""
    """Name or path of a saved encoder of causal_lm or masked_lm to start the text encoder from, with its tokenizer.
    By default random weights are used."""
    text_architecture: Literal[*ARCHITECTURES] = "modern"
    """Architecture of the text transformer: gpt2, bert or llama as published, or modern (RMS norm, rotary positions,
    squared ReLU, no biases)."""
    text_layers: Annotated[int, Range(0, MAX_LAYERS)] = 2
    """Number of blocks in the text transformer. 0 averages token embeddings instead."""
    text_heads: Annotated[int, Range(1, 1 << 10)] = 4
    """Number of attention heads per block of the text transformer."""
    text_width: Annotated[int, Range(2, 1 << 14)] = 128
    """Hidden size of the text transformer, in features per token."""
    context: Annotated[int, Range(2, MAX_CONTEXT)] = 32
    """Maximum caption length, in tokens. Longer captions are truncated."""
    tokenizer: str = "bpe"
    """Kind of tokenizer to train on the captions, or the path of a tokenizer.json."""
    vocabulary: Annotated[int, Range(2, 1 << 24)] = 2048
    """Maximum vocabulary size of a tokenizer that the run trains, in tokens."""
    freeze_image: bool = False
    """Freeze the image encoder of --init-image or --init, and train the rest (LiT, Zhai et al. 2022)."""
    max_captions: Annotated[int, Range(1, captions.MOST)] = 1
    """Maximum number of captions of an image to concatenate into one text. Each step draws the number, from 1 to
    this."""
    token_dropout: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Token dropout: fraction of caption tokens that are removed at random in each step. 0 disables it."""
    causal: Annotated[bool, tyro.conf.Suppress] = False
    epsilon: Annotated[float, tyro.conf.Suppress] = 1e-5
    text_hidden: Annotated[int, tyro.conf.Suppress] = 0

    def __post_init__(self):
        super().__post_init__()
        if self.text_width % (self.text_heads * (2 if self.text_architecture in ROTARY else 1)):
            raise ValueError(
                "text_width must be a multiple of text_heads, and an even multiple if the architecture is modern or "
                f"llama. Received: text_width {self.text_width}, text_heads {self.text_heads}"
            )


# {setting: keyword of the saved network to start from}, for language models and for towers.
LANGUAGE_MODEL = {
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
TOWERS = {name: name for name in (*LANGUAGE_MODEL, "projection")}


def prepare(settings, splits, init=None):
    """Turns captions into tokens; completes the settings from the tokenizer and the encoders to start from.

    Raises:
        ValueError: no captions; a setting contradicts the network of an encoder to start from; `init` together with
            `init_image` or `init_text`; `freeze_image` without an image encoder to start from.
    """
    splits.train.column_spec("caption")
    if init is not None and (settings.init_image or settings.init_text):
        raise ValueError("Expected either --init or --init-image and --init-text. Received: both")
    if settings.freeze_image and not (init or settings.init_image):
        raise ValueError("freeze_image needs a pretrained image encoder. Expected --init-image or --init.")
    settings, splits = vision.prepare(settings, splits, init or settings.init_image or None)
    source = init or settings.init_text
    if init is not None:
        refusal = "was not saved by image_text. Use --init-image to load an image encoder only."
        kept, _ = start_from(init, settings, ("towers",), TOWERS, refusal, key="head")
    elif settings.init_text:
        refusal = "is not the encoder of a language model. Expected an encoder saved by causal_lm or masked_lm."
        kept, card = start_from(settings.init_text, settings, ("transformer",), LANGUAGE_MODEL, refusal)
        _check_options(settings.init_text, cards.network(card).keywords)
    else:
        kept = {}
    tokenizer = tokenizer_of(settings, source, lambda: captions.training_texts(splits.train))
    kept |= {"tokenizer": str(source)} if source else {"vocabulary": tokenizer.vocabulary}
    settings = dataclasses.replace(settings, **kept)
    return settings, captions.tokenize(splits, tokenizer, settings.context)


def _check_options(name, saved):
    """Raises ValueError if a saved text encoder has options that the towers do not have, such as RoBERTa's segment."""
    other = {key: saved[key] for key in language.OPTIONS if saved[key] != getattr(language.Settings, key)}
    if other:
        raise ValueError(
            f"{name} has options that a text encoder here does not have. Expected the defaults. Received: {other}. Use "
            "another --init-text."
        )


encoder = vision.encoder


def head(settings, features):
    """Returns the towers: image features (B, D), tokens (B, T) -> both in the joint space, (B, Z), as a `Network`."""
    names = (*TOWERS, "loss", "temperature")
    return Network("towers", features=features, **{name: getattr(settings, name) for name in names})


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: the encoder's input or output does not fit.
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
        """Returns `image` (B, H, W, C) float32 in [0, 1], augmented, and `tokens` (B, T) of some of its captions."""
        settings = self.settings
        tokens = masking.sample_captions(
            batch["captions"], random, settings.max_captions, settings.token_dropout, settings.context
        )
        trimmed = self._trim(augment(batch["image"], random, settings), tokens, batch)
        return trimmed | draw_depth(self.encoder, random)

    def preprocess_eval(self, batch, random):
        """Returns the image without augmentation, and its first caption."""
        return self._trim(unit_range(batch["image"]), batch["captions"][:, 0], batch)

    def _trim(self, image, tokens, batch):
        """Returns the batch without padding that all captions share; most are far shorter than the longest one."""
        return {"image": image, "tokens": masking.trim(tokens, multiple=LENGTH_MULTIPLE), "weight": batch["weight"]}

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the weighted number of pairs; updates the metrics."""
        weight, scale = example_weight(batch), tf.exp(tf.convert_to_tensor(self.similarity.log_scale))
        with stochastic_depth(batch):
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
        """Pairs and their similarities, and retrieval by first captions on a sample of the validation pairs."""
        source, image, text = self._embed_sample(splits)
        tokenizer = splits.train.tokenizer

        def embeddings():
            names = [tokenizer.decode(row) for row in source.column("captions")[:, 0]]
            return np.concatenate([image, text]), [f"image: {name}" for name in names] + names

        return Report(
            images=self._similarity(batch) | {"found by name": self._found(source, image, text)},
            texts={"captions": "\n\n".join(tokenizer.decode(row) for row in batch["tokens"].numpy())},
            scalars=self._recall(source, image, text),
            embeddings={"images and captions": embeddings},
        )

    def _similarity(self, batch):
        """Returns the images, and their similarities in grayscale, with images in rows and captions in columns."""
        image, text = (losses.l2_normalize(x) for x in self.head([self.encoder(batch["image"]), batch["tokens"]]))
        similarity = (tf.matmul(image, text, transpose_b=True)[None, ..., None] + 1) / 2
        return {"views": [batch["image"]], "similarity": [pictures.enlarged(similarity, PICTURED_PIXELS)]}

    def _recall(self, source, image, text):
        """Returns {tag: recall} of retrieval in both directions."""
        concepts = np.unique(source.column("captions")[:, 0], axis=0, return_inverse=True)[1]
        found = retrieval.both_ways(image, text, concepts)
        return {f"quality/{way}, recall@{k}": value for way, each in found.items() for k, value in each.items()}

    def _found(self, source, image, text):
        """Returns rows of images: each column has an image and, below it, the top results for its first caption."""
        chosen = evenly_spaced(len(source), NUM_SHOWN)
        found = np.argsort(-(text[chosen] @ image.T), axis=1)[:, :NUM_SHOWN]
        images = source.column("image")
        return [unit_range(tf.constant(images[rows])) for rows in (chosen, *found.T)]

    def _embed_sample(self, splits):
        """Returns a sample of the validation pairs, and the embeddings (N, Z) of its images and first captions."""
        source = splits.validation.take(evenly_spaced(len(splits.validation), NUM_EVALUATED))
        return (
            source,
            search.embeddings_of_images(self.encoder, self.head, source.column("image")),
            search.embeddings_of_texts(self.head, source.column("captions")[:, 0]),
        )
