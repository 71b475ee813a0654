"""Shared by the transformer language models: settings, preparation of text, attention maps and pictures.

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
from ssl_keras.networks import Network, description, realize, transformer
from ssl_keras.networks.llama_block import mlp_width

PICTURED_TOKENS, PICTURED_HEADS, PICTURED_LAYERS, PICTURED_PIXELS = 64, 8, 6, 3
DEFAULT_CONTEXTS = {"mini": 128, "small": 128, "medium": 256, "gpt2": 1024, "bert-base": 512}
DEFAULT_VOCABULARIES = {"mini": 2048, "small": 4096, "medium": 16384, "gpt2": 50257, "bert-base": 30522}
log = logging.getLogger(__name__)
Resolved = Annotated[int, tyro.conf.Suppress]  # has no flag: `prepare` sets it


@dataclasses.dataclass(frozen=True)
class Settings:
    """The transformer and its tokenizer."""

    ARCHITECTURES: ClassVar = transformer.ARCHITECTURES
    CAUSAL: ClassVar = False  # whether a token attends only to itself and the tokens before it

    size: Literal[*transformer.SIZES] = "mini"
    """Preset of layers, heads, width, context, vocabulary. mini: 4, 4, 128, 128, 2048. small: 4, 4, 256, 128, 4096.
    medium: 8, 8, 512, 256, 16384. gpt2: 12, 12, 768, 1024, 50257. bert-base: 12, 12, 768, 512, 30522."""
    architecture: Literal[*ARCHITECTURES] = "modern"
    """Transformer architecture: gpt2, bert and llama are as published, modern is described in
    `networks/transformer.py`."""
    layers: Annotated[int, Range(0, transformer.MAX_LAYERS)] = 0
    """Number of transformer blocks. 0 uses the value of --size."""
    heads: Annotated[int, Range(0)] = 0
    """Number of attention heads per block. 0 uses the value of --size."""
    width: Annotated[int, Range(0)] = 0
    """Hidden size, in features per token. 0 uses the value of --size."""
    hidden: Annotated[int, Range(0)] = 0
    """Number of hidden units in the MLP of each block. 0 uses four times the hidden size (--width), or 8/3 of it with
    --architecture llama."""
    context: Annotated[int, Range(2, transformer.MAX_CONTEXT)] | Literal[0] = 0
    """Maximum sequence length of the network, in tokens. 0 uses the value of --size."""
    length: Annotated[int, Range(0)] = 0
    """Length of a training window, in tokens. 0 uses the value of --context."""
    tokenizer: str = "bpe"
    """Kind of tokenizer to train on the run's text, or the path of a tokenizer.json."""
    vocabulary: Annotated[int, Range(0)] = 0
    """Maximum vocabulary size of a tokenizer that the run trains, in tokens. 0 uses the value of --size."""
    remat: bool = False
    """Rematerialize (gradient checkpointing): recompute activations in the backward pass, which saves memory and takes
    about a third more time."""
    dropout: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Dropout rate of the embeddings and of each transformer block's two outputs, those of attention and of the MLP.
    0 disables dropout."""
    epsilon: Annotated[float, Range(0, 1, open="both"), tyro.conf.Suppress] = 1e-5
    segments: Annotated[int, Range(0, transformer.SEGMENTS), tyro.conf.Suppress] = transformer.SEGMENTS
    kv_heads: Annotated[int, Range(0), tyro.conf.Suppress] = 0
    rotary_base: Annotated[float, Range(1), tyro.conf.Suppress] = transformer.ROTARY_BASE
    rotary_scaling: Annotated[tuple[float, ...], tyro.conf.Suppress] = ()
    mask_token: Resolved = -1
    end_token: Resolved = -1

    def __post_init__(self):
        check_fields(self)
        if self.context and self.length > self.context:
            raise ValueError(f"length must be at most the context, {self.context}. Received: {self.length}")

    def filled(self):
        """Returns the settings with every 0 replaced by the value that it stands for."""
        layers, heads, width = transformer.SIZES[self.size]
        width = self.width or width
        context = self.context or DEFAULT_CONTEXTS[self.size]
        return dataclasses.replace(
            self,
            layers=self.layers or layers,
            heads=self.heads or heads,
            width=width,
            hidden=self.hidden or mlp_width(self.architecture, width),
            context=context,
            length=self.length or context,
            vocabulary=self.vocabulary or DEFAULT_VOCABULARIES[self.size],
        )


# Settings that a run takes from the --init encoder: the keyword of its network.
OPTIONS = ("segments", "kv_heads", "rotary_base", "rotary_scaling")  # of some architectures
NETWORK = {
    name: name for name in ("architecture", "layers", "heads", "width", "hidden", "context", "epsilon", *OPTIONS)
}
TOKEN_HEADS = ("masked_head", "untied_head")


def prepare(settings, splits, init=None, targets=False):
    """Returns (settings, tokenizer), with those of the saved encoder `init` if it is given.

    A new tokenizer is trained on the training texts and, with `targets`, on the column "target" too.
    """
    if init is not None:
        kept, card = start_from(
            init,
            settings,
            ("transformer",),
            NETWORK,
            "is not the encoder of a language model. Expected an encoder saved by causal_lm or masked_lm.",
        )
        if kept["architecture"] not in settings.ARCHITECTURES:
            raise ValueError(
                f"Expected an encoder of architecture {' or '.join(settings.ARCHITECTURES)}. Received: {init}, of "
                f"architecture {kept['architecture']}"
            )
        settings = dataclasses.replace(settings, tokenizer=str(init), **kept)
    filled = settings.filled()
    tokenizer = tokenizer_of(filled, init, lambda: tokens.training_texts(splits.train, targets))
    if init is None and filled.architecture not in transformer.ROTARY and filled.length < filled.context:
        log.warning(
            "Training windows have %d tokens, so positions from there to the context of %d are never trained. Use "
            "--context %d.",
            filled.length,
            filled.context,
            filled.length,
        )
    vocabulary = tokenizer.vocabulary if init is None else cards.keyword(card, "vocabulary")
    return dataclasses.replace(
        filled, vocabulary=vocabulary, mask_token=tokenizer.mask, end_token=tokenizer.end
    ), tokenizer


def trunk(settings, causal, pooling="mean"):
    """Returns the transformer that the settings describe, as a `Network`."""
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
        **{name: getattr(settings, name) for name in OPTIONS},
        pooling=pooling,
    )


def chosen_encoder(settings, spec, encoder):
    """Returns the encoder given to `build` as a graph, see `realize`. Raises ValueError unless it is a transformer."""
    network = realize(encoder, settings, spec)
    transformer.parts(network)
    return network


def table(network):
    """Returns the token embeddings (V, D)."""
    return tf.convert_to_tensor(transformer.parts(network).embeddings.tokens)


def blocks(network):
    """Returns the transformer's blocks, in order."""
    return transformer.parts(network).blocks


