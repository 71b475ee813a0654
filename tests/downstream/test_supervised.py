"""Numbers, tags, several labels and pairs: losses, segments, and fine-tuning from a table to predictions."""

import csv
import dataclasses
import functools
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.readers.text import documents, from_texts
from ssl_keras.data.splits import hold_out
from ssl_keras.data.targets import Target
from ssl_keras.downstream import finetune, targeting
from ssl_keras.downstream.supervised import Supervised
from ssl_keras.encoders import card as cards
from ssl_keras.engine.config import Training
from ssl_keras.interpretation import questions
from ssl_keras.networks import Network
from ssl_keras.networks.dense import per_token

BERT = {
    "vocabulary": 30,
    "context": 12,
    "layers": 1,
    "heads": 2,
    "width": 8,
    "architecture": "bert",
    "causal": False,
    "hidden": 8,
}
SPEC = {"tokens": ((24,), tf.int32)}
TRAINING = Training(steps=2, batch_size=4, learning_rate=1e-3, tensorboard=False)


@functools.cache
def network():
    return Network("transformer", **BERT).build()


def supervised(kind, outputs, **options):
    keras.utils.set_random_seed(0)
    head = Network("classifier_head", features=8, classes=outputs).build()
    return Supervised(network(), head, Target(kind, **options))


def batch(rng, **columns):
    tokens = rng.integers(0, 30, (4, 6)).astype(np.int32)
    tokens[1, 4:], tokens[2, 2:] = -1, -1
    made = {"tokens": tokens, "weight": np.array([1.0, 0.5, 2.0, 0.0], np.float32)} | columns
    return {name: tf.constant(value) for name, value in made.items()}


def test_tags_choose_by_accuracy_and_the_others_by_loss():
    names = {"tags": ("a", "b"), "labels": ("a", "b"), "number": ()}
    chosen = {kind: supervised(kind, 2 if each else 1, names=each).best_metric for kind, each in names.items()}
    assert chosen == {"tags": "accuracy", "labels": None, "number": None}


def test_texts_are_trimmed_to_the_longest_of_the_batch(rng):
    """Padding changes neither the loss nor the metric; tags are trimmed with their tokens."""
    tags = rng.integers(-1, 2, (4, 6)).astype(np.int32)
    given = batch(rng, tags=np.where(np.arange(6) < 1, 0, tags))
    padded = given | {name: tf.pad(given[name], [[0, 0], [0, 6]], constant_values=-1) for name in ("tokens", "tags")}
    objective = supervised("tags", 2, names=("O", "B"))
    trimmed = objective.preprocess(padded, BatchRandom(0, 0, 0, 4))
    assert trimmed["tokens"].shape == trimmed["tags"].shape == (4, 8)
    losses = [objective.batch_loss(one, training=False) for one in (given, trimmed, padded)]
    np.testing.assert_allclose(losses[1:], losses[:1] * 2, rtol=1e-5)


def loss(objective, given):
    total, weight = objective.batch_loss(given, training=False)
    return float(total), float(weight)


def features(objective, given):
    """The mean state of each text, by a loop."""
    states, tokens = objective.encoder(given["tokens"]).numpy(), given["tokens"].numpy()
    return np.array([np.mean([s for s, t in zip(row, ids) if t >= 0], axis=0) for row, ids in zip(states, tokens)])


def outputs(objective, x):
    kernel, bias = (weight.numpy() for weight in objective.head.weights)
    return x @ kernel + bias


def test_the_loss_of_numbers(rng):
    objective = supervised("number", 1, mean=5.0, scale=3.0)
    given = batch(rng, number=rng.normal(size=4).astype(np.float32))
    weight, number = given["weight"].numpy(), given["number"].numpy()
    error = outputs(objective, features(objective, given))[:, 0] - number
    assert loss(objective, given) == pytest.approx((np.sum(weight * error**2), 3.5), rel=1e-5)
    assert float(objective.quality.result()) == pytest.approx(3 * np.sqrt(np.sum(weight * error**2) / 3.5), rel=1e-5)
    # Closed form: a head that gives the mean, 0 once standardized, has the mean square of the numbers as its loss.
    objective.head.set_weights([np.zeros((8, 1)), np.zeros(1)])
    assert loss(objective, given)[0] == pytest.approx(np.sum(weight * number**2), rel=1e-5)
    # Invariance: the unit of the numbers changes the metric alone.
    other = supervised("number", 1, mean=-70.0, scale=0.1)
    assert loss(other, given)[0] == pytest.approx(loss(supervised("number", 1), given)[0], rel=1e-6)


