"""Sentence embeddings: the passes, the loss, pairs, pooling in the card, and what is refused."""

import json

import numpy as np
import pytest
import tensorflow as tf
from contract import TINY, prepared, prepared_sequences
from test_losses import slow_nt_xent

from ssl_keras import encoders, losses
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.readers import pairs, text
from ssl_keras.data.splits import hold_out
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.features import extract_features
from ssl_keras.networks import Network, pooled_features, pooling_of
from ssl_keras.networks.dropout import dropout
from ssl_keras.objectives import sentence

SMALL = {"layers": 1, "heads": 2, "width": 16, "context": 16}


def built(**options):
    """(objective, a batch of eight texts, splits)."""
    settings, splits = prepared(sentence, passage=20, **options)
    objective = sentence.build(settings, splits.train.spec())
    return objective, preprocessed(objective, splits), splits


def preprocessed(objective, splits, rows=8):
    raw = {key: tf.constant(value) for key, value in Batches(splits.train, rows).numpy(0).items()}
    return objective.preprocess(raw, BatchRandom(0, 0, 0, rows))


def test_the_loss_is_nt_xent_of_two_passes_with_other_masks():
    objective, batch, _ = built()
    passes = []
    for copy in (0, 1):
        with dropout({"dropout_keys": batch["dropout_keys"][:, copy : copy + 1]}, 0.1):
            passes.append(pooled_features(objective.encoder, batch["tokens"], training=True).numpy())
    assert np.abs(passes[0] - passes[1]).max() > 0.01
    for ours, expected in zip(objective.passes(batch), passes):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    total, count = objective.batch_loss(batch)
    np.testing.assert_allclose(total, np.sum(slow_nt_xent(*passes, 0.05)), rtol=1e-4)
    assert float(count) == 8
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in passes)
    assert float(objective.alignment.result()) == pytest.approx(np.mean(np.sum((a - b) ** 2, 1)), rel=1e-4)
    assert float(objective.uniformity.result()) == pytest.approx(float(losses.uniformity(a, tf.ones(8))), rel=1e-4)


def test_padding_and_order_change_nothing():
    objective, batch, _ = built()
    total, _ = objective.batch_loss(batch)
    wider = batch | {"tokens": tf.pad(batch["tokens"][:, :10], [[0, 0], [0, 2]], constant_values=-1)}
    narrow = batch | {"tokens": batch["tokens"][:, :10]}
    np.testing.assert_allclose(objective.batch_loss(wider)[0], objective.batch_loss(narrow)[0], rtol=1e-5)
    np.testing.assert_allclose(objective.batch_loss({k: v[::-1] for k, v in batch.items()})[0], total, rtol=1e-5)


def test_pairs_take_the_place_of_the_second_pass():
    settings, splits = prepared_sequences(sentence, layers=1, heads=2, tokenizer="characters", dropout=0.0)
    objective = sentence.build(settings, splits.train.spec())
    batch = preprocessed(objective, splits)
    assert "dropout_keys" not in batch
    assert not np.array_equal(batch["tokens"], batch["partner"])
    first, second = objective.passes(batch)
    np.testing.assert_allclose(first, pooled_features(objective.encoder, batch["tokens"]), atol=1e-5)
    np.testing.assert_allclose(second, pooled_features(objective.encoder, batch["partner"]), atol=1e-5)
    swapped = objective.passes(batch | {"tokens": batch["partner"], "partner": batch["tokens"]})
    np.testing.assert_allclose(swapped[0], second, atol=1e-5)
    tokenizer = splits.train.tokenizer
    word, target = (tokenizer.decode(splits.train.column(name)[0]) for name in ("tokens", "partner"))
    assert target.replace(" ", "") == word[::2].upper()


def test_the_pooling_is_saved_with_the_encoder(tmp_path):
    """A card without it means the mean: saved encoders are as they were."""
    objective, batch, splits = built(pooling="last")
    assert pooling_of(objective.encoder) == "last"
    spec, tokenizer = splits.train.spec(), splits.train.tokenizer
    encoders.save_encoder(tmp_path / "last", objective.encoder, spec=spec, tokenizer=tokenizer)
    loaded = encoders.load_encoder(tmp_path / "last")
    some = splits.validation.take(np.arange(5))
    features, tokens = extract_features(loaded, some), some.column("tokens")
    states, last = loaded(tokens).numpy(), (tokens >= 0).sum(1) - 1
    np.testing.assert_allclose(features, states[np.arange(5), last], atol=1e-5)
    np.testing.assert_allclose(features, pooled_features(loaded, tokens), atol=1e-5)

    path = tmp_path / "last" / "card.json"
    card = json.loads(path.read_text())
    del card["network"]["pooling"]
    path.write_text(json.dumps(card))
    assert pooling_of(encoders.load_encoder(tmp_path / "last")) == "mean"
    assert "pooling" not in cards.read(encoders.find("masked_lm-trec"))["network"]
    assert cards.network(cards.read(encoders.find("masked_lm-trec"))).keywords["pooling"] == "mean"
    with pytest.raises(ValueError, match="pooling"):
        Network("transformer", **objective.encoder.description.keywords | {"pooling": "max"})


