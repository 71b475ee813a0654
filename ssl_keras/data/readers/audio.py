"""Sound files: a folder of clips, or a list of clips with their transcripts.

All headers are read first. They decide the rate, and what they promise is checked before room is made for it.

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

from ssl_keras.data.audio import PADDING, as_int16, check_lengths, check_range, resampled, resampled_length, source
from ssl_keras.data.cache import contents, materialise
from ssl_keras.data.readers import pairs
from ssl_keras.data.readers.folders import (
    Unreadable,
    as_spelled,
    attempt,
    labeled_files,
    listed,
    parts_below,
    relative,
    skipped,
)
from ssl_keras.data.splits import hold_out

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
SIMILAR = {".m4a", ".aac", ".wma", ".amr", ".webm", ".mp4"}  # sound that is not read
# What libsndfile calls the formats that are read, and how their files begin: the rest of its decoders, for trackers and
# matrices, are never asked.
FORMATS = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "NIST"}
BEGINNINGS = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|riff\x2e\x91\xcf\x11|fLaC|OggS|FORM....AIF[FC]|\.snd|dns\.|caff|NIST|\xff[\xe0-\xff]",
    re.DOTALL,
)
EXPECTED = "WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF or NIST SPHERE"
FLOATS = {"FLOAT", "DOUBLE"}  # of whatever scale; the others end at 1, which lossy ones decode to twice that, and more
WIDE = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_20", "ALAC_24", "ALAC_32"}  # more than the 16 bits that are kept
RATES = (100, 1_000_000)  # Hz
MAX_HOURS = 24  # of one file
# Samples of a channel for each byte of a file: more may be silence, or a header that lies. It is counted.
PLAUSIBLE = 100
CUT_SHARE = 0.01  # by which a header may promise more than there is before it is said
BLOCK = 1 << 20  # samples of all channels decoded at a time
CHUNK, CHUNK_SAMPLES = 64, 1 << 24  # files, and about how many samples, decoded at a time
DECODING = 2  # another number where a file is decoded otherwise than before: what is cached is then made anew


class Header(typing.NamedTuple):
    """What a sound file says of itself: samples of each channel, Hz, channels, libsndfile's name of how samples are
    stored, and whether the file ends before its header says."""

    frames: int
    rate: int
    channels: int
    subtype: str
    ends_early: bool


def load(path):
    """`Splits` of the sound files below a folder; sub-folder = label, where there are sub-folders.

    Several channels are averaged. The rate is that of most files; files of another are resampled.
    `PATH/train`, `PATH/validation` (or `val`) and `PATH/test`, where they exist, are the splits.

    Raises:
        ValueError: no such folder, no sound in it, or too many files that cannot be read (each is named).
    """
    return parts_below("audio", path, f"{', '.join(sorted(EXTENSIONS))} files", _read, EXTENSIONS)


def _read(root, like=None):
    """The source of one folder; `like` fixes rate and classes, where given."""
    title = f"audio:{root}"
    files, codes, classes, notes = labeled_files(title, root, EXTENSIONS, "clips", like, SIMILAR)
    decoded = _decoded(title, files, like and like.rate)
    names = relative([files[index] for index in decoded.kept], root)
    label = [codes[index] for index in decoded.kept] if classes else None
    return decoded.source(title, names, label, classes).noted(*notes)


def transcripts(path):
    """`Splits` of the clips that a UTF-8 file lists: in each line a sound file's path, a tab, and what is said.

    Paths are relative to the list's folder.

    Raises:
        ValueError: no such list; a line without a tab, without a transcript, or whose file is missing.
    """
    path = pathlib.Path(os.path.expanduser(path))
    title = f"transcripts:{path}"
    cells = pairs.read(title, path, "a path, a tab, and what is said")
    if not cells:
        raise ValueError(f"{title} has no examples. Expected lines of a path, a tab, and what is said.")
    files, texts = [as_spelled(path.parent / file) for file, _ in cells], [text for _, text in cells]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise ValueError(
            f"{title}: there is no file {listed(missing)}. Expected, in each line, a path relative to the "
            "list's folder, a tab, and what is said; no header."
        )
    decoded = _decoded(title, files)
    names = [os.path.relpath(files[index], path.parent) for index in decoded.kept]
    return hold_out(decoded.source(title, names, target=[texts[index] for index in decoded.kept]))


def read(file, rate, seconds=None):
    """int16 (T,): a sound file at `rate` Hz, its channels averaged.

    Raises:
        ValueError: it cannot be read, or is longer than so many seconds.
    """
    try:
        header = _header(file)
        if seconds and header.frames > seconds * header.rate:
            raise Unreadable(f"longer than {seconds:g} s. Cut it where nobody speaks.")
        return _decode(file, rate, header)
    except Unreadable as error:
        raise ValueError(f"{file}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Decoded files, one after the other: samples (total,) int16, where each begins and how long it is, which of the
    files they are, Hz, and what is to be said of them."""

    samples: np.ndarray
    starts: list
    lengths: list
    kept: list
    rate: int
    notes: tuple

    def source(self, title, names, label=None, classes=(), target=None):
        made = source(title, self.samples, self.lengths, self.rate, names, label, classes, target, self.starts)
        return made.noted(*self.notes)


