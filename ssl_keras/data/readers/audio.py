"""Audio files: a folder of clips, or a list of clips with transcripts.

All headers are read first. They decide the sampling rate, and are checked before memory is allocated.

Shapes: `T` samples of a clip.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import re
import stat
import typing

import numpy as np
import soundfile

from ssl_keras.data import audio
from ssl_keras.data.audio import PADDING, SHORTEST, as_int16, check_range, resample, resampled_length, source
from ssl_keras.data.cache import contents, materialize
from ssl_keras.data.readers import pairs
from ssl_keras.data.readers.file_lists import Unreadable, attempt, listed, relative
from ssl_keras.data.readers.folders import as_spelled, labeled_files, parts_below, unreadable_notes
from ssl_keras.data.readers.tables import quotation_notes

EXTENSIONS = {
    ".wav",
    ".wave",
    ".rf64",
    ".w64",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".mp2",
    ".aiff",
    ".aif",
    ".aifc",
    ".au",
    ".snd",
    ".caf",
    ".sph",
}
SIMILAR = {".m4a", ".aac", ".wma", ".amr", ".webm", ".mp4"}  # audio that is not supported
# Supported formats by libsndfile's names, and the first bytes of their files. Checking these bytes first keeps
# untrusted files away from libsndfile's other decoders, which are for tracker music and matrices.
FORMATS = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "NIST"}
BEGINNINGS = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|riff\x2e\x91\xcf\x11|fLaC|OggS|FORM....AIF[FC]|\.snd|dns\.|caff|NIST|\xff[\xe0-\xff]",
    re.DOTALL,
)
ADTS = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")  # AAC, which starts almost as MP3 does
EXPECTED = "WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF or NIST SPHERE"
# These may have any scale. Other subtypes are in [−1, 1], but lossy ones overshoot it and are clipped.
FLOATS = {"FLOAT", "DOUBLE"}
WIDE = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"}  # more than 16 bits
RATES = (100, 1_000_000)  # Hz
MAX_HOURS = 24  # of one file
# Samples per byte that are plausible. More may be silence or a false header, so they are counted.
PLAUSIBLE = 100
CUT_TOLERANCE = 0.01  # a header may exceed the size of the file by this fraction without a note
BLOCK = 1 << 20  # samples of all channels decoded at a time
CHUNK, CHUNK_SAMPLES = 64, 1 << 24  # files and approximate samples decoded at a time
DECODING = 3  # increment when decoding changes: cached entries are then rebuilt


class Header(typing.NamedTuple):
    """The header of an audio file: samples per channel, rate in Hz, channels, libsndfile's subtype, and whether the
    file is shorter than the header states."""

    frames: int
    rate: int
    channels: int
    subtype: str
    ends_early: bool


def load(path):
    """Returns `Splits` of the audio files below a folder; subfolders are labels.

    Channels are averaged. Files are resampled to the most common rate.
    `PATH/train`, `PATH/validation` (or `val`) and `PATH/test` are the splits, if they exist.

    Raises:
        ValueError: The folder does not exist, contains no audio, or too many files are unreadable (each is named).
    """
    return parts_below("audio", path, f"{', '.join(sorted(EXTENSIONS))} files", _read, EXTENSIONS)


def _read(root, like=None):
    """Returns the source of one folder; `like` is a source with the expected rate and classes, or None."""
    title = f"audio:{root}"
    files, codes, classes, notes = labeled_files(title, root, EXTENSIONS, "clips", like, SIMILAR)
    decoded = _decode_all(title, files, like and like.rate)
    names = relative([files[index] for index in decoded.kept], root)
    label = [codes[index] for index in decoded.kept] if classes else None
    return decoded.source(title, names, label, classes).with_notes(*notes)


def transcripts(path):
    """Returns `Splits` of the clips in a UTF-8 list. Each line is the path of an audio file, a tab, and its transcript.

    Paths are relative to the folder of the list.

    Raises:
        ValueError: The list does not exist, or a line has no tab, no transcript, or a missing file.
    """
    path = pathlib.Path(os.path.expanduser(path))
    title = f"transcripts:{path}"
    cells = pairs.read(title, path, "a path, a tab, and a transcript")
    if not cells:
        raise ValueError(f"{title} has no examples. Expected lines of a path, a tab, and a transcript.")
    rows = dict.fromkeys((as_spelled(path.parent / file), text) for file, text in cells)
    files, texts = [file for file, _ in rows], [text for _, text in rows]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise ValueError(
            f"{title}: no such file: {listed(missing)}. Expected lines of a path relative to the folder of the list, a "
            "tab, and a transcript, without a header."
        )
    decoded = _decode_all(title, files)
    names = [os.path.relpath(files[index], path.parent) for index in decoded.kept]
    kept = [texts[index] for index in decoded.kept]
    notes = [*quotation_notes(kept), *_repetition_notes(len(cells), files)]
    return audio.hold_out_files(decoded.source(title, names, target=kept).with_notes(*notes))


def _repetition_notes(count, files):
    """Returns notes on clips that a list of `count` lines has several times. `files` are those of different lines."""
    notes = [f"{count - len(files)} lines repeat a clip and its transcript and are skipped"] * (count > len(files))
    several = sum(lines > 1 for lines in collections.Counter(files).values())
    if several:
        notes.append(f"{several} clips have several transcripts; all examples of a clip are in one split")
    return notes


def read(file, rate, seconds=None):
    """Reads an audio file at `rate` Hz with its channels averaged, int16 (T,).

    Raises:
        ValueError: It is unreadable, or longer than `seconds`.
    """
    try:
        header = _header(file)
        if seconds and header.frames > seconds * header.rate:
            raise Unreadable(f"longer than {seconds:g} s. Cut it at a pause.")
        return _decode(file, rate, header)[0]
    except Unreadable as error:
        raise ValueError(f"{file}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Decoded files in one stream: samples (total,) int16, the offset and length of each clip, the indices of the files
    that were read, the rate in Hz, and notes. A number behind each clip tells whether it was clipped."""

    samples: np.ndarray
    starts: list
    lengths: list
    kept: list
    rate: int
    notes: tuple

    def source(self, title, names, label=None, classes=(), target=None):
        made = source(title, self.samples, self.lengths, self.rate, names, label, classes, target, self.starts)
        return made.with_notes(*self.notes)


