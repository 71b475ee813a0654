"""The recurrent language model: the tutorial's formula, dropout, settings, and starting from an encoder."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from contract import prepared_sequences

from ssl_keras.cli import main
from ssl_keras.data import sources
from ssl_keras.data.random import BatchRandom
from ssl_keras.encoders import load_encoder
from ssl_keras.modalities import recurrent_text
from ssl_keras.objectives import recurrent_lm
from ssl_keras.training.pretrain import pretrain

V, D = 7, 8


def test_it_is_the_tutorials_formula():
    """The loss equals −log softmax of ⟨g(x₁…x_t), embedding of x_{t+h}⟩ in a NumPy loop."""
    settings = recurrent_lm.Settings(width=D, layers=1, horizon=3, context=5, vocabulary=V)
    objective = recurrent_lm.build(settings, None)
    tokens = tf.constant(np.random.default_rng(0).integers(0, V, (2, 8)), tf.int32)
    table = objective.encoder.get_layer("embeddings").tokens.numpy()
    losses = []
    for row in tokens:
        for t in range(1, 6):
            g = objective.encoder(row[None, :t])[0, -1].numpy()
            scores = table @ g
            losses.append(np.log(np.exp(scores).sum()) - scores[row[t - 1 + 3]])
    batch = {"tokens": tokens}
    total, count = objective.batch_loss(batch, objective.logits(batch))
    assert float(count) == len(losses)
    assert float(total) == pytest.approx(np.sum(losses), rel=1e-5)


def test_dropout_drops_features_of_all_layers():
    settings, splits = prepared_sequences(recurrent_lm, layers=2, dropout=0.5)
    objective = recurrent_lm.build(settings, splits.train.spec())
    batch = {name: tf.constant(value) for name, value in splits.train.gather(np.arange(8)).items()}
    batch = objective.preprocess(batch | {"weight": tf.ones(8)}, BatchRandom(0, 0, 0, 8))
    seen, drop = [], recurrent_text.dropout(batch, 0.5)
    objective.logits(batch, lambda x: seen.append(drop(tf.ones_like(x))) or x)
    assert len(seen) == 3  # embeddings, two layers
    assert {float(v) for mask in seen for v in np.unique(mask)} == {0.0, 2.0}
    assert recurrent_text.dropout(batch, 0.0) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "horizon must be 1"),
        ({"cell": "rnn"}, "cell must be one of"),
        ({"width": 7}, "width must be even"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        recurrent_lm.Settings(**settings)


@pytest.mark.fit
@pytest.mark.slow  # test_language.py starts a run from another
def test_it_goes_on_from_one_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training = dataclasses.replace(
        recurrent_lm.DEFAULTS, steps=2, eval_every=1, batch_size=8, warmup=0, report_every=1, run="text"
    )
    small = recurrent_lm.Settings(width=16, layers=1, context=16)
    pretrain("recurrent_lm", small, training, data=sources.load("pydoc"))
    assert load_encoder("text").output_shape == (None, None, 16)
    again = ["pretrain", "recurrent_lm", "--init", "text", "--steps", "1", "--batch-size", "8", "--run", "again"]
    assert main([*again, "--horizon", "1", "--context", "16"]) == 0
    assert main(["pretrain", "recurrent_lm", "--init", "text", "--width", "32"]) == 1
    assert "Leave out width" in capsys.readouterr().err
    assert main(["pretrain", "seq2seq", "--init", "text", "--data", "pydoc"]) == 1
    assert "is not a bidirectional recurrent encoder. Expected an encoder saved by seq2seq" in capsys.readouterr().err
