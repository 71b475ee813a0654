"""Awkward audio files, read through every audio source."""

import re
import resource

import numpy as np
import pytest
import sounds
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import RATE, tone, write

from ssl_keras.data import audio
from ssl_keras.data.batches import Batches
from ssl_keras.data.readers import audio as reader
from ssl_keras.data.sources import load

SOURCES = ("audio", "transcripts", "connected")


def source(kind, folder, monkeypatch):
    """Loads all audio files of a folder through a source, and returns its `Splits`."""
    names = sorted(path.relative_to(folder) for path in folder.iterdir())
    if kind == "audio":
        return load(f"audio:{folder}")
    if kind == "transcripts":
        listed = folder.with_suffix(".tsv")
        listed.write_bytes(b"".join(bytes(folder / name) + b"\tsaid\n" for name in names))
        return load(f"transcripts:{listed}")
    monkeypatch.setattr(audio, "CONNECTED", (5, 3, 3))
    labeled = folder.with_suffix(".labeled")
    labeled.mkdir()
    folder.rename(labeled / "word")
    return load(f"connected:audio:{labeled}")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "clips"
    made.mkdir()
    return made


@pytest.mark.parametrize("kind", SOURCES)
def test_every_supported_format(folder, monkeypatch, kind):
    sounds.formats(folder)
    assert {path.suffix.lower() for path in folder.iterdir()} == reader.EXTENSIONS - {".mp2"}
    parts = source(kind, folder, monkeypatch)
    assert parts.train.rate == RATE
    if kind != "connected":
        assert sum(map(len, parts)) == len(sounds.FORMATS) + 2


@pytest.mark.parametrize("ending", sounds.FORMATS)
def test_formats_preserve_the_waveform(folder, ending):
    sounds.formats(folder)
    heard = reader.read(folder / f"a{ending}", RATE) / audio.MOST
    tolerance = 0.08 if ending in (".ogg", ".oga", ".opus", ".mp3") else 0.02
    if ending == ".mp3":  # starts with silence
        heard = heard[np.argmax(np.correlate(heard, tone(0.05), "valid")) :]
    middle = min(len(heard), len(tone())) // 2
    np.testing.assert_allclose(heard[400:middle], tone()[400:middle], atol=tolerance)


@pytest.mark.parametrize("kind", SOURCES)
def test_every_depth_of_samples(folder, monkeypatch, kind):
    sounds.depths(folder)
    for subtype in sounds.SUBTYPES:
        heard = reader.read(folder / f"{subtype}.wav", RATE) / audio.MOST
        settled = slice(20, len(tone()))  # ADPCM needs some samples to adapt its step
        np.testing.assert_allclose(heard[settled], tone()[settled], atol=0.02 if subtype != "PCM_16" else 1e-4)
    notes = " ".join(source(kind, folder, monkeypatch).train.notes)
    assert "4 of 10 clips have more than 16 bits per sample and are rounded to 16" in notes


@pytest.mark.parametrize("kind", SOURCES)
def test_clips_are_resampled_to_the_most_common_rate(folder, monkeypatch, kind):
    sounds.mixed(folder)
    parts = source(kind, folder, monkeypatch)
    assert parts.train.rate == RATE
    notes = " ".join(parts.train.notes)
    assert "2 of 6 clips are resampled to 16000 Hz, the most common rate: 1 from 8000 Hz, 1 from 44100 Hz" in notes
    assert "2 of 6 clips have several channels (up to 6), which are averaged" in notes


def test_ties_choose_the_higher_rate_and_held_out_splits_that_of_training(folder, caplog):
    for part, rates in (("train", (8_000, 16_000)), ("test", (8_000, 8_000))):
        for index, rate in enumerate(rates):
            for copy in range(2):
                write(folder / part, f"{index}{copy}.wav", rate=rate)
    parts = load(f"audio:{folder}")
    assert {part.rate for part in parts} == {16_000}
    assert "4 of 4 clips are resampled to 16000 Hz, the rate of the training split" in caplog.text


# ----- one long clip among short ones --------------------------------------------------------------


def test_a_row_is_as_long_as_its_batch(folder):
    sounds.one_long(folder)
    column = load(f"audio:{folder}").train.arrays["waveform"]
    assert column[np.arange(20)].shape == (20, 3_200)
    assert column[np.array([0, 20])].shape == (2, 90 * RATE)
    assert column.longest == 90 * RATE