def _decode_all(title, files, rate=None):
    """Decodes files to a `_Stream`, at `rate` or the most common rate; of equally common ones, the highest."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # libsndfile releases the GIL
        found = list(pool.map(functools.partial(attempt, _header), files))
    readable = [index for index, header in enumerate(found) if isinstance(header, Header)]
    reasons = {file: str(why) for file, why in zip(files, found) if not isinstance(why, Header)}
    if not readable:
        some = listed(f"{file.name}: {why}" for file, why in reasons.items())
        raise ValueError(f"{title}: none of its {len(files)} files can be read: {some}")
    headers = [found[index] for index in readable]
    rates = collections.Counter(header.rate for header in headers)
    why = "the rate of the training split" if rate else "the most common rate"
    rate = rate or max(rates, key=lambda each: (rates[each], each))
    lengths = [resampled_length(header.frames, header.rate, rate) for header in headers]
    unreadable_notes(title, reasons, len(files), "clips")

    def decoded(file, header, length):
        made = attempt(_decode, file, rate, header)
        if isinstance(made, Unreadable):
            reasons[file] = str(made)
            made = np.full(length, PADDING, np.int16), False  # marks it in the cache: no sample has this value
        return np.append(made[0], np.int16(made[1]))

    def chunks():
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for part in _groups(lengths):
                some = ([files[index] for index in readable[part]], headers[part], lengths[part])
                yield {"samples": np.concatenate(list(pool.map(decoded, *some)))}

    def key():
        return ["sound", DECODING, rate, contents([files[index] for index in readable]), lengths]

    samples = materialize(key, {"samples": ((), np.int16)}, sum(lengths) + len(lengths), chunks)["samples"]
    starts = np.cumsum(lengths) - lengths + np.arange(len(lengths))
    kept = [place for place, start in enumerate(starts) if samples[start] != PADDING]
    if len(kept) < len(readable):
        for index, start in zip(readable, starts):
            if samples[start] == PADDING:
                reasons.setdefault(files[index], "cannot be read to its end")
    notes = unreadable_notes(title, reasons, len(files), "clips")
    over = samples[starts + lengths][kept]
    notes = _notes([headers[place] for place in kept], rate, why) + audio.overshoot_notes(over) + notes
    return _Stream(
        samples, starts[kept], [lengths[place] for place in kept], [readable[place] for place in kept], rate, notes
    )


def _notes(headers, rate, why):
    """Returns notes on the files that were converted."""
    notes, count = [], len(headers)
    others = collections.Counter(header.rate for header in headers if header.rate != rate)
    if others:
        shown = ", ".join(f"{number} from {other} Hz" for other, number in sorted(others.items()))
        notes.append(f"{others.total()} of {count} clips are resampled to {rate} Hz, {why}: {shown}")
    several = [header.channels for header in headers if header.channels > 1]
    if several:
        most = max(several)
        notes.append(f"{len(several)} of {count} clips have several channels (up to {most}), which are averaged")
    wide = sum(header.subtype in WIDE for header in headers)
    if wide:
        notes.append(f"{wide} of {count} clips have more than 16 bits per sample and are rounded to 16")
    early = sum(header.ends_early for header in headers)
    if early:
        notes.append(f"{early} of {count} clips are shorter than their headers state and are used as they are")
    return tuple(notes)


def _groups(lengths):
    """Yields slices of about `CHUNK_SAMPLES` samples and at most `CHUNK` files."""
    start = total = 0
    for stop, length in enumerate(lengths):
        if stop > start and (stop - start == CHUNK or total + length > CHUNK_SAMPLES):
            yield slice(start, stop)
            start, total = stop, 0
        total += length
    yield slice(start, len(lengths))


def _header(file):
    """Returns a file's `Header`. Raises Unreadable if the format is not supported or the header is not plausible."""
    size = _check_format(file)
    try:
        about = soundfile.info(os.fsencode(file))
    except (soundfile.LibsndfileError, OSError) as error:
        raise Unreadable(f"damaged: {_error_message(error)}") from error
    if about.format not in FORMATS:
        raise Unreadable(f"the format is {about.format_info}. Expected {EXPECTED}")
    if not about.frames:
        raise Unreadable("no samples")
    if not RATES[0] <= about.samplerate <= RATES[1]:
        raise Unreadable(f"a rate of {about.samplerate} Hz. Expected {RATES[0]} to {RATES[1]} Hz")
    if audio.is_short(about.frames, about.samplerate):
        raise Unreadable(f"shorter than {SHORTEST} s")
    if about.frames > PLAUSIBLE * size:
        counted = sum(map(len, _blocks(file, about.frames)))
        if counted != about.frames:
            raise Unreadable(f"the header states {about.frames} samples, but there are {counted}")
    if about.frames > MAX_HOURS * 3600 * about.samplerate:
        raise Unreadable(f"longer than {MAX_HOURS} hours. Cut it")
    sizes = re.findall(r": (\d+) \(should be (\d+)\)", about.extra_info)
    early = any(int(stated) > (1 + CUT_TOLERANCE) * int(there) for stated, there in sizes)
    return Header(about.frames, about.samplerate, about.channels, about.subtype, early)


