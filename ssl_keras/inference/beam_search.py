"""Writes target sequences with an encoder and a decoder: greedily, or by beam search, whole batches in one graph.

Shapes: `B` batch, `T` source tokens, `U` most target tokens, `K` beams, `D` width, `V` vocabulary.
"""

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from ssl_keras.networks import recurrent

NEVER = -1e9  # a log-probability of what cannot be; finite, so that sums stay numbers
CHUNK = 256  # texts decoded at a time


class Decoder:
    """Target tokens for source tokens.

    Args:
        encoder, head: the graphs of `recurrent.recurrent_encoder` and `recurrent.attending_decoder`.
        end: the token that a target begins after, and ends with.
        most: U, tokens of a target at most.
        beams: K, targets that beam search follows at a time; 1 is greedy.

    Raises:
        ValueError: no beam.
    """

    def __init__(self, encoder, head, end, most, beams=1):
        if beams < 1:
            raise ValueError(f"Expected at least 1 beam. Received: {beams}")
        self.encoder, self.head, self.end, self.most, self.beams = encoder, head, end, most, beams
        self.embeddings = head.get_layer("embeddings")
        self.cells = recurrent.layers_of(head, recurrent.Recurrent)
        self.attentions = recurrent.layers_of(head, recurrent.Attention)
        tokens = tf.TensorSpec((None, None), tf.int32)
        self.greedy = tf.function(self._greedy, input_signature=[tokens], autograph=False)
        self.beam = tf.function(self._beam, input_signature=[tokens], autograph=False)

    def _greedy(self, tokens):
        """The likeliest token at every step: tokens (B, T) -> (B, U) int32, from its end on -1."""
        source, batch = self._source(tokens), tf.shape(tokens)[0]

        def body(step, token, done, state, made):
            scores, state = self._step(token[:, None], state, source)
            token = tf.argmax(scores[:, 0], -1, tf.int32)
            done |= token == self.end
            made = tf.where(tf.range(self.most) == step, tf.where(done, -1, token)[:, None], made)
            return step + 1, token, done, state, made

        start = (
            0,
            tf.fill([batch], self.end),
            tf.zeros([batch], tf.bool),
            self._start(batch),
            tf.fill([batch, self.most], -1),
        )
        return tf.while_loop(lambda step, _, done, *__: (step < self.most) & ~tf.reduce_all(done), body, start)[-1]

    def _beam(self, tokens):
        """The best targets that beam search finds, best first: tokens (B, T) -> two tensors.

        Returns:
            (B, K, U) int32, from its end on -1; (B, K) float32, log P in nats, the end included (of a target
            that has none after U tokens, without it).
        """
        source, batch, width = self._source(tokens), tf.shape(tokens)[0], self.beams
        vocabulary = self.embeddings.options["vocabulary"]
        only_end = tf.where(tf.range(vocabulary) == self.end, 0.0, NEVER)  # what may follow an end

        def body(step, token, total, done, state, made):
            scores, state = self._step(token, state, source)  # (B, K, V)
            scores = tf.where(done[..., None], only_end, tf.nn.log_softmax(scores))
            total, best = tf.math.top_k(tf.reshape(total[..., None] + scores, (batch, -1)), width)  # (B, K)
            parent, token = best // vocabulary, best % vocabulary

            def follow(x):
                return tf.gather(x, parent, batch_dims=1)

            state = tf.nest.map_structure(lambda x: self._flat(follow(self._by_beam(x, batch, width))), state)
            done = follow(done) | (token == self.end)
            here = tf.range(self.most) == step
            made = tf.where(here, tf.where(done, -1, token)[..., None], follow(made))
            return step + 1, token, total, done, state, made

        start = (
            0,
            tf.fill([batch, width], self.end),
            tf.tile(tf.where(tf.range(width) == 0, 0.0, NEVER)[None], [batch, 1]),
            tf.zeros([batch, width], tf.bool),
            self._start(batch * width),
            tf.fill([batch, width, self.most], -1),
        )
        _, _, total, _, _, made = tf.while_loop(
            lambda step, _, __, done, *___: (step < self.most) & ~tf.reduce_all(done), body, start
        )
        return made, total

    def _source(self, tokens):
        states = tf.cast(self.encoder(tokens), self.embeddings.compute_dtype)
        return states, [look.keys(states) for look in self.attentions], tokens

    def _start(self, rows):
        return [read.start(rows) for read in self.cells]

    def _step(self, token, state, source):
        """One more token of K targets each: token (B, K), state of B·K rows -> logits (B, K, V), state."""
        states, keys, tokens = source
        x, new = self.embeddings(token), []  # (B, K, D)
        for read, look, before, known in zip(self.cells, self.attentions, state, keys):
            y, after = read.step(self._flat(x), before)
            new.append(after)
            x = look.look(self._by_beam(y, tf.shape(x)[0], tf.shape(x)[1]), states, known, tokens)
        return recurrent.logits(self.head, x), new

    @staticmethod
    def _flat(x):  # (B, K, ·) -> (B·K, ·)
        return tf.reshape(x, (-1, x.shape[-1]))

    @staticmethod
    def _by_beam(x, batch, width):  # (B·K, ·) -> (B, K, ·)
        return tf.reshape(x, (batch, width, x.shape[-1]))


def write(decoder, tokens):
    """The best target for each row of tokens (N, T): a list of N lists of ids."""
    rows = []
    for first in tqdm(range(0, len(tokens), CHUNK), desc="decoding", disable=None, leave=False):
        part = tokens[first : first + CHUNK]
        # All the same shape, the last ones too: padding rows, and columns.
        part = np.pad(part, [(0, min(CHUNK, len(tokens)) - len(part)), (0, 0)], constant_values=-1)
        made = decoder.greedy(part) if decoder.beams == 1 else decoder.beam(part)[0][:, 0]
        rows += [[int(i) for i in row if i >= 0] for row in made.numpy()]
    return rows[: len(tokens)]