def test_clips_are_cropped_before_rows_are_stacked(folder, monkeypatch):
    """Cropping while batching gives the same batch as cropping afterwards."""
    from ssl_keras.data.augment_audio import cut

    sounds.one_long(folder, seconds=3, count=6)
    train = reader._read(folder)
    most = RATE // 2

    def views(batch, random):
        return batch | {"waveform": cut(batch["waveform"], most, random)}

    batches = [Batches(train, 7, seed=1, preprocess=views, longest=longest) for longest in (None, most)]
    for whole, early in zip(*(batch.dataset(0, 3) for batch in batches)):
        np.testing.assert_array_equal(whole["waveform"], early["waveform"])
    widths = []
    monkeypatch.setattr(
        audio.Clips,
        "_padded",
        lambda self, starts, lengths, plain=audio.Clips._padded: (
            widths.append(max(lengths)) or plain(self, starts, lengths)
        ),
    )
    assert next(iter(batches[1].dataset(0, 1)))["waveform"].shape == (7, most)
    assert max(widths) == most


@pytest.mark.parametrize("kind", SOURCES)
def test_one_long_clip_needs_no_more_memory_than_itself(folder, monkeypatch, kind):
    sounds.one_long(folder)
    parts = source(kind, folder, monkeypatch)
    held = sum(part.arrays["waveform"].samples.nbytes for part in parts[: 3 if kind == "connected" else 1])
    assert held < 4 * 90 * RATE  # twice the samples of all files
    short = audio.limit_lengths(parts)
    assert max(part.arrays["waveform"].longest for part in short) <= 10 * RATE
    assert kind == "connected" or any("longer than 10 s: only their beginning" in n for p in short for n in p.notes)
    assert kind != "connected" or any("are skipped: only shorter ones are" in n for p in parts for n in p.notes)


def test_long_clips_stay_if_most_are_long(folder):
    clips = audio.hold_out(audio.clips("c", [tone(15, 1_000, 50)] * 10, 1_000))
    assert list(audio.limit_lengths(clips).train.lengths) == [15_000] * 7
    minutes = audio.hold_out(audio.clips("c", [tone(70, 1_000, 50)] * 10, 1_000))
    assert set(audio.limit_lengths(minutes).train.lengths) == {60_000}
    with pytest.raises(ValueError, match="expected clips of at most 10 s. All 7 are longer"):
        audio.drop_long_clips(minutes.train, 10, "")


# ----- files that are damaged or not audio ----------------------------------------------------------


BAD = {
    sounds.empty: "empty",
    sounds.no_samples: "no samples",
    sounds.matrix: "not a supported audio format: starts with",
    sounds.tagged_matrix: "not a supported audio format",
    sounds.video: r"not a supported audio format: starts with b'.*ftypM4A '. Expected WAV, FLAC",
    sounds.aac: "AAC, whatever its name. Expected WAV, .* Convert it",
    sounds.click: "shorter than 0.02 s",
    sounds.lying_flac: "cannot be read to its end: ",
    sounds.absurd_rate: "a rate of 2000000011 Hz. Expected 100 to 1000000 Hz",
    sounds.pipe: "not a regular file",
    sounds.loud: r"expected floats in \[-1, 1\]. Received: values up to 900",
    lambda folder: sounds.cut(folder, "cut.flac"): "cannot be read to its end: .*lost sync",
    lambda folder: sounds.cut(folder, "cut.mp3", format="MP3"): "the header states 16000 samples, but there are",
    lambda folder: sounds.cut(folder, "cut.opus", format="OGG", subtype="OPUS"): "damaged: ",
}


@pytest.mark.parametrize("make", BAD)
@pytest.mark.parametrize("kind", ["read", "audio", "transcripts"])
def test_a_bad_file_is_skipped_and_named(folder, monkeypatch, kind, make):
    """One bad file is skipped with a note, and two are an error. Both name the file and the reason."""
    bad, why = make(folder), BAD[make]
    if kind == "read":
        with pytest.raises(ValueError, match=f"{bad}: .*{why}"):
            reader.read(bad, RATE)
        return
    for name in "abc":
        write(folder, f"{name}.wav", tone(0.2, pitch=400))
    if make is sounds.pipe:  # not a regular file
        if kind == "transcripts":
            with pytest.raises(ValueError, match="no such file"):
                source(kind, folder, monkeypatch)
        else:
            assert "skipped files: special files (1)" in source(kind, folder, monkeypatch).train.notes
        return
    parts = source(kind, folder, monkeypatch)
    assert sum(map(len, parts)) == 3
    assert any("1 of 4" in note and bad.name in note and re.search(why, note) for note in parts.train.notes)
    assert "\n" not in "".join(parts.train.notes)
    sounds.empty(folder, "second.wav")
    with pytest.raises(ValueError, match=rf"2 of 5 clips cannot be read.*{why}") as error:
        source(kind, folder, monkeypatch)
    assert bad.name in str(error.value)