def _decoded(title, files, rate=None):
    """The files as a `_Stream`; at the rate of most of them, of two the higher one, where none is given."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # libsndfile works outside Python's lock
        found = list(pool.map(functools.partial(attempt, _header), files))
    readable = [index for index, header in enumerate(found) if isinstance(header, Header)]
    reasons = {file: str(why) for file, why in zip(files, found) if not isinstance(why, Header)}
    if not readable:
        some = listed(f"{file.name}: {why}" for file, why in reasons.items())
        raise ValueError(f"{title}: none of its {len(files)} files can be read: {some}")
    headers = [found[index] for index in readable]
    rates = collections.Counter(header.rate for header in headers)
    why = "that of the training part" if rate else "that of most"
    rate = rate or max(rates, key=lambda each: (rates[each], each))
    lengths = [resampled_length(header.frames, header.rate, rate) for header in headers]
    skipped(title, reasons, len(files), "clips")
    check_lengths(title, lengths, rate, [files[index].name for index in readable])

    def decoded(file, header, length):
        made = attempt(_decode, file, rate, header)
        if isinstance(made, Unreadable):
            reasons[file] = str(made)
            return np.full(length, PADDING, np.int16)  # no sample is that, so it is told from a clip in the cache too
        return made

    def chunks():
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for part in _groups(lengths):
                some = ([files[index] for index in readable[part]], headers[part], lengths[part])
                yield {"samples": np.concatenate(list(pool.map(decoded, *some)))}

    def key():
        return ["sound", DECODING, rate, contents([files[index] for index in readable]), lengths]

    samples = materialise(key, {"samples": ((), np.int16)}, sum(lengths), chunks)["samples"]
    starts = np.cumsum(lengths) - lengths
    kept = [place for place, start in enumerate(starts) if samples[start] != PADDING]
    if len(kept) < len(readable):
        for index, start in zip(readable, starts):
            if samples[start] == PADDING:
                reasons.setdefault(files[index], "it cannot be read to its end")
    notes = _notes([headers[place] for place in kept], rate, why) + skipped(title, reasons, len(files), "clips")
    return _Stream(
        samples, starts[kept], [lengths[place] for place in kept], [readable[place] for place in kept], rate, notes
    )


def _notes(headers, rate, why):
    """What is to be said of files that are not kept as they are."""
    notes, count = [], len(headers)
    others = collections.Counter(header.rate for header in headers if header.rate != rate)
    if others:
        shown = ", ".join(f"{number} of {other} Hz" for other, number in sorted(others.items()))
        notes.append(f"{others.total()} of {count} clips are resampled to {rate} Hz, {why}: {shown}")
    several = [header.channels for header in headers if header.channels > 1]
    if several:
        most = max(several)
        notes.append(f"{len(several)} of {count} clips have several channels (up to {most}), which are averaged")
    wide = sum(header.subtype in WIDE for header in headers)
    if wide:
        notes.append(f"{wide} of {count} clips have more than 16 bits a sample, and are rounded to 16")
    early = sum(header.ends_early for header in headers)
    if early:
        notes.append(f"{early} of {count} clips end before their headers say; what is there is taken")
    return tuple(notes)


def _groups(lengths):
    """Slices of about `CHUNK_SAMPLES` samples and at most `CHUNK` files."""
    start = total = 0
    for stop, length in enumerate(lengths):
        if stop > start and (stop - start == CHUNK or total + length > CHUNK_SAMPLES):
            yield slice(start, stop)
            start, total = stop, 0
        total += length
    yield slice(start, len(lengths))


def _header(file):
    """A file's `Header`. Raises Unreadable where it is of no format that is read, or what it promises is absurd."""
    size = _check_format(file)
    try:
        about = soundfile.info(os.fsencode(file))
    except (soundfile.LibsndfileError, OSError) as error:
        raise Unreadable(f"damaged: {_words(error)}") from error
    if about.format not in FORMATS:
        raise Unreadable(f"it is {about.format_info}. Expected {EXPECTED}")
    if not about.frames:
        raise Unreadable("there is no sound in it")
    if not RATES[0] <= about.samplerate <= RATES[1]:
        raise Unreadable(f"a rate of {about.samplerate} Hz. Expected {RATES[0]} to {RATES[1]}")
    if about.frames > PLAUSIBLE * size:
        counted = sum(map(len, _blocks(file, about.frames)))
        if counted != about.frames:
            raise Unreadable(f"its header promises {about.frames} samples, and there are {counted}")
    if about.frames > MAX_HOURS * 3600 * about.samplerate:
        raise Unreadable(f"longer than {MAX_HOURS} hours. Cut it")
    sizes = re.findall(r": (\d+) \(should be (\d+)\)", about.extra_info)
    early = any(int(promised) > (1 + CUT_SHARE) * int(there) for promised, there in sizes)
    return Header(about.frames, about.samplerate, about.channels, about.subtype, early)