def test_it_starts_from_an_encoder_whose_card_has_no_pooling():
    texts = hold_out(text.documents("texts", [f"what is the number {number} ?" for number in range(60)]))
    settings, splits = sentence.prepare(sentence.Settings(), texts, "masked_lm-trec")
    assert (settings.pooling, settings.causal, settings.architecture) == ("mean", False, "bert")
    assert sentence.encoder(settings, None) == cards.network(cards.read(encoders.find("masked_lm-trec")))
    assert splits.train.tokenizer.sha256 == encoders.load_tokenizer("masked_lm-trec").sha256


def test_it_starts_from_a_causal_encoder(tmp_path):
    """Attention, architecture, sizes and pooling are those of the encoder; another pooling can be asked for."""
    _, _, splits = built()
    sizes = {name: TINY[name] for name in ("layers", "heads", "width", "hidden", "context")}
    vocabulary = splits.train.tokenizer.vocabulary
    network = Network(
        "transformer", vocabulary=vocabulary, architecture="gpt2", causal=True, pooling="last", **sizes
    ).build()
    encoders.save_encoder(tmp_path / "gpt", network, spec=splits.train.spec(), tokenizer=splits.train.tokenizer)
    texts = hold_out(text.documents("texts", [f"text number {number} of many" for number in range(60)]))
    settings, made = sentence.prepare(sentence.Settings(), texts, str(tmp_path / "gpt"))
    described = sentence.encoder(settings, made.train.spec())
    assert described == network.description
    assert described.keywords["causal"]
    with pytest.raises(ValueError, match="Received: causal attention. Use --pooling last"):
        sentence.prepare(sentence.Settings(pooling="first"), texts, str(tmp_path / "gpt"))


def test_the_class_token_is_the_first_one():
    texts = hold_out(text.documents("texts", [f"text number {number} of many" for number in range(60)]))
    settings, splits = sentence.prepare(sentence.Settings(**SMALL, vocabulary=200, pooling="first"), texts)
    objective = sentence.build(settings, splits.train.spec())
    batch = preprocessed(objective, splits)
    assert set(batch["tokens"][:, 0].numpy()) == {splits.train.tokenizer.special["[CLS]"]}
    np.testing.assert_allclose(
        pooled_features(objective.encoder, batch["tokens"]), objective.encoder(batch["tokens"])[:, 0], atol=1e-6
    )


def test_long_texts_are_cut_into_passages():
    texts = hold_out(text.documents("texts", [f"{'word ' * number}end of {number}" for number in range(60)]))
    settings, splits = sentence.prepare(sentence.Settings(**SMALL, tokenizer="characters", passage=16), texts)
    assert len(splits.train) > 3 * len(texts.train)
    assert 12 <= splits.train.spec()["tokens"][0][0] <= 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.0}, "dropout must be above 0 without labeled pairs"),
        ({"pooling": "first", "tokenizer": "characters"}, "a tokenizer without such a token. Use --pooling mean"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    texts = hold_out(text.documents("texts", [f"text number {number} of many" for number in range(60)]))
    with pytest.raises(ValueError, match=message):
        sentence.prepare(sentence.Settings(**SMALL, **options), texts)


def test_pairs_need_no_dropout():
    some = pairs.split(pairs.named("pairs", [f"text {n}" for n in range(90)], [f"words {n}" for n in range(90)]))
    _, splits = sentence.prepare(sentence.Settings(**SMALL, vocabulary=200, dropout=0.0), some)
    assert set(splits.train.arrays) == {"tokens", "partner"}
    assert splits.train.tokenizer.unknown not in splits.train.column("partner")  # it was trained on both columns


def test_a_collapse_is_warned_of():
    objective, _, _ = built()
    (warning,) = objective.warnings({"val_uniformity": -0.01, "val_top1": 0.02})
    assert "the encoder has collapsed" in warning
    assert objective.warnings({"uniformity": -0.01, "top1": 0.9}) == []
    assert objective.warnings({"uniformity": -2.0, "top1": 0.02}) == []


def test_the_report_has_the_nearest_texts():
    objective, _, splits = built()
    ids = tf.constant(splits.validation.column("tokens")[:20])
    ids = tf.concat([ids, ids[:1]], 0)  # a copy of the first text, which must be its nearest one
    shown = objective._nearest(ids, splits.train.tokenizer)
    first, _, nearest, *_ = shown.splitlines()
    query = first.removeprefix("**`").removesuffix("`**")
    assert nearest == f"- 1.000 `{query}`"
    assert len([line for line in shown.splitlines() if line.startswith("- ")]) == 5 * 3
