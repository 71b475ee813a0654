"""Speech recognition: the loss against all paths, decoding, transcripts, and the whole flow."""

import dataclasses
import itertools
import logging

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from contract import prepared_sayings, tones

from ssl_keras.cli import main
from ssl_keras.data import audio, sources
from ssl_keras.data.batches import Batches
from ssl_keras.data.splits import Splits
from ssl_keras.inference import ctc as decoding
from ssl_keras.objectives import ctc, wav2vec2
from ssl_keras.training import pretrain

LETTERS = "abc"


def objective_and_batch(**options):
    settings, splits = prepared_sayings(**options)
    keras.utils.set_random_seed(0)
    objective = ctc.build(settings, splits.train.spec())
    batches = Batches(splits.train, 6, preprocess=objective.preprocess)
    return objective, batches.dataset(0, 1).get_single_element()


def collapsed(path):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != decoding.BLANK]


def test_the_loss_is_that_of_all_paths():
    """Returns −log Σ Π P over every path that writes the target, one path at a time."""
    objective, batch = objective_and_batch()
    share = np.random.default_rng(0).dirichlet(np.ones(4), (3, 6)).astype(np.float32)
    frames, targets = [6, 5, 3], [[1, 2, 3], [2, 2, -1], [3, -1, -1]]
    made = []

    def given(encoder, head, x):
        return tf.math.log(share), tf.constant(frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "frame_logits", given)
        for row in range(3):
            weight = np.eye(3, dtype=np.float32)[row]
            total, count = objective.batch_loss({"waveform": None, "target": tf.constant(targets), "weight": weight})
            made.append(float(total))
            assert count == sum(symbol >= 0 for symbol in targets[row])
    for row in range(3):
        target = [symbol for symbol in targets[row] if symbol >= 0]
        ways = (p for p in itertools.product(range(4), repeat=frames[row]) if collapsed(p) == target)
        total = sum(np.prod([share[row, t, symbol] for t, symbol in enumerate(path)]) for path in ways)
        assert made[row] == pytest.approx(-np.log(total), rel=1e-4)


def test_the_loss_of_a_long_clip_and_of_one_that_cannot_be():
    """Against the forward recursion in float64; some implementations fail at 700 nats."""
    objective, _ = objective_and_batch()
    target = np.arange(150) % 3 + 1
    log_share = np.log(np.full((500, 4), 0.001 / 3))
    log_share[:, 0] = np.log(0.999)
    states = np.stack([np.zeros(150, int), target], 1).ravel().tolist() + [0]  # a blank around each symbol
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_share[0, states[:2]]
    for t in range(1, 500):
        before = np.stack([alpha, np.r_[-np.inf, alpha[:-1]], np.r_[-np.inf, -np.inf, alpha[:-2]]])
        before[2, ::2] = -np.inf  # blanks cannot be skipped
        alpha = np.logaddexp.reduce(before, 0) + log_share[t, states]
    expected = -np.logaddexp(alpha[-1], alpha[-2])
    assert expected > 750
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            decoding, "frame_logits", lambda *_: (tf.constant(log_share[None], tf.float32), tf.constant([500]))
        )
        batch = {"waveform": None, "target": tf.constant(target[None], tf.int32), "weight": tf.ones(1)}
        assert float(objective.batch_loss(batch)[0]) == pytest.approx(expected, rel=1e-4)
        patch.setattr(decoding, "frame_logits", lambda *_: (tf.zeros((1, 100, 4)), tf.constant([100])))
        with pytest.raises(tf.errors.InvalidArgumentError, match="Not enough time"):
            objective.batch_loss(batch)


def test_what_is_heard():
    """Repetitions are removed, then blanks; frames of padding are ignored."""
    path = [[0, 1, 1, 0, 1, 2, 2, 3], [3, 3, 3, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]]
    made = decoding.greedy(tf.one_hot(path, 4), [8, 5, 8])
    assert made == [[1, 1, 2, 3], [3], []]
    assert made == [collapsed(row[:count]) for row, count in zip(path, [8, 5, 8])]


def test_padding_changes_nothing():
    objective, batch = objective_and_batch()
    longer = batch | {
        "waveform": tf.pad(batch["waveform"], [[0, 0], [0, 3_000]], constant_values=-1),
        "target": tf.pad(batch["target"], [[0, 0], [0, 2]], constant_values=-1),
    }
    np.testing.assert_allclose(objective.batch_loss(longer)[0], objective.batch_loss(batch)[0], rtol=1e-5)
    assert objective.batch_loss(longer)[1] == objective.batch_loss(batch)[1] == 18


def test_characters_and_words():
    letters = ctc.Settings(alphabet="␣ a b")
    assert letters.symbols.split("ab  a ") == ["a", "b", "␣", "a"]
    assert letters.symbols.encode(["ab a"]) == [[2, 3, 1, 2]]
    with pytest.raises(ValueError, match="the target 'abc' has the unknown symbol 'c'"):
        letters.symbols.encode(["ab", "abc"])
    assert letters.symbols.decode([2, 3, 1, 2, -1]) == "ab a"
    words = ctc.Settings(words=True, alphabet="one two")
    assert words.symbols.split("two one") == ["two", "one"]
    assert words.symbols.decode([2, 1]) == "two one"


