"""Generation: the cache changes nothing, draws follow the softmax, text goes in and comes out."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.inference import generation
from ssl_keras.modalities import language
from ssl_keras.networks import Network
from ssl_keras.networks import transformer as tr


@pytest.fixture(params=["gpt2", "modern"])
def architecture(request):
    return request.param


@pytest.fixture
def network(architecture):
    shared = {"kv_heads": 1, "rotary_scaling": (2.0,)} if architecture == "llama" else {}
    network = tr.transformer(40, 24, 2, 2, 16, architecture=architecture, causal=True, **shared)
    rng = np.random.default_rng(1)
    for variable in network.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.2, variable.shape))
    return network


@pytest.fixture
def eagerly():
    """Without tracing, which would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("architecture", ["gpt2", "modern", "llama"])
def test_cached_logits_equal_uncached(network, rng):
    ids = rng.integers(0, 40, (3, 20)).astype(np.int32)
    whole = language.logits(network, network(ids)).numpy()
    generator = generation.Generator(network)
    caches, position, logits = [b.cache(3, 24) for b in generator.blocks], 0, []
    for length in (7, 1, 1, 4, 1, 6):  # prompts and single tokens alike
        part = ids[:, position : position + length]
        before = ids[:, position - 1 : position] if position else None
        hidden, caches = generator._extend(part, before, caches, position)
        logits.append(language.logits(network, hidden))
        position += length
    np.testing.assert_allclose(tf.concat(logits, 1), whole, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8}])
def test_the_cache_changes_no_text(network, options, rng, eagerly):
    prompts = rng.integers(0, 40, (2, 20)).astype(np.int32)
    with_cache = generation.Generator(network)(prompts, 8, seed=3, **options)  # past the context of 24
    without = generation.Generator(network, cached=False)(prompts, 8, seed=3, **options)
    np.testing.assert_array_equal(with_cache, without)
    assert with_cache.shape == (2, 8)


@pytest.mark.parametrize("architecture", ["llama"])
def test_an_untied_head_gives_the_logits(network, rng, eagerly):
    """The greedy tokens are those of the whole text's logits by the head, with the cache and without."""
    head = Network("untied_head", vocabulary=40, width=16).build()
    head.set_weights([rng.normal(size=(40, 16))])
    prompts = rng.integers(0, 40, (2, 5)).astype(np.int32)
    made = [generation.Generator(network, cached, head=head)(prompts, 4, temperature=0) for cached in (True, False)]
    np.testing.assert_array_equal(*made)
    whole = np.concatenate([prompts, made[0]], 1)
    logits = network(whole[:, :-1]).numpy() @ head.get_weights()[0].T
    np.testing.assert_array_equal(logits[:, 4:].argmax(-1), made[0])


@pytest.mark.parametrize("architecture", ["modern"])
@pytest.mark.slow
def test_tracing_and_xla_change_no_text(network, rng):
    prompts = rng.integers(0, 40, (2, 5)).astype(np.int32)
    traced, compiled = (generation.Generator(network, jit=jit)(prompts, 12, temperature=0) for jit in (False, True))
    np.testing.assert_array_equal(compiled, traced)  # where nothing is drawn: XLA draws other numbers
    tf.config.run_functions_eagerly(True)
    stepped = generation.Generator(network)(prompts, 12, temperature=0)
    tf.config.run_functions_eagerly(False)
    np.testing.assert_array_equal(stepped, traced)


