"""Text generation with a causal language model, and mask filling with a masked one.

Shapes: `B` texts, `P` tokens of the prompt, `C` context, `D` hidden size, `V` vocabulary.
"""

import numpy as np
import tensorflow as tf

from ssl_keras.data.tokenizer import MASKS
from ssl_keras.modalities import language
from ssl_keras.networks.attention import HIDDEN

MIN_TEMPERATURE = 1e-6  # lower ones count as 0, since logits divided by them would overflow


class Generator:
    """Continues prompts with a causal encoder.

    Args:
        encoder: a causal graph of `networks.transformer.transformer`.
        cached: whether to cache keys and values. Without a cache every token costs a pass over the whole context, and
            the result is the same.
        jit: whether to compile with XLA. It is three times faster on a CPU after a second or two of compilation, and
            the random draws differ, since its Philox generator is not TensorFlow's.
        head: graph (hidden states, token embeddings) -> logits; by default logits are products of both.

    Raises:
        ValueError: the encoder is not causal, or its context has fewer than 2 tokens.
    """

    def __init__(self, encoder, cached=True, jit=False, head=None):
        self.encoder, self.head = encoder, head
        self.embeddings, self.norm = encoder.get_layer("embeddings"), encoder.get_layer("norm")
        self.blocks = language.blocks(encoder)
        if not all(block.causal for block in self.blocks):
            raise ValueError("Expected a causal encoder, such as causal_lm trains. Received: a bidirectional one")
        self.context = self.embeddings.context
        if self.context < 2:
            raise ValueError(f"Expected a context of at least 2 tokens. Received: {self.context}")
        # Python arguments change the graph. The others are tensors, so that new values do not cause retracing.
        run = self._with_cache if cached else self._without_cache
        self.run = tf.function(run, jit_compile=jit, reduce_retracing=True)

    def __call__(self, prompts, length, *, temperature=1.0, top_k=0, top_p=1.0, seed=0):
        """Continues prompts: int32 (B, P) -> int32 (B, length).

        Args:
            temperature: divisor of the logits; 0 always takes the most likely token.
            top_k: number of the most likely tokens to sample from; 0 means all.
            top_p: total probability of the most likely tokens to sample from (nucleus sampling, Holtzman et al. 2020).
            seed: seed of the random draws, which differ between the texts of a batch.

        Raises:
            ValueError: a prompt is empty or longer than the context, or an option is out of range.
        """
        prompts = np.asarray(prompts, np.int32)
        if prompts.ndim != 2 or not prompts.shape[1]:
            raise ValueError(
                f"Expected prompts of shape (B, P) with at least one token. Received: shape {prompts.shape}"
            )
        if prompts.shape[1] > self.context:
            raise ValueError(
                f"The prompt has {prompts.shape[1]} tokens, more than the context of {self.context}. Shorten it."
            )
        vocabulary = self.embeddings.options["vocabulary"]
        if prompts.min() < 0 or prompts.max() >= vocabulary:
            raise ValueError(f"Expected token ids in 0..{vocabulary - 1}. Received: {prompts.min()}..{prompts.max()}")
        if not temperature >= 0 or top_k < 0 or not 0 < top_p <= 1 or length < 1 or not 0 <= seed < 2**31:
            raise ValueError(
                "Expected temperature ≥ 0, top_k ≥ 0, top_p in (0, 1], length ≥ 1 and seed in 0..2³¹−1. "
                f"Received: {temperature}, {top_k}, {top_p}, {length}, {seed}"
            )
        greedy = temperature < MIN_TEMPERATURE
        tokens, done = prompts, 0
        while done < length:
            # When the context is full, the newer half of it is kept.
            seen = tokens if tokens.shape[1] < self.context else tokens[:, -max(self.context // 2, 1) :]
            count = min(length - done, self.context - seen.shape[1])
            new = self.run(
                tf.constant(seen),
                tf.constant(count),
                tf.constant(temperature, tf.float32),
                tf.constant([seed, done]),
                room=seen.shape[1] + count,
                greedy=greedy,
                top_k=min(top_k, vocabulary),
                top_p=float(top_p),
            ).numpy()
            tokens, done = np.concatenate([tokens, new], axis=1), done + count
        return tokens[:, prompts.shape[1] :]

    def _with_cache(self, prompts, count, temperature, seed, room, greedy, top_k, top_p):
        batch, length = tf.shape(prompts)[0], tf.shape(prompts)[1]
        hidden, caches = self._extend(prompts, None, [block.cache(batch, room) for block in self.blocks], 0)
        logits = language.logits(self.encoder, hidden[:, -1], self.head)

        def body(i, logits, last, new, caches):
            token = sample_tokens(logits, temperature, seed, i, greedy, top_k, top_p)
            hidden, caches = self._extend(token[:, None], last[:, None], caches, length + i)
            return i + 1, language.logits(self.encoder, hidden[:, 0], self.head), token, _put(new, i, token), caches

        start = (0, logits, prompts[:, -1], tf.zeros((batch, room), tf.int32), caches)
        new = tf.while_loop(lambda i, *_: i < count, body, start)[3]
        return new[:, :count]

    def _extend(self, tokens, before, caches, position):
        x = self.embeddings.starting_at(position, tokens, before)
        new = []
        for block, cache in zip(self.blocks, caches):
            x, cache = block.extend(x, cache, position)
            new.append(cache)
        return self.norm(x), new

    def _without_cache(self, prompts, count, temperature, seed, room, greedy, top_k, top_p):
        length = tf.shape(prompts)[1]
        seen = tf.pad(prompts, [[0, 0], [0, room - length]], constant_values=-1)
        seen = tf.ensure_shape(seen, (None, room))

        def body(i, seen):
            hidden = tf.gather(self.encoder(seen), length + i - 1, axis=1)  # (B, D)
            logits = language.logits(self.encoder, hidden, self.head)
            token = sample_tokens(logits, temperature, seed, i, greedy, top_k, top_p)
            return i + 1, _put(seen, length + i, token)

        _, seen = tf.while_loop(lambda i, _: i < count, body, (0, seen))
        return seen[:, length : length + count]


def _put(row, place, token):
    """Sets one column of row (B, C) to token (B,)."""
    return tf.where(tf.range(tf.shape(row)[1])[None] == place, token[:, None], row)


def sample_tokens(logits, temperature, seed, step, greedy=False, top_k=0, top_p=1.0):
    """Samples one token per row from softmax(logits / temperature): logits (B, V) -> int32 (B,).

    It takes the largest logit + Gumbel noise (Gumbel 1954), which has that distribution.

    Args:
        seed: int32 (2,).
        step: int32 scalar; `seed` and `step` together determine the draw.
        greedy: whether to take the most likely token in place of sampling.
        top_k, top_p: see `Generator`.
    """
    if greedy:
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    logits = logits / temperature
    if top_k:
        lowest = tf.math.top_k(logits, top_k).values[:, -1:]
        logits = tf.where(logits < lowest, HIDDEN, logits)
    if top_p < 1:
        ordered = tf.sort(logits, direction="DESCENDING")  # (B, V)
        probability = tf.nn.softmax(ordered)
        kept = tf.cumsum(probability, axis=-1, exclusive=True) < top_p
        lowest = tf.reduce_min(tf.where(kept, ordered, np.inf), axis=-1, keepdims=True)
        logits = tf.where(logits < lowest, HIDDEN, logits)
    noise = tf.random.stateless_uniform(tf.shape(logits), [seed[0], seed[1] + step], minval=1e-20)
    return tf.argmax(logits - tf.math.log(-tf.math.log(noise)), axis=-1, output_type=tf.int32)


def write(encoder, tokenizer, prompt, length=200, *, count=1, stop="", jit=False, head=None, **options):
    """Generates texts that begin with `prompt`: a list of `count` strings, which include the prompt.

    Args:
        encoder: a causal encoder.
        tokenizer: its `Tokenizer`.
        prompt: the beginning of each text; an empty prompt starts a new document. The token that the tokenizer puts
            before every text, such as Llama's, precedes it.
        length: the largest number of tokens to generate.
        count: the number of texts.
        stop: string after which a text ends. A text also ends at the end of its document.
        jit, head: see `Generator`.
        **options: see `Generator.__call__`.

    Raises:
        ValueError: as of `Generator`; or all tokens of the prompt are unknown to the tokenizer.
    """
    if count < 1:
        raise ValueError(f"Expected a count of at least 1. Received: {count}")
    begin = tokenizer.encode([prompt])[0]
    if tokenizer.unknown in begin and len(set(begin)) == 1:
        raise ValueError(f"Expected a prompt with tokens that the encoder's tokenizer has. Received: {prompt!r}")
    begin = [tokenizer.begin] * (tokenizer.begin >= 0) + begin or [tokenizer.end]
    prompts = np.tile(np.array(begin, np.int32), (count, 1))
    rows = Generator(encoder, jit=jit, head=head)(prompts, length, **options)
    return [prompt + _until(tokenizer, begin, row, stop) for row in rows]


def _until(tokenizer, begin, ids, stop):
    ends = np.flatnonzero(ids == tokenizer.end)
    text = continuation(tokenizer, begin, ids[: ends[0]] if len(ends) else ids)
    return text.partition(stop)[0] + (stop if stop in text else "") if stop else text


def continuation(tokenizer, begin, ids):
    """Decodes `ids` as they follow `begin`, since the space before a WordPiece depends on the token before it."""
    before, both = tokenizer.decode(begin), tokenizer.decode([*begin, *ids])
    return both.removeprefix(before) if both.startswith(before) else tokenizer.decode(ids)


def fill(network, output, tokenizer, text, top=5):
    """Predicts the masked tokens of a text.

    Returns:
        For each mask a list of the `top` most likely (token as text, probability).

    Raises:
        ValueError: the text has no mask, or is longer than the context.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1. Received: {top}")
    ids = np.array(tokenizer.encode([text], special=True)[0], np.int32)
    places = np.flatnonzero(ids == tokenizer.mask)
    if tokenizer.mask < 0 or not len(places):
        name = next((name for name in MASKS if tokenizer.special.get(name) == tokenizer.mask), MASKS[0])
        raise ValueError(f'Expected a text with a mask, such as "the {name} sat". Received: {text!r}')
    context = network.get_layer("embeddings").context
    if len(ids) > context:
        raise ValueError(f"The text has {len(ids)} tokens, more than the context of {context}. Shorten it.")
    hidden = tf.gather(network(ids[None])[0], places)
    probability = tf.nn.softmax(output([hidden, language.table(network)]))
    best = tf.math.top_k(probability, min(top, tokenizer.vocabulary))
    return [
        [(tokenizer.decode([i]), float(p)) for i, p in zip(indices, values)]
        for indices, values in zip(best.indices.numpy(), best.values.numpy())
    ]