def test_a_clip_that_is_listed_several_times(folder):
    """Equal lines are one example, and examples of one clip are in one split."""
    for index in range(10):
        write(folder, f"{index}.wav", tone(0.1, pitch=200 + 50 * index))
    said = [(f"clips/{i % 10}.wav", f"take {i // 20}") for i in range(40)]
    (folder.parent / "said.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in said))
    for spec in ("", "[3.wav]"):
        splits = load(f"transcripts:{folder.parent}/said.tsv{spec}")
        names = [set(part.column("name")) for part in splits]
        assert sum(map(len, splits)) == 20
        assert sum(map(len, names)) == len(set.union(*names)) == 10
        assert all(len(part) == 2 * len(each) == len(part.lengths) for part, each in zip(splits, names))
        assert "20 lines repeat a clip and its transcript and are skipped" in splits.train.notes
        assert "10 clips have several transcripts; all examples of a clip are in one split" in splits.train.notes
    assert names[2] == {"clips/3.wav"}


def test_memory_is_not_allocated_for_false_headers(folder):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot be read to its end"):
            reader.read(sounds.lying_flac(folder), RATE)
    assert len(reader.read(sounds.lying_wav(folder), RATE)) == 3_200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_well_compressed_silence_is_accepted(folder, monkeypatch):
    long = sounds.silent_hours(folder)
    assert long.stat().st_size * reader.PLAUSIBLE < 60 * RATE
    assert len(reader.read(long, RATE)) == 60 * RATE
    monkeypatch.setattr(reader, "MAX_HOURS", 1 / 120)
    with pytest.raises(ValueError, match="longer than .* hours"):
        reader.read(long, RATE)


@pytest.mark.parametrize(
    "make",
    [
        sounds.lying_wav,
        lambda folder: sounds.cut(folder, "cut.wav"),
        lambda folder: sounds.cut(folder, "cut.aiff"),
        lambda folder: sounds.cut(folder, "cut.au"),
    ],
)
def test_a_truncated_file_is_read_with_a_note(folder, make):
    make(folder)
    for name in "abc":
        write(folder, f"{name}.wav")
    notes = " ".join(load(f"audio:{folder}").train.notes)
    assert "1 of 4 clips are shorter than their headers state and are used as they are" in notes


def test_a_name_that_is_not_utf8(folder):
    sounds.odd_name(folder)
    assert len(reader.read(next(folder.iterdir()), RATE)) == 3_200


def test_an_unreadable_clip_is_remembered_in_the_cache(folder, monkeypatch):
    monkeypatch.setattr("ssl_keras.data.cache.materialize.__defaults__", (0, "reading"))
    sounds.cut(folder, "b.flac")
    for name in "acd":
        write(folder, f"{name}.wav", tone(0.3))
    first = reader._read(folder)
    monkeypatch.setattr(reader, "_decode", None)
    again = reader._read(folder)
    assert isinstance(again.arrays["waveform"].samples, np.memmap)
    assert list(again.column("name")) == list(first.column("name")) == ["a.wav", "c.wav", "d.wav"]
    assert first.fingerprint() == again.fingerprint()
    np.testing.assert_array_equal(again.column("waveform"), first.column("waveform"))


def test_a_long_file_is_an_error_before_it_is_decoded(folder, monkeypatch):
    sounds.one_long(folder, count=1)
    monkeypatch.setattr(reader, "_decode", None)
    with pytest.raises(ValueError, match="zz.wav: longer than 60 s"):
        reader.read(folder / "zz.wav", RATE, 60)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the bytes of a file of each format, and a path to write to."""
    folder = tmp_path_factory.mktemp("whole")
    sounds.formats(folder)
    return [path.read_bytes() for path in sorted(folder.iterdir())], folder / "any"


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(which=st.integers(0, 99), changes=st.lists(st.tuples(st.integers(0, 250), st.binary(max_size=4)), max_size=6))
def test_any_bytes_are_audio_or_a_one_line_error(whole, which, changes):
    contents, path = whole
    content = bytearray(contents[which % len(contents)])
    for place, new in changes:
        content[place : place + (len(new) or 40)] = new  # empty values delete bytes
    path.write_bytes(content)
    message = ""
    try:
        reader.read(path, RATE)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
