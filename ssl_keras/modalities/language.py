"""What the two language objectives share: settings, preparation of text, crops, pictures.

Shapes: `B` batch, `T` tokens, `W` window, `D` width, `V` vocabulary, `H` heads.
"""

import dataclasses
import logging
from typing import Annotated, ClassVar, Literal

import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import pictures
from ssl_keras.data import tokens
from ssl_keras.data.ranges import Range, check_fields
from ssl_keras.encoders import card as cards
from ssl_keras.modalities.settings import start_from, tokenizer_of
from ssl_keras.networks import Network, realize, transformer

PICTURED_TOKENS, PICTURED_HEADS, PICTURED_LAYERS, PICTURED_PIXELS = 64, 8, 6, 3
DEFAULT_CONTEXTS = {"mini": 128, "small": 128, "medium": 256, "gpt2": 1024, "bert-base": 512}
DEFAULT_VOCABULARIES = {"mini": 2048, "small": 4096, "medium": 16384, "gpt2": 50257, "bert-base": 30522}
log = logging.getLogger(__name__)
Resolved = Annotated[int, tyro.conf.Suppress]  # no flag: `prepare` fills it in


@dataclasses.dataclass(frozen=True)
class Settings:
    """A transformer and its tokenizer. What is 0 is taken from `size`."""

    ARCHITECTURES: ClassVar = transformer.ARCHITECTURES
    CAUSAL: ClassVar = False  # whether a token sees those before it alone

    size: Literal[*transformer.SIZES] = "mini"
    """Layers, heads × width, context, vocabulary: mini 4, 4 × 128, 128, 2048; small 4, 4 × 256, 128, 4096;
    medium 8, 8 × 512, 256, 16384; gpt2 12, 12 × 768, 1024, 50257; bert-base 12, 12 × 768, 512, 30522."""
    architecture: Literal[*ARCHITECTURES] = "modern"
    """The network's kind, see `networks/transformer.py`."""
    layers: Annotated[int, Range(0, transformer.MAX_LAYERS)] = 0
    """Blocks; 0 is what size says."""
    heads: Annotated[int, Range(0)] = 0
    """Attention heads; 0 is what size says."""
    width: Annotated[int, Range(0)] = 0
    """Features of a token; 0 is what size says."""
    hidden: Annotated[int, Range(0)] = 0
    """Width of the MLPs; 0 is four times the width."""
    context: Annotated[int, Range(2, transformer.MAX_CONTEXT)] | Literal[0] = 0
    """The most tokens that the network can see; 0 is what size says."""
    length: Annotated[int, Range(0)] = 0
    """Tokens of a training window; 0 is the context."""
    tokenizer: str = "bpe"
    """characters, bpe, wordpiece (trained on the run's text), or the path of a tokenizer.json."""
    vocabulary: Annotated[int, Range(0)] = 0
    """Tokens that a tokenizer may learn; 0 is what size says."""
    remat: bool = False
    """Compute activations anew for the gradient: less memory, a third more time."""
    epsilon: Annotated[float, Range(0, 1, open="both"), tyro.conf.Suppress] = 1e-5
    mask_token: Resolved = -1
    end_token: Resolved = -1

    def __post_init__(self):
        check_fields(self)
        if self.context and self.length > self.context:
            raise ValueError(f"length must be at most the context, {self.context}. Received: {self.length}")

    def filled(self):
        """The same with every 0 replaced by what it stands for."""
        layers, heads, width = transformer.SIZES[self.size]
        width = self.width or width
        context = self.context or DEFAULT_CONTEXTS[self.size]
        return dataclasses.replace(
            self,
            layers=self.layers or layers,
            heads=self.heads or heads,
            width=width,
            hidden=self.hidden or 4 * width,
            context=context,
            length=self.length or context,
            vocabulary=self.vocabulary or DEFAULT_VOCABULARIES[self.size],
        )


# What a network that starts from a saved encoder takes over from it.
NETWORK = {name: name for name in ("architecture", "layers", "heads", "width", "hidden", "context", "epsilon")}


def prepare(settings, splits, init=None):
    """(settings, tokenizer): as asked for or, with `init`, as the saved encoder of that name has them."""
    if init is not None:
        kept, card = start_from(
            init,
            settings,
            ("transformer",),
            NETWORK,
            "is no language model's encoder. Expected one that pretraining with causal_lm or masked_lm saved.",
        )
        if kept["architecture"] not in settings.ARCHITECTURES:
            raise ValueError(
                f"{init} has the architecture {kept['architecture']}. Expected {' or '.join(settings.ARCHITECTURES)}."
            )
        settings = dataclasses.replace(settings, tokenizer=str(init), **kept)
    filled = settings.filled()
    tokenizer = tokenizer_of(filled, init, lambda: tokens.training_texts(splits.train))
    if init is None and filled.architecture != "modern" and filled.length < filled.context:
        log.warning(
            "Positions from %d to the context of %d are never trained; --context %d has none of them.",
            filled.length,
            filled.context,
            filled.length,
        )
    vocabulary = tokenizer.vocabulary if init is None else cards.keyword(card, "vocabulary")
    return dataclasses.replace(
        filled, vocabulary=vocabulary, mask_token=tokenizer.mask, end_token=tokenizer.end
    ), tokenizer


def trunk(settings, causal):
    """The transformer that these settings describe, as a `Network`."""
    settings = settings.filled()
    return Network(
        "transformer",
        vocabulary=settings.vocabulary,
        context=settings.context,
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
        architecture=settings.architecture,
        causal=causal,
        hidden=settings.hidden,
        epsilon=settings.epsilon,
        remat=settings.remat,
    )


def chosen_encoder(settings, spec, encoder):
    """The graph that `build` was given, see `realize`. Raises ValueError where its parts are not a transformer's."""
    network = realize(encoder, settings, spec)
    transformer.parts(network)
    return network


def table(network):
    """The token embeddings (V, D)."""
    return tf.convert_to_tensor(transformer.parts(network).embeddings.tokens)


def blocks(network):
    """The transformer's blocks, in order."""
    return transformer.parts(network).blocks


def logits(network, hidden):
    """Hidden states (…, D) -> logits (…, V) float32, by the token embeddings."""
    return transformer.token_logits(hidden, table(network), transformer.parts(network).embeddings.compute_dtype)


def attention_maps(network, ids):
    """[(B, H, T, T) float32 for each block]: how much each position (row) looks at each other."""
    x, maps = transformer.parts(network).embeddings(ids), []
    for block in blocks(network):
        maps.append(block.weights_of_attention(x, ids))
        x = block(x, ids)
    return maps


def attention_pictures(network, ids):
    """For TensorBoard: a row for each of some layers, a picture for each of some heads, of the first text."""
    ids = ids[:1, :PICTURED_TOKENS]
    maps = attention_maps(network, ids)
    chosen = np.unique(np.linspace(0, len(maps) - 1, PICTURED_LAYERS).astype(int))
    rows = []
    for layer in chosen:
        heads = maps[layer][0, :PICTURED_HEADS]  # (H, T, T)
        heads = heads / tf.reduce_max(heads, axis=(1, 2), keepdims=True)
        framed = pictures.enlarged(heads[..., None], PICTURED_PIXELS, frame=2)
        rows.append(tf.sqrt(framed))  # the root, or all but the strongest would be black
    return {"attention": rows}


def projections(embeddings, tokenizer):
    """For TensorBoard's projector: a graph's token embeddings, and each token's text."""
    return {"token embeddings": lambda: (tf.convert_to_tensor(embeddings.tokens).numpy(), tokenizer.tokens())}