def test_the_loss_of_several_labels(rng):
    objective = supervised("labels", 3, names=("a", "b", "c"))
    given = batch(rng, labels=rng.integers(0, 2, (4, 3)).astype(np.float32))
    z, y, weight = outputs(objective, features(objective, given)), given["labels"].numpy(), given["weight"].numpy()
    entropy = -np.mean(y * scipy.special.log_expit(z) + (1 - y) * scipy.special.log_expit(-z), axis=1)
    assert loss(objective, given) == pytest.approx((np.sum(weight * entropy), 3.5), rel=1e-5)
    right = [all((z > 0)[row] == (y > 0)[row]) for row in range(4)]
    assert float(objective.quality.result()) == pytest.approx(np.sum(weight * right) / 3.5)
    objective.head.set_weights([np.zeros((8, 3)), np.zeros(3)])
    assert loss(objective, given)[0] == pytest.approx(3.5 * np.log(2), rel=1e-6)
    order = [2, 0, 1]  # invariance: the order of the labels
    permuted = {**given, "labels": tf.gather(given["labels"], order, axis=1)}
    objective.head.set_weights([rng.normal(size=(8, 3)), rng.normal(size=3)])
    before, (kernel, bias) = loss(objective, given), objective.head.get_weights()
    objective.head.set_weights([kernel[:, order], bias[order]])
    assert loss(objective, permuted) == pytest.approx(before, rel=1e-5)


def test_the_loss_of_tags(rng):
    objective = supervised("tags", 4, names=tuple("abcd"))
    tags = rng.integers(-1, 4, (4, 6)).astype(np.int32)
    tags[0, 0], tags[1, 4:], tags[2, 2:] = 2, -1, -1
    given = batch(rng, tags=tags)
    logits = outputs(objective, objective.encoder(given["tokens"]).numpy())  # (B, T, Y)
    total, hits, count = 0.0, 0.0, 0.0
    for row, weight in enumerate([1.0, 0.5, 2.0, 0.0]):
        for place in range(6):
            if tags[row, place] >= 0:
                total -= weight * scipy.special.log_softmax(logits[row, place])[tags[row, place]]
                hits += weight * (logits[row, place].argmax() == tags[row, place])
                count += weight
    assert loss(objective, given) == pytest.approx((total, count), rel=1e-5)
    assert float(objective.quality.result()) == pytest.approx(hits / count)
    objective.head.set_weights([np.zeros((8, 4)), np.zeros(4)])
    assert loss(objective, given)[0] == pytest.approx(count * np.log(4), rel=1e-6)
    # Invariance: what stands at tokens without a tag, such as the other pieces of a word, does not matter.
    np.testing.assert_allclose(per_token(objective.head, objective.encoder(given["tokens"])).shape, (4, 6, 4))
    nothing = {**given, "tags": tf.fill((4, 6), -1)}
    assert loss(objective, nothing) == (0.0, 0.0)


def test_tags_need_states():
    encoder = Network("dense", image_shape=(4, 4, 1), widths=(8,)).build()
    with pytest.raises(ValueError, match="Tags need an encoder that returns a state for each token"):
        Supervised(encoder, Network("classifier_head", features=8, classes=2).build(), Target("tags", ("a", "b")))