def _check_format(file):
    """Returns a file's size in bytes. Raises Unreadable if it does not start like one of `FORMATS`."""
    try:
        about = os.stat(file)
        if not stat.S_ISREG(about.st_mode):
            raise Unreadable("not a regular file")
        with open(file, "rb") as content:
            head = content.read(12)
            while head[:3] == b"ID3" and len(head) > 9:  # skip a tag, whose length is in four times seven bits
                length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
                content.seek(length + 10 - len(head), os.SEEK_CUR)
                head = content.read(12)
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from error
    if not about.st_size:
        raise Unreadable("the file is empty")
    if ADTS.match(head):
        raise Unreadable(f"AAC, whatever its name. Expected {EXPECTED}. Convert it")
    if not BEGINNINGS.match(head):
        raise Unreadable(f"not a supported audio format: starts with {head!r}. Expected {EXPECTED}")
    return about.st_size


def _blocks(file, frames):
    """Yields the samples of a file in blocks, float32 (n, channels). Raises Unreadable if that fails."""
    try:
        with soundfile.SoundFile(os.fsencode(file)) as sound:
            block = max(1, BLOCK // sound.channels)
            while frames:
                samples = sound.read(min(block, frames), dtype="float32", always_2d=True)
                if not len(samples):
                    return
                frames -= len(samples)
                yield samples
    except (soundfile.LibsndfileError, OSError) as error:
        raise Unreadable(f"cannot be read to its end: {_error_message(error)}") from error


def _error_message(error):
    """Returns libsndfile's message without the path, which our message already has."""
    return str(error).rpartition("': ")[2].strip().rstrip(".") or "truncated or malformed"


def _decode(file, rate, header):
    """Decodes a file at `rate` Hz. Raises Unreadable if it cannot be read to its end.

    Returns:
        (int16 (T,), whether floats were clipped).
    """
    mono, done = np.empty(header.frames, np.float32), 0
    for block in _blocks(file, header.frames):
        if header.subtype not in FLOATS:
            np.clip(block, -1, 1, out=block)
        block.mean(axis=1, out=mono[done : done + len(block)])
        done += len(block)
    if done != header.frames:
        raise Unreadable(f"the header states {header.frames} samples, but there are {done}")
    try:
        check_range("samples", mono)
    except ValueError as error:
        raise Unreadable(str(error).rstrip(".")) from error
    return as_int16("samples", np.clip(resample(mono, header.rate, rate), -1, 1)), audio.is_over(mono)