def test_clips_that_cannot_hold_their_transcripts_are_left_out(caplog):
    names, rate = ["a", "b", "c"], 8_000
    waveforms = [np.full(1_600, 0.1), np.full(1_600, 0.1), np.full(40_000, 0.1)]  # 10 frames, 10, 250

    def prepared(texts, **options):
        samples = [audio.as_int16("x", w) for w in waveforms]
        part = audio.source("c", np.concatenate(samples), [len(s) for s in samples], rate, names, target=texts)
        return ctc.prepare(ctc.Settings(**options), Splits(part, part, part))[1].train

    assert len(prepared(["abcabcabca", "aaaaa", "b"])) == 3  # "aaaaa" needs nine
    with caplog.at_level(logging.WARNING):
        left = prepared(["abcabcabcab", "aaaaaa", "b"])
    assert list(left.lengths) == [40_000]
    assert left.column("target")[0][0] == 2
    assert "2 of 3 clips are skipped" in caplog.text
    assert len(prepared(["abc", "abc", "b"], seconds=1.0)) == 2
    with pytest.raises(ValueError, match="expected clips of at most 0.1 s"):
        prepared(["abc", "abc", "b"], seconds=0.1)


def test_transcripts_are_read(tmp_path):
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", np.sin(np.arange(4_000) / (5 + i)), 16_000)
    listed = tmp_path / "said.tsv"
    listed.write_text("".join(f"{i}.wav\tword {i}\n" for i in range(6)))
    splits = sources.load(f"transcripts:{listed}")
    said = {name: text for part in splits for name, text in zip(part.column("name"), part.column("target"))}
    assert said == {f"{i}.wav": f"word {i}" for i in range(6)}
    held_out = sources.load(f"transcripts:{listed}[3*]")
    assert list(held_out.test.column("target")) == ["word 3"]
    for line, message in (
        ("7.wav\tnothing\n", "no such file: .*7.wav. Expected lines"),
        ("what is said, " * 50 + "\t0.wav\n", "no such file: .*what is said"),
        ("0.wav\n", "line 7: expected a path"),
        ("0.wav\t \n", "line 7: expected"),
    ):
        listed.write_text("".join(f"{i}.wav\tword\n" for i in range(6)) + line)
        with pytest.raises(ValueError, match=message):
            sources.load(f"transcripts:{listed}")
    with pytest.raises(ValueError, match="no such file"):
        sources.load(f"transcripts:{tmp_path}/none.tsv")
    listed.write_text("")
    with pytest.raises(ValueError, match="no examples"):
        sources.load(f"transcripts:{listed}")


def test_connected_clips(monkeypatch):
    monkeypatch.setattr(audio, "CONNECTED", (20, 5, 5))
    splits = audio.connected(tones())
    again = audio.connected(tones())
    for part, other, single in zip(splits, again, tones()):
        assert list(part.column("target")) == list(other.column("target"))
        np.testing.assert_array_equal(part.gather(np.array([3]))["waveform"], other.gather(np.array([3]))["waveform"])
        words = [text.split() for text in part.column("target")]
        assert all(3 <= len(each) <= 7 for each in words)
        assert {word for each in words for word in each} <= set(part.classes or single.classes)
        # As long as its clips and pauses together.
        shortest, longest = single.lengths.min(), single.lengths.max()
        for each, length in zip(words, part.lengths):
            assert len(each) * (shortest + 400) + 400 <= length <= len(each) * (longest + 2_400) + 2_400
    unlabeled = [dataclasses.replace(part, arrays={"waveform": part.arrays["waveform"]}) for part in tones()]
    with pytest.raises(ValueError, match="no labels"):
        audio.connected(Splits(*unlabeled))


@pytest.mark.fit
def test_the_whole_way(tmp_path, monkeypatch, capsys):
    """From a speech encoder to transcripts of files of any sampling rate."""
    monkeypatch.chdir(tmp_path)
    training = dataclasses.replace(
        wav2vec2.DEFAULTS, steps=2, eval_every=1, batch_size=16, warmup=0, tensorboard=False, run="sounds"
    )
    small = {"width": 16, "layers": 1, "heads": 2, "channels": 8}
    pretrain.pretrain("wav2vec2", wav2vec2.Settings(**small, codes=8, projection=16), training, data=tones())
    for i, part in enumerate(tones().train.gather(np.arange(12))["waveform"]):
        soundfile.write(tmp_path / f"{i}.wav", part[part != audio.PADDING], 8_000)
    label = tones().train.column("label")
    lines = [f"{i}.wav\t{' '.join(tones().train.classes[label[i]])}\n" for i in range(12)]
    (tmp_path / "said.tsv").write_text("".join(lines))
    said = ["--data", f"transcripts:{tmp_path}/said.tsv"]
    quick = ["--steps", "2", "--eval-every", "1", "--batch-size", "4", "--warmup", "0", "--no-tensorboard"]
    assert main(["pretrain", "ctc", *said, "--init", "sounds", "--words", "--run", "heard", *quick]) == 0
    soundfile.write(tmp_path / "stereo.flac", np.zeros((9_000, 2)) + 0.01, 22_050)
    capsys.readouterr()
    assert main(["transcribe", "heard", "0.wav", "stereo.flac"]) == 0
    out = capsys.readouterr().out.strip().split("\n")
    assert [line.split(":")[0] for line in out] == ["0.wav", "stereo.flac"]
    assert main(["score", "heard", *said, "--record"]) == 0
    assert "word error rate" in capsys.readouterr().out
    (tmp_path / "empty.wav").write_bytes(b"")
    for arguments, message in (
        (["transcribe", "heard", "empty.wav"], "is empty"),
        (["transcribe", "heard", "none.wav"], "none.wav: cannot be opened: No such file"),
        (["transcribe", "sounds", "0.wav"], "is not a speech recognizer. Expected an encoder of ctc"),
        (["pretrain", "ctc", "--data", f"audio:{tmp_path}"], "Expected data with transcripts"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seconds": 100.0}, "seconds must be"), ({"rate": 5}, "rate must be"), ({"shift": 0.1}, "cut off words")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ctc.Settings(**options)
