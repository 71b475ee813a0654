"""Audio: file formats, unreadable files, sampling rates, and augmentation."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from contract import tones

from ssl_keras.data import audio, augment_audio, sources
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.readers import audio as audio_reader
from ssl_keras.data.readers import espeak

RATE = 8_000


def tone(seconds, rate=RATE, pitch=440):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def whole_names(splits):
    return [name for part in splits for name in part.column("name")]


def write(path, waveform, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, **options)


def clip(source, index):
    row = source.gather(np.array([index]))["waveform"][0]
    return row[: source.lengths[index]] / 32_768, row[source.lengths[index] :]


def test_a_folder_of_many_kinds(tmp_path):
    """WAV, FLAC and OGG; stereo, other rates, 24 bits, floats: all become one channel at one rate."""
    write(tmp_path / "one" / "a.wav", tone(0.5))
    write(tmp_path / "one" / "b.flac", np.stack([tone(0.25), -tone(0.25)], 1))  # the channels cancel out
    write(tmp_path / "one" / "c.wav", tone(0.5, 16_000), 16_000, subtype="FLOAT")
    write(tmp_path / "two" / "d.wav", tone(0.3, 44_100), 44_100, subtype="PCM_24")
    write(tmp_path / "two" / "e.ogg", tone(0.5))
    whole = audio_reader._read(tmp_path)
    assert whole.rate == RATE
    assert whole.classes == ("one", "two")
    assert list(whole.column("name")) == ["one/a.wav", "one/b.flac", "one/c.wav", "two/d.wav", "two/e.ogg"]
    assert list(whole.column("label")) == [0, 0, 0, 1, 1]
    assert list(whole.lengths) == [4_000, 2_000, 4_000, 2_400, 4_000]
    for index, at_most in ((0, 1e-4), (2, 2e-3), (3, 2e-3)):
        sound_of, padding = clip(whole, index)
        middle = slice(200, -200)  # without the edges of the filter
        np.testing.assert_allclose(sound_of[middle], tone(len(sound_of) / RATE)[middle], atol=at_most)
        assert np.all(padding == audio.PADDING)
    assert np.all(clip(whole, 1)[0] == 0)
    splits = sources.load(f"audio:{tmp_path}")
    assert sum(map(len, splits)) == 5
    assert splits.train.short_name == tmp_path.name
    for part in splits:
        assert list((part.gather(np.arange(len(part)))["waveform"] != audio.PADDING).sum(1)) == list(part.lengths)


def test_given_splits_are_kept(tmp_path):
    for part, seconds in (("train", 0.3), ("val", 0.2), ("test", 0.5)):
        for name in ("yes", "no"):
            write(tmp_path / part / name / "a.wav", tone(seconds))
    splits = sources.load(f"audio:{tmp_path}")
    assert [list(part.lengths) for part in splits] == [[2_400] * 2, [1_600] * 2, [4_000] * 2]
    write(tmp_path / "alone" / "test" / "a.wav", tone(0.1))
    with pytest.raises(ValueError, match="has test but no train"):
        sources.load(f"audio:{tmp_path}/alone")
    write(tmp_path / "test" / "maybe" / "a.wav", tone(0.1))
    with pytest.raises(ValueError, match="other classes than the training split. Expected: no, yes"):
        sources.load(f"audio:{tmp_path}")


def test_bad_files_are_named(tmp_path, caplog):
    for i in range(5):
        write(tmp_path / f"{i}.wav", tone(0.1))
    (tmp_path / "empty.wav").write_bytes(b"")
    audio_reader.load(tmp_path)
    assert "skipped 1 of 6 clips that cannot be read" in caplog.text
    assert "empty.wav" in caplog.text
    (tmp_path / "noise.wav").write_bytes(b"RIFF" + bytes(range(200)))
    with pytest.raises(ValueError, match="2 of 7 clips cannot be read.*noise.wav"):
        audio_reader.load(tmp_path)
    (tmp_path / "noise.wav").unlink()
    whole = (tmp_path / "0.wav").read_bytes()
    (tmp_path / "cut.flac").write_bytes(b"")
    write(tmp_path / "cut.flac", np.random.default_rng(0).uniform(-1, 1, 8_000))
    (tmp_path / "empty.wav").write_bytes(whole)
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    write(tmp_path / "loud.wav", np.full(800, 900.0), subtype="FLOAT")
    why = "2 of 8 clips cannot be read.*cannot be .* its end.*cut.flac.*to 900.*loud.wav"
    with pytest.raises(ValueError, match=why):
        audio_reader.load(tmp_path)
    (tmp_path / "cut.flac").unlink()
    (tmp_path / "loud.wav").unlink()
    write(tmp_path / "click.wav", tone(0.01))
    notes = audio_reader.load(tmp_path).train.notes
    assert any(re.search("skipped 1 of 7 clips .* shorter than 0.02 s: .*click.wav", note) for note in notes)
    write(tmp_path / "clack.wav", tone(0.01))
    with pytest.raises(ValueError, match="2 of 8 clips cannot be read.*shorter than 0.02 s: .*clack.wav.*click.wav"):
        audio_reader.load(tmp_path)


def test_floats_that_are_clipped_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("ssl_keras.data.cache.materialize.__defaults__", (0, "reading"))
    for name, loudest in (("a", 1.0), ("b", 1.1), ("c", 0.5), ("d", -1.05)):
        write(tmp_path / f"{name}.wav", tone(0.1) / np.abs(tone(0.1)).max() * loudest, subtype="FLOAT")
    write(tmp_path / "e.wav", np.ones(1_000), subtype="PCM_16")
    note = "2 of 5 clips have floats beyond [-1, 1], up to 1.2, which are clipped"
    for _ in range(2):  # the second time from the cache
        assert note in audio_reader.load(tmp_path).train.notes
    assert audio.clips("c", [np.full(800, 1.1), np.zeros(800)], RATE).notes == (note.replace("2 of 5", "1 of 2"),)


def test_full_scale_audio_is_clipped_and_not_an_error(tmp_path):
    loud = np.sign(np.random.default_rng(0).normal(size=16_000))
    soundfile.write(tmp_path / "lossy.mp3", loud, 16_000)
    assert np.abs(soundfile.read(tmp_path / "lossy.mp3")[0]).max() > 1 + audio.OVERSHOOT
    for rate in (16_000, 11_025):  # resampling overshoots too
        soundfile.write(tmp_path / "exact.wav", loud, 16_000)
        for name in ("lossy.mp3", "exact.wav"):
            waveform = audio_reader.read(tmp_path / name, rate)
            assert waveform.max() >= audio.MOST - 1
            assert waveform.min() == audio.LEAST


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: audio_reader.load("nowhere"), "no such folder"),
        (lambda: audio.clips("c", [], RATE), "no examples"),
        (lambda: audio.clips("c", [np.zeros(0)], RATE, ["a.wav"]), "shorter than 0.02 s, the first is a.wav"),
        (lambda: audio.clips("c", [np.zeros((100, 2))], RATE), "one channel"),
        (lambda: audio.clips("c", [np.full(800, 2.0)], RATE), r"floats in \[-1, 1\]"),
        (lambda: audio.clips("c", [np.full(800, np.nan)], RATE), "finite samples"),
        (lambda: audio.clips("c", [np.zeros(800, np.int32)], RATE), "expected int16"),
    ],
)
def test_invalid_audio_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_folders_without_audio_and_mixed_folders(tmp_path):
    with pytest.raises(ValueError, match="no examples"):
        audio_reader.load(tmp_path)
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 1 files"):
        audio_reader.load(tmp_path)
    write(tmp_path / "sub" / "b.wav", tone(0.1))
    with pytest.raises(ValueError, match="is next to subfolders"):
        audio_reader.load(tmp_path)


def test_silent_clips_are_logged(caplog):
    audio.clips("c", [np.zeros(800), tone(0.1)], RATE, ["quiet.wav", "loud.wav"])
    assert "1 clips are silent, the first is quiet.wav." in caplog.text


def test_a_line_break_in_a_file_name_is_escaped(caplog):
    audio.clips("c", [np.zeros(800), tone(0.1)], RATE, ["a\nb.wav", "loud.wav"])
    assert r"1 clips are silent, the first is a\nb.wav." in caplog.text
    with pytest.raises(ValueError, match=r"the first is a\\nb.wav with 8 samples"):
        audio.clips("c", [np.ones(8), tone(0.1)], RATE, ["a\nb.wav", "loud.wav"])


def test_clips_are_a_column():
    """Rows are selected by an array of indices, a mask, a slice, or one index."""
    column = tones().train.arrays["waveform"]
    some = column[np.array([5, 2])]
    np.testing.assert_array_equal(some[1][: column.lengths[2]], column[2])
    mask = np.zeros(len(column), bool)
    mask[[2, 5]] = True
    np.testing.assert_array_equal(column[mask], some[::-1])
    np.testing.assert_array_equal(column[:3][2][: column.lengths[2]], column[2])


def test_samples_never_equal_padding():
    source = audio.clips("c", [np.full(400, -32_768, np.int16), np.full(800, -1.0)], RATE)
    rows = source.gather(np.array([0, 1]))["waveform"]
    assert list((audio.unit_range(tf.constant(rows)) > -1).numpy().sum(1)) == [400, 800]


def test_speakers_are_held_out_by_name():
    splits = audio.hold_out_by_name(tones(), "*_b_*")
    assert all("_b_" in name for name in splits.test.column("name"))
    assert not any("_b_" in name for part in splits[:2] for name in part.column("name"))
    assert sum(map(len, splits)) == 200
    assert len(splits.test) == 100
    for part in splits:
        rows = part.gather(np.arange(len(part)))["waveform"]
        assert list((rows != audio.PADDING).sum(1)) == list(part.lengths)
    below = [f"room/{name}" for name in whole_names(tones())]
    rows = [clip(part, index)[0] for part in tones() for index in range(len(part))]
    nested = audio.hold_out(audio.clips("nested", rows, RATE, below))
    found = [len(audio.hold_out_by_name(nested, pattern).test) for pattern in ("1_b_*", "room/1_b_*")]
    assert found[0] == found[1] > 9
    with pytest.raises(ValueError, match="no file name matches"):
        audio.hold_out_by_name(tones(), "*_c_*")
    with pytest.raises(ValueError, match="every file name matches"):
        audio.hold_out_by_name(tones(), "*")


def test_resampling_preserves_a_tone():
    splits = audio.resample_splits(tones(), 16_000)
    assert splits.train.rate == 16_000
    assert "name" not in splits.train.arrays
    assert list(splits.train.lengths) == list(2 * tones().train.lengths)
    before, after = clip(tones().train, 3)[0], clip(splits.train, 3)[0]
    np.testing.assert_allclose(after[200:-200:2], before[100:-100], atol=2e-3)
    np.testing.assert_array_equal(splits.train.column("label"), tones().train.column("label"))


# ----- augmentation -----------------------------------------------------------------------------


CHANGES = {
    "speed": {"speed": 0.3},
    "shift": {"shift": 0.02},
    "gain": {"gain": 12.0},
    "noise": {"noise": 0.5},
    "all": {"speed": 0.1, "shift": 0.01, "gain": 3.0, "noise": 0.1},
}


def batch_of(*lengths):
    x = np.full((len(lengths), max(lengths)), -1, np.float32)
    for row, length in zip(x, lengths):
        row[:length] = tone(length / RATE, pitch=300)
    return tf.constant(x)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_a_function_of_seed_step_and_position(name):
    x, changes = batch_of(800, 500, 300, 1_000), augment_audio.AudioAugmentation(**CHANGES[name])
    made = augment_audio.change(x, BatchRandom(1, 5, 0, 4), changes, RATE, 1_000)
    again = tf.function(lambda x: augment_audio.change(x, BatchRandom(1, 5, 0, 4), changes, RATE, 1_000))(x)
    np.testing.assert_allclose(made, again, atol=1e-6)
    part = augment_audio.change(x[2:], BatchRandom(1, 5, 2, 2), changes, RATE, 1_000)
    np.testing.assert_array_equal(part, made[2:])
    other = augment_audio.change(x, BatchRandom(1, 6, 0, 4), changes, RATE, 1_000)
    assert not np.array_equal(made, other)
    # Padding comes after the clip, and no sample equals padding.
    for row in made.numpy():
        count = (row > -1).sum()
        assert count > 100
        assert np.all(row[:count] > -1)
        assert np.all(row[:count] < 1)
        assert np.all(row[count:] == -1)


def test_speed_is_speed():
    """A clip at twice the speed is half as long and an octave higher."""
    random = BatchRandom(0, 0, 0, 64)
    x = batch_of(*[4_000] * 64)
    made = augment_audio.change_speed(x, 1.5, random).numpy()
    factors = 1.5 ** (2 * random.uniform("speed", (1,)).numpy()[:, 0] - 1)
    assert factors.min() < 0.72
    assert factors.max() > 1.4
    for row, factor in zip(made, factors):
        count = (row > -1).sum()
        assert abs(count - 4_000 / factor) <= 1
        np.testing.assert_allclose(row[: count - 2], tone(count / RATE, pitch=300 * factor)[: count - 2], atol=0.01)


def test_shift_gain_and_noise_in_their_ranges():
    x, random = batch_of(*[2_000] * 200), BatchRandom(0, 0, 0, 200)
    moved = augment_audio.shift_in_time(x, 5, random).numpy()
    counts = (moved > -1).sum(1) - 2_000
    assert set(counts) == set(range(-5, 6))
    for row, by in zip(moved, counts):
        if by >= 0:
            assert np.all(row[:by] == 0)
            np.testing.assert_array_equal(row[by : 2_000 + by], x[0])
        else:
            np.testing.assert_array_equal(row[: 2_000 + by], x[0][-by:])
    louder = augment_audio.change(0.1 * x, random, augment_audio.AudioAugmentation(gain=6), RATE, 2_000).numpy()
    decibels = 20 * np.log10(louder.std(1) / np.std(0.1 * x[0]))
    assert -6.01 < decibels.min() < -5.5
    assert 5.5 < decibels.max() < 6.01
    noisy = augment_audio.change(0.1 * x, random, augment_audio.AudioAugmentation(noise=0.5), RATE, 2_000)
    noise = noisy.numpy() - 0.1 * x
    shares = noise.numpy().std(1) / np.std(0.1 * x[0])
    assert shares.min() < 0.05
    assert 0.45 < shares.max() < 0.53
    assert abs(np.corrcoef(noise)[0, 1:]).mean() < 0.05  # the noise differs between clips


def test_long_clips_are_cut():
    x = np.tile(np.linspace(-0.5, 0.5, 5_000, dtype=np.float32), (100, 1))  # a sample encodes its position
    x[0, 900:], x[1, 300:] = -1, -1
    made = augment_audio.cut(x, 1_000, BatchRandom(0, 0, 0, 100)).numpy()
    assert made.shape == (100, 1_000)
    np.testing.assert_array_equal(made[:2], x[:2, :1_000])
    firsts = np.rint((made[2:, 0] + 0.5) * 4_999).astype(int)
    for row, first in zip(made[2:], firsts):
        np.testing.assert_array_equal(row, x[2, first : first + 1_000])
    assert firsts.min() < 200
    assert firsts.max() > 3_800
    assert augment_audio.cut(x[:2], 1_000, BatchRandom(0, 0, 0, 2)).shape == (2, 900)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": -0.1}, "speed must be at least 0"),
        ({"noise": np.inf}, "noise must be a finite number"),
        ({"gain": np.nan}, "gain must be a finite number"),
    ],
)
def test_invalid_augmentation_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        augment_audio.AudioAugmentation(**changes)


def test_batches_of_clips_are_bucketed_by_length():
    lengths = np.random.default_rng(0).integers(200, 4_000, 3_000)
    samples = np.zeros(int(lengths.sum()), np.int16) + 1
    source = audio.source("c", samples, lengths, RATE, [str(i) for i in range(3_000)])
    batches = Batches(source, 16)
    spread = np.mean([np.ptp(lengths[batches.indices(step)]) for step in range(187)])
    plain = Batches(dataclasses.replace(source, lengths=None), 16)
    assert spread < 200
    assert np.mean([np.ptp(lengths[plain.indices(step)]) for step in range(187)]) > 3_000


def test_spoken_digits():
    tfds = pytest.importorskip("tensorflow_datasets")
    try:
        prepared = tfds.builder("spoken_digit").is_prepared()
    except Exception:  # noqa: BLE001 - absent in whatever way
        prepared = False
    if not prepared:
        pytest.skip("spoken_digit is not prepared")
    splits = sources.load("tfds:spoken_digit[*_theo_*]")
    assert [len(part) for part in splits] == [1_800, 200, 500]
    assert splits.train.rate == 8_000
    speakers = [{name.split("_")[1] for name in part.column("name")} for part in splits]
    assert speakers[2] == {"theo"}
    assert "theo" not in speakers[0] | speakers[1]
    assert splits.test.short_name == "spoken_digit-theo"
    name, label = splits.test.column("name")[7], splits.test.column("label")[7]
    assert splits.test.classes[label] == name[0]


@pytest.mark.slow
def test_synthetic_digits():
    """They are named synthetic, have no duplicates, and a voice can be held out."""
    pytest.importorskip("espeakng_loader")
    splits = sources.load("espeak")
    assert all("synthetic" in part.name for part in splits)
    clips = espeak.digits()[0]
    assert len({clip.tobytes() for clip in clips}) == len(clips) == sum(map(len, splits))
    assert np.bincount(splits.train.column("label"), minlength=10).min() > 40
    voice = sources.load("espeak[*_f2_*]").test
    assert len(voice) == 80
    assert all("_f2_" in name for name in voice.column("name"))


@pytest.mark.slow
def test_synthetic_digits_are_deterministic():
    pytest.importorskip("espeakng_loader")
    digest = (
        "import hashlib; from ssl_keras.data.readers.espeak import digits; "
        "print(hashlib.sha256(b''.join(clip.tobytes() for clip in digits()[0])).hexdigest())"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", digest], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second


def test_synthetic_digits_need_a_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install espeakng-loader"):
        sources.load("espeak")
