"""Sound files: a folder of clips, or a list of clips with their transcripts.

Shapes: `T` samples of a clip.
"""

import concurrent.futures
import logging
import os
import pathlib

import numpy as np
import soundfile

from ssl_keras.data.audio import as_int16, check_lengths, resampled, resampled_length, source
from ssl_keras.data.cache import materialise
from ssl_keras.data.readers import pairs
from ssl_keras.data.readers.images import labelled_files, parts_below, report
from ssl_keras.data.splits import hold_out

log = logging.getLogger(__name__)


EXTENSIONS = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}
CHUNK = 64  # files decoded at a time


def load(path):
    """`Splits` of the sound files below a folder; sub-folder = label, where there are sub-folders.

    Several channels are averaged. The rate is that of the first file; files of another are resampled.
    `PATH/train`, `PATH/validation` (or `val`) and `PATH/test`, where they exist, are the splits.

    Raises:
        ValueError: no such folder, no sound in it, or too many files that cannot be read (each is named).
    """
    return parts_below("audio", path, f"{', '.join(sorted(EXTENSIONS))} files", _read)


def _read(root, like=None):
    """The source of one folder; `like` fixes rate and classes, where given."""
    title = f"audio:{root}"
    files, codes, classes = labelled_files(title, root, EXTENSIONS, "clips", like)
    samples, lengths, kept, rate = _decoded(title, root, files, like and like.rate)
    names = [str(files[index].relative_to(root)) for index in kept]
    label = [codes[index] for index in kept] if classes else None
    return source(title, samples, lengths, rate, names, label, classes)


def transcripts(path):
    """`Splits` of the clips that a UTF-8 file lists: in each line a sound file's path, a tab, and what is said.

    Paths are relative to the list's folder.

    Raises:
        ValueError: no such list; a line without a tab, without a transcript, or whose file is missing.
    """
    path = pathlib.Path(path).expanduser()
    title = f"transcripts:{path}"
    cells = pairs.read(title, path, "a path, a tab, and what is said")
    if not cells:
        raise ValueError(f"{title} has no examples. Expected lines of a path, a tab, and what is said.")
    files, texts = [path.parent / file for file, _ in cells], [text for _, text in cells]
    for number, file in enumerate(files, 1):
        if not file.is_file():
            raise ValueError(f"{title}, line {number}: there is no file {file}")
    samples, lengths, kept, rate = _decoded(title, path.parent, files)
    names = [os.path.relpath(files[index], path.parent) for index in kept]
    return hold_out(source(title, samples, lengths, rate, names, target=[texts[index] for index in kept]))


def read(file, rate):
    """int16 (T,): a sound file at `rate` Hz, its channels averaged. Raises ValueError where it cannot be read."""
    frames, own = _frames(pathlib.Path(file))
    if not frames:
        raise ValueError(f"{file}: expected a readable {', '.join(sorted(EXTENSIONS))} file with sound in it.")
    return _decode(file, rate, resampled_length(frames, own, rate))


def _decoded(title, root, files, rate=None):
    """The files as one stream: (samples (total,) int16, their lengths, which files they are, Hz).

    The rate is that of the first file, where none is given.
    """
    frames = [_frames(file) for file in files]
    broken = [file for file, (count, _) in zip(files, frames) if not count]
    rates = [rate for count, rate in frames if count]
    if not rates:
        raise ValueError(f"{title}: none of its {len(files)} files can be read; the first is {files[0].name}.")
    rate = rate or rates[0]
    if len({rate, *rates}) > 1:
        log.warning("%s: files of %s Hz are resampled to %d Hz", title, sorted({*rates} - {rate}), rate)
    kept = [index for index, (count, _) in enumerate(frames) if count]
    lengths = [resampled_length(frames[index][0], frames[index][1], rate) for index in kept]
    report(title, broken, len(files), "clips")
    check_lengths(title, lengths, rate, [files[index].name for index in kept])

    def decoded(file, length):
        try:
            return _decode(file, rate, length)
        except ValueError as error:
            return error

    def chunks():
        failed = []
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding is outside Python's lock
            for start in range(0, len(kept), CHUNK):
                part = [files[index] for index in kept[start : start + CHUNK]]
                made = list(pool.map(decoded, part, lengths[start : start + CHUNK]))
                failed += [one for one in made if isinstance(one, ValueError)]
                if not failed:
                    yield {"samples": np.concatenate(made)}
        if failed:
            raise ValueError(f"{title}: {len(failed)} clips cannot be read: {'; '.join(map(str, failed[:10]))}")

    stat = [(os.path.relpath(f, root), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    arrays = materialise([title, rate, stat], {"samples": ((), np.int16)}, sum(lengths), chunks)
    return arrays["samples"], lengths, kept, rate


def _frames(file):
    """(samples of each channel, Hz), or (0, 0) where the file is no readable sound."""
    try:
        about = soundfile.info(str(file))
    except (soundfile.LibsndfileError, OSError):
        return 0, 0
    return about.frames, about.samplerate


def _decode(file, rate, length):
    """int16 (length,) of a file. Raises ValueError where it cannot be read to its end."""
    try:
        samples, own = soundfile.read(str(file), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{file} cannot be read to its end: {error}. Remove or repair it.") from error
    mono = resampled(samples.mean(axis=1), own, rate)
    if len(mono) != length:
        raise ValueError(f"{file} promises {length} samples at {rate} Hz and has {len(mono)}. Remove or repair it.")
    return as_int16(str(file), mono)
