"""Greedy decoding and beam search for an encoder with an attending decoder, a batch at a time in one graph.

Shapes: `B` batch, `T` source tokens, `U` largest number of target tokens, `K` beams, `D` hidden size, `V` vocabulary.
"""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from ssl_keras.networks import recurrent

IMPOSSIBLE = -1e9  # log-probability of an impossible token; finite, so that sums are never NaN
BATCH_SIZE = 256


class Decoder:
    """Decodes source tokens into target tokens.

    Args:
        encoder, head: the graphs of `recurrent.recurrent_encoder` and `recurrent.attending_decoder`.
        end: the token that starts the decoder and ends a target.
        max_tokens: U, the largest number of tokens of a target.
        beams: K, the number of beams; 1 is greedy decoding.

    Raises:
        ValueError: `beams` is less than 1.
    """

    def __init__(self, encoder, head, end, max_tokens, beams=1):
        if beams < 1:
            raise ValueError(f"Expected at least 1 beam. Received: {beams}")
        self.encoder, self.head, self.end, self.max_tokens, self.beams = encoder, head, end, max_tokens, beams
        self.embeddings = head.get_layer("embeddings")
        self.cells = recurrent.layers_of(head, recurrent.Recurrent)
        self.attentions = recurrent.layers_of(head, recurrent.Attention)
        tokens = tf.TensorSpec((None, None), tf.int32)
        self.greedy = tf.function(self._greedy, input_signature=[tokens], autograph=False)
        self.beam = tf.function(self._beam, input_signature=[tokens], autograph=False)

    def _greedy(self, tokens):
        """Takes the most likely token at every step: tokens (B, T) -> (B, U) int32, -1 from the end token on."""
        source, batch = self._source(tokens), tf.shape(tokens)[0]

        def body(step, token, done, state, targets):
            scores, state = self._step(token[:, None], state, source)
            token = tf.argmax(scores[:, 0], -1, tf.int32)
            done |= token == self.end
            targets = tf.where(tf.range(self.max_tokens) == step, tf.where(done, -1, token)[:, None], targets)
            return step + 1, token, done, state, targets

        start = (
            0,
            tf.fill([batch], self.end),
            tf.zeros([batch], tf.bool),
            self._start(batch),
            tf.fill([batch, self.max_tokens], -1),
        )
        return tf.while_loop(lambda step, _, done, *__: (step < self.max_tokens) & ~tf.reduce_all(done), body, start)[
            -1
        ]

    def _beam(self, tokens):
        """Finds the K best targets by beam search, best first: tokens (B, T) -> two tensors.

        Returns:
            (B, K, U) int32, -1 from the end token on; and (B, K) float32, log P in nats, which includes the end token
            unless a target has none after U tokens.
        """
        source, batch, width = self._source(tokens), tf.shape(tokens)[0], self.beams
        vocabulary = self.embeddings.options["vocabulary"]
        only_end = tf.where(tf.range(vocabulary) == self.end, 0.0, IMPOSSIBLE)  # only an end may follow an end

        def body(step, token, total, done, state, targets):
            scores, state = self._step(token, state, source)  # (B, K, V)
            scores = tf.where(done[..., None], only_end, tf.nn.log_softmax(scores))
            total, best = tf.math.top_k(tf.reshape(total[..., None] + scores, (batch, -1)), width)  # (B, K)
            parent, token = best // vocabulary, best % vocabulary

            def follow(x):
                return tf.gather(x, parent, batch_dims=1)

            state = tf.nest.map_structure(lambda x: self._flat(follow(self._by_beam(x, batch, width))), state)
            done = follow(done) | (token == self.end)
            here = tf.range(self.max_tokens) == step
            targets = tf.where(here, tf.where(done, -1, token)[..., None], follow(targets))
            return step + 1, token, total, done, state, targets

        start = (
            0,
            tf.fill([batch, width], self.end),
            tf.tile(tf.where(tf.range(width) == 0, 0.0, IMPOSSIBLE)[None], [batch, 1]),
            tf.zeros([batch, width], tf.bool),
            self._start(batch * width),
            tf.fill([batch, width, self.max_tokens], -1),
        )
        _, _, total, _, _, targets = tf.while_loop(
            lambda step, _, __, done, *___: (step < self.max_tokens) & ~tf.reduce_all(done), body, start
        )
        return targets, total

    def _source(self, tokens):
        states = tf.cast(self.encoder(tokens), self.embeddings.compute_dtype)
        return states, [attention.keys(states) for attention in self.attentions], tokens

    def _start(self, rows):
        return [cell.start(rows) for cell in self.cells]

    def _step(self, token, state, source):
        """Runs one step of the decoder: token (B, K), state of B·K rows -> logits (B, K, V), state."""
        states, keys, tokens = source
        x, new = self.embeddings(token), []  # (B, K, D)
        for cell, attention, before, keys_of_layer in zip(self.cells, self.attentions, state, keys):
            y, after = cell.step(self._flat(x), before)
            new.append(after)
            x = attention.look(self._by_beam(y, tf.shape(x)[0], tf.shape(x)[1]), states, keys_of_layer, tokens)
        return recurrent.logits(self.head, x), new

    @staticmethod
    def _flat(x):  # (B, K, ·) -> (B·K, ·)
        return tf.reshape(x, (-1, x.shape[-1]))

    @staticmethod
    def _by_beam(x, batch, width):  # (B·K, ·) -> (B, K, ·)
        return tf.reshape(x, (batch, width, x.shape[-1]))


def decode(decoder, tokens):
    """Returns the best target of each row of tokens (N, T): a list of N lists of ids."""
    rows = []
    for first in tqdm(range(0, len(tokens), BATCH_SIZE), desc="decoding", disable=None, leave=False):
        part = tokens[first : first + BATCH_SIZE]
        # Padding rows give the last batch the shape of the others.
        part = np.pad(part, [(0, min(BATCH_SIZE, len(tokens)) - len(part)), (0, 0)], constant_values=-1)
        targets = decoder.greedy(part) if decoder.beams == 1 else decoder.beam(part)[0][:, 0]
        rows += [[int(i) for i in row if i >= 0] for row in targets.numpy()]
    return rows[: len(tokens)]