@pytest.mark.parametrize("architecture", ["modern"])
def test_seeds_and_rows_draw_differently(network, eagerly):
    generator = generation.Generator(network)
    prompts = np.full((2, 3), 7, np.int32)
    first, again, other = (generator(prompts, 15, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
    greedy = generator(prompts, 15, temperature=0)
    np.testing.assert_array_equal(greedy[0], greedy[1])


def draws(logits, count=20_000, **options):
    rows = np.tile(np.array(logits, np.float32), (count, 1))
    return np.bincount(
        generation.sample_tokens(rows, seed=tf.constant([5, 0]), step=0, **options), minlength=len(logits)
    )


def test_frequencies_match_the_softmax():
    logits = np.array([2.0, 1.0, 0.0, -1.0, 0.5])
    for temperature in (1.0, 0.5):
        share = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        counts = draws(logits, temperature=temperature)
        assert scipy.stats.chisquare(counts, share * counts.sum()).pvalue > 1e-3


def test_top_k_and_top_p_leave_the_likeliest():
    logits = np.log([0.4, 0.3, 0.2, 0.06, 0.04])
    counts = draws(logits, temperature=1.0, top_k=2)
    assert (counts[2:] == 0).all()
    assert scipy.stats.chisquare(counts[:2], np.array([4, 3]) / 7 * counts.sum()).pvalue > 1e-3
    counts = draws(logits, temperature=1.0, top_p=0.65)  # 0.4 + 0.3 reach it
    assert (counts[2:] == 0).all()
    assert (counts[:2] > 0).all()
    assert (draws(logits, temperature=1.0, top_p=0.35)[1:] == 0).all()  # the likeliest always stays


@pytest.mark.parametrize("architecture", ["modern"])
def test_write(network, eagerly):
    tokenizer = tokenizers.Tokenizer(tokenizers._characters(["abcdefgh \n"], 0))
    texts = generation.write(network, tokenizer, "abc", 30, count=2, seed=1)
    assert len(texts) == 2
    assert all(text.startswith("abc") for text in texts)
    long = generation.write(network, tokenizer, "abc", 30, seed=1)[0]
    letter = long[5]
    stopped = generation.write(network, tokenizer, "abc", 30, seed=1, stop=letter)[0]
    assert stopped == long[: long.index(letter, 3) + 1]
    assert isinstance(generation.write(network, tokenizer, "", 5)[0], str)
    with pytest.raises(ValueError, match="count of at least 1"):
        generation.write(network, tokenizer, "abc", 5, count=0)


def test_a_continuation_has_its_space():
    """WordPiece writes one between words, and none where a piece goes on."""
    tokenizer = tokenizers.Tokenizer(tokenizers._wordpiece(["the cat sat", "cats"] * 3, 60))
    begin, rest = tokenizer.encode(["the cat"])[0], tokenizer.encode(["sat"])[0]
    assert generation.continuation(tokenizer, begin, rest) == " sat"
    bpe = tokenizers.Tokenizer(tokenizers._bpe(["é the cat sat"] * 3, 270))
    whole = bpe.encode(["the é cat"])[0]
    for cut in range(1, len(whole)):  # in the middle of a character too
        text = bpe.decode(whole[:cut]) + generation.continuation(bpe, whole[:cut], whole[cut:])
        assert text in ("the é cat", bpe.decode(whole[:cut]) + bpe.decode(whole[cut:]))


@pytest.mark.parametrize("architecture", ["modern"])
def test_hardly_any_temperature_is_none(network, eagerly):
    generator, prompts = generation.Generator(network), np.full((1, 3), 7, np.int32)
    np.testing.assert_array_equal(generator(prompts, 9, temperature=1e-42), generator(prompts, 9, temperature=0))


@pytest.mark.parametrize("architecture", ["modern"])
def test_bad_input_is_refused(network):
    generator = generation.Generator(network)
    with pytest.raises(ValueError, match="has 30 tokens, more than the context of 24"):
        generator(np.zeros((1, 30), np.int32), 5)
    with pytest.raises(ValueError, match=r"Expected token ids in 0..39. Received: 7..40"):
        generator(np.array([[7, 40]]), 5)
    with pytest.raises(ValueError, match="at least one token"):
        generator(np.zeros((1, 0), np.int32), 5)
    for wrong in (
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"temperature": float("nan")},
        {"seed": 2**31},
    ):
        with pytest.raises(ValueError, match="Expected temperature"):
            generator(np.zeros((1, 2), np.int32), 5, **wrong)
    tokenizer = tokenizers.Tokenizer(tokenizers._characters(["abc"], 0))
    with pytest.raises(ValueError, match="Expected a prompt with tokens"):
        generation.write(network, tokenizer, "ж", 5)
    both_ways = tr.transformer(40, 24, 1, 2, 16, architecture="bert", causal=False)
    with pytest.raises(ValueError, match="Expected a causal encoder"):
        generation.Generator(both_ways)