def _check_format(file):
    """A file's size in bytes. Raises Unreadable where it does not begin as one of `FORMATS` does."""
    try:
        about = os.stat(file)
        if not stat.S_ISREG(about.st_mode):
            raise Unreadable("no regular file")
        with open(file, "rb") as content:
            head = content.read(12)
            while head[:3] == b"ID3" and len(head) > 9:  # a tag, which says how long it is in four times seven bits
                length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
                content.seek(length + 10 - len(head), os.SEEK_CUR)
                head = content.read(12)
    except OSError as error:
        raise Unreadable(f"it cannot be opened: {error.strerror}") from error
    if not about.st_size:
        raise Unreadable("it is empty")
    if not BEGINNINGS.match(head):
        raise Unreadable(f"no sound that is read here, it begins with {head!r}. Expected {EXPECTED}")
    return about.st_size


def _blocks(file, frames):
    """Yields the samples of a file, float32 (n, channels), some at a time. Raises Unreadable where that fails."""
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
        raise Unreadable(f"it cannot be read to its end: {_words(error)}") from error


def _words(error):
    """What a library says, or that it says nothing, without the path, which the message has already."""
    return str(error).rpartition("': ")[2].strip().rstrip(".") or "its content ends, or makes no sense"


def _decode(file, rate, header):
    """int16 (T,) of a file at `rate` Hz, clipped. Raises Unreadable where it cannot be read to its end."""
    mono, done = np.empty(header.frames, np.float32), 0
    for block in _blocks(file, header.frames):
        if header.subtype not in FLOATS:
            np.clip(block, -1, 1, out=block)
        block.mean(axis=1, out=mono[done : done + len(block)])
        done += len(block)
    if done != header.frames:
        raise Unreadable(f"its header promises {header.frames} samples, and there are {done}")
    try:
        check_range("its samples", mono)
    except ValueError as error:
        raise Unreadable(str(error).rstrip(".")) from error
    return as_int16("its samples", np.clip(resampled(mono, header.rate, rate), -1, 1))