def token_head(network, head):
    """Returns a saved encoder's head if it predicts tokens, or None if its logits are those of the token embeddings.

    Raises:
        ValueError: a fine-tuned Llama, whose own output, if it had one, was replaced by the classifier.
    """
    if head is None or description(head).builder in TOKEN_HEADS:
        return head
    if description(network).keywords["architecture"] == "llama":
        raise ValueError(
            "This encoder was fine-tuned, and the output of a llama model is not part of it. Expected the encoder that "
            "it was fine-tuned from."
        )
    return None


def logits(network, hidden, head=None):
    """Returns logits (…, V) float32 of hidden states (…, D): products with the token embeddings, or those of a head."""
    if head is not None:
        flat = head([tf.reshape(hidden, (-1, hidden.shape[-1])), table(network)])
        return tf.reshape(flat, tf.concat([tf.shape(hidden)[:-1], flat.shape[-1:]], 0))
    return transformer.token_logits(hidden, table(network), transformer.parts(network).embeddings.compute_dtype)


def attention_maps(network, ids):
    """Returns the attention weights of each block, [(B, H, T, T) float32]: queries in rows, keys in columns."""
    x, maps = transformer.parts(network).embeddings(ids), []
    for block in blocks(network):
        maps.append(block.attention_weights(x, ids))
        x = block(x, ids)
    return maps


def attention_pictures(network, ids):
    """Returns pictures of the first text's attention for TensorBoard: a row per layer, a picture per head."""
    ids = ids[:1, :PICTURED_TOKENS]
    maps = attention_maps(network, ids)
    chosen = np.unique(np.linspace(0, len(maps) - 1, PICTURED_LAYERS).astype(int))
    rows = []
    for layer in chosen:
        heads = maps[layer][0, :PICTURED_HEADS]  # (H, T, T)
        heads = heads / tf.reduce_max(heads, axis=(1, 2), keepdims=True)
        framed = pictures.enlarged(heads[..., None], PICTURED_PIXELS, frame=2)
        rows.append(tf.sqrt(framed))  # the root, since all but the largest weights would be black
    return {"attention": rows}


def projections(embeddings, tokenizer):
    """Returns token embeddings, with each token's text, for TensorBoard's projector."""
    return {"token embeddings": lambda: (tf.convert_to_tensor(embeddings.tokens).numpy(), tokenizer.tokens())}