def test_segments_follow_from_the_tokens(rng):
    plain, paired = network(), Network("transformer", **BERT, separator=7).build()
    embeddings = paired.get_layer("embeddings")
    tokens = np.array([[3, 5, 7, 4, 7, -1], [7, 7, 2, 1, 0, 3], [1, 2, 3, 4, 5, 6]], np.int32)
    np.testing.assert_array_equal(
        embeddings.segments_of(tf.constant(tokens)), [[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0] * 6]
    )
    paired.set_weights(plain.get_weights())
    np.testing.assert_array_equal(paired(tokens[2:]), plain(tokens[2:]))  # without a separator nothing changes
    assert np.abs(paired(tokens[:1]) - plain(tokens[:1])).max() > 1e-4
    # With the segments of all tokens equal, the encoder is that without segments.
    segments = embeddings.segments
    segments.assign(tf.repeat(segments[:1], 2, axis=0))
    np.testing.assert_array_equal(paired(tokens), plain(tokens))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("labels_per_class", 2),
        ("probe_init", True),
        ("class_weights", True),
        ("label_smoothing", 0.1),
        ("mixup", 0.2),
        ("unlabeled", "digits"),
    ],
)
@pytest.mark.parametrize("kind", ["number", "tags", "labels"])
def test_settings_for_classes_are_refused(option, value, kind):
    settings = finetune.Settings(**{option: value})
    with pytest.raises(ValueError, match=f"Expected the target class with {option}. Received: the target {kind}"):
        targeting.check(settings, Target(kind, ("a", "b")))
    targeting.check(settings, Target("class", ("a", "b")))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a tiny BERT with the tokenizer of masked_lm-trec."""
    keras.utils.set_random_seed(1)
    tokenizer = encoders.load_tokenizer("masked_lm-trec")
    encoder = Network("transformer", **(BERT | {"vocabulary": tokenizer.vocabulary, "context": 24})).build()
    folder = tmp_path_factory.mktemp("saved") / "bert"
    encoders.save_encoder(folder, encoder, spec=SPEC, tokenizer=tokenizer)
    return folder


@pytest.fixture
def bert(tmp_path, monkeypatch, saved):
    """The working folder, which has this encoder as "bert"."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, tmp_path / "bert")
    return tmp_path


def save_with_head(name, **options):
    """Saves the encoder with a head of two outputs."""
    head, tokenizer = Network("classifier_head", features=8, classes=2).build(), encoders.load_tokenizer("bert")
    encoders.save_encoder(name, encoders.load_encoder("bert"), spec=SPEC, tokenizer=tokenizer, head=head, **options)


def change_card(name, **entries):
    path = pathlib.Path(name, "card.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def words(index):
    return f"What is the city number {index}"


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_explaining_and_pairs_are_checked(bert):
    pairs = from_texts([words(i) for i in range(20)], [0, 1] * 10)
    for part in pairs:
        part.arrays["text2"] = part.arrays["text"]
    card = cards.read(bert / "bert")
    with pytest.raises(ValueError, match="bert takes one text at a time. Expected no column text2"):
        encoders.adapt(bert / "bert", card, pairs)
    save_with_head("made", classes=("a", "b"))
    for kind, paired in (("tags", False), ("class", True)):
        change_card("made", target={"kind": kind, "pairs": paired})
        with pytest.raises(ValueError, match="Expected an encoder that predicts the class of one example"):
            questions.open_encoder("made", pairs)
    with pytest.raises(ValueError, match="made takes pairs of texts. Expected the columns text and text2"):
        encoders.adapt(bert / "made", cards.read(bert / "made"), from_texts([words(i) for i in range(20)]))


def test_a_card_with_another_target_is_refused(bert):
    save_with_head("m", target={"kind": "number", "pairs": False})  # which has one output
    for entry in ({"kind": "number", "pairs": False}, {"kind": "tags"}, {"kind": [], "pairs": True}, "tags"):
        change_card("m", target=entry)
        with pytest.raises(ValueError, match="is not a valid card: unexpected target"):
            cards.read(bert / "m")


def run(settings, data, **options):
    return finetune.finetune("bert", settings, dataclasses.replace(TRAINING, **options), data=data)


@pytest.mark.fit
def test_tags_from_a_file_to_predictions(bert):
    pytest.importorskip("nervaluate")
    lines = ["\n".join(f"{word} {'B-N' if word.isdigit() else 'O'}" for word in words(i).split()) for i in range(20)]
    (bert / "tags.txt").write_text("\n\n".join(lines))
    outcome = run(finetune.Settings(), "tags:tags.txt", run="t")
    assert {"test_loss", "test_accuracy", "test_span_f1", "test_span_precision", "test_span_recall"} <= outcome.keys()
    card = json.loads((bert / "runs/t/encoder/card.json").read_text())
    assert card["target"] == {"kind": "tags", "pairs": False}
    assert card["classes"] == ["B-N", "O"]
    assert main(["predict", "t", "--data", "tags:tags.txt", "--split", "test", "--probabilities"]) == 0
    rows = read("predictions.csv")
    assert list(rows[0]) == ["split", "row", "word", "token", "tag", "predicted", "probability", "p(B-N)", "p(O)"]
    assert len(rows) == 4 * 6
    assert np.mean([row["tag"] == row["predicted"] for row in rows]) == pytest.approx(outcome["test_accuracy"])
    model, tokenizer = encoders.load_classifier("t"), encoders.load_tokenizer("t")
    first = [row for row in rows if row["row"] == "0"]
    text = " ".join(row["token"] for row in first)
    ids = np.array(tokenizer.encode([text], special=True), np.int32)
    logits = model(ids).numpy()[0, 1:6]  # the words before the number are one piece each
    found = [float(row["p(O)"]) for row in first[:5]]
    np.testing.assert_allclose(found, scipy.special.softmax(logits, axis=-1)[:, 1], atol=1e-5)


@pytest.mark.slow
def test_texts_without_tags_are_predicted_too(bert):
    """`test_tags_from_a_file_to_predictions` covers the columns of words."""
    save_with_head("t", classes=("B-N", "O"), target={"kind": "tags", "pairs": False})
    texts = [f"{words(i)} {'and more ' * (12 * (i == 0))}" for i in range(20)]
    (bert / "t.csv").write_text("\n".join(["text", *texts]))
    assert main(["predict", "t", "--data", "table:t.csv"]) == 0
    rows = read("predictions.csv")
    assert list(rows[0]) == ["split", "row", "word", "token", "predicted", "probability"]
    assert [row["token"] for row in rows] == [word for text in texts for word in text.split()]
    assert {row["predicted"] for row in rows[:30]} <= {"B-N", "I-N", "O", ""}
    assert rows[29]["predicted"] == rows[29]["probability"] == ""  # beyond the context
    assert all(row["predicted"] for row in rows[30:])


@pytest.mark.fit
@pytest.mark.slow
def test_pairs_and_numbers_from_a_table_to_predictions(bert):
    """`test_tags_from_a_file_to_predictions` covers the way from data to predictions."""
    rows = [f"{words(i)},{words(i % 7)},{1000 + 2.5 * i}" for i in range(20)]
    (bert / "n.csv").write_text("\n".join(["text,text2,label", *rows]))
    outcome = run(finetune.Settings(target="number", ema_decay=0.5, layer_decay=0.5), "table:n.csv", run="n")
    card = cards.read(bert / "runs/n/encoder")
    assert card["target"] == {"kind": "number", "pairs": True}
    separator = encoders.load_tokenizer("bert").backend.token_to_id("[SEP]")
    assert card["network"]["separator"] == separator
    assert main(["predict", "n", "--data", "table:n.csv", "--split", "test"]) == 0
    found = read("predictions.csv")
    true, predicted = (np.array([float(row[name]) for row in found]) for name in ("label", "predicted"))
    assert np.sqrt(np.mean((true - predicted) ** 2)) == pytest.approx(outcome["test_rmse"], rel=1e-3)
    assert np.corrcoef(true, predicted)[0, 1] == pytest.approx(outcome["test_pearson"], abs=1e-2)
    assert 900 < predicted.mean() < 1100  # in the unit of the labels
    assert encoders.load_classifier("n").output_shape == (None, 1)


@pytest.mark.fit
@pytest.mark.slow
def test_several_labels_from_a_table_to_predictions(bert):
    """`test_tags_from_a_file_to_predictions` covers the way from data to predictions."""
    cells = ["=a;b", "b", "", "=a"]
    rows = [f"{words(i)},{cells[i % 4]}" for i in range(20)]
    (bert / "l.csv").write_text("\n".join(["text,label", *rows]))
    outcome = run(finetune.Settings(target="labels", freeze=True), "table:l.csv", run="l")
    assert {"test_f1_macro", "test_f1_micro", "test_accuracy"} <= outcome.keys()
    assert main(["predict", "l", "--data", "table:l.csv", "--probabilities"]) == 0
    found = read("predictions.csv")
    assert list(found[0]) == ["split", "row", "label", "text", "predicted", "p(=a)", "p(b)"]
    for row in found:
        chosen = [name for name in ("=a", "b") if float(row[f"p({name})"]) > 0.5]
        assert row["predicted"].lstrip("'") == ";".join(chosen)
    np.testing.assert_array_equal(
        encoders.load_encoder("bert").get_weights()[0], encoders.load_encoder("l").get_weights()[0]
    )


@pytest.mark.fit
def test_what_does_not_fit_is_refused_before_training(bert):
    source = documents("d", [words(i) for i in range(20)], [0, 1] * 10, ("a", "b"))
    with pytest.raises(ValueError, match="expected finite numbers as labels"):
        run(finetune.Settings(target="number"), hold_out(source))
    with pytest.raises(ValueError, match="Expected the target class with class_weights"):
        run(finetune.Settings(target="labels", class_weights=True), hold_out(source))
    assert not (bert / "runs").exists()
