"""Audio: clips of many lengths, as one stream of samples and where each begins.

A source of audio has the columns "waveform", "name" (its file's) and, where there are labels or transcripts,
"label" or "target".
Samples are int16; where a clip ends before the longest, PADDING follows, which no sample has. As floats
they are in (−1, 1), and padding is −1: a network reads from its one input where a clip ends.

Shapes: `N` clips, `L` samples of the longest of a batch, `T` samples of one.
"""

import dataclasses
import fnmatch
import hashlib
import logging
import math

import numpy as np
import tensorflow as tf
from scipy.signal import resample_poly

from ssl_keras.data.cache import materialise
from ssl_keras.data.splits import Source, Splits, check_labels, hold_out
from ssl_keras.files import printable

PADDING = -(1 << 15)
LEAST, MOST = PADDING + 1, (1 << 15) - 1  # samples
SHORTEST = 0.02  # seconds; a clip of less says nothing
LONGEST = 60.0  # seconds; more is too much for a network to hear at once
# Of `shortened`: seconds that any clip may have, and times the median clip that one may have.
USUAL, FAR = 10.0, 4
OVERSHOOT = 0.2  # by which floats may go beyond 1, as after a filter; it is clipped
# Of `connected`: clips of each part, words of a clip, seconds of a pause, the faint noise's standard deviation.
CONNECTED, WORDS, PAUSE, FAINT, CONNECTION_SEED = (2_000, 200, 300), (3, 7), (0.05, 0.3), 100.0, 20240229

log = logging.getLogger(__name__)


class Clips:
    """N clips as a column of a source: rows by index, padded to the longest of those that are asked for.

    Args:
        samples: (total,) int16, one clip after the other. starts: (N,) where each begins. lengths: (N,) samples.
    """

    dtype = np.dtype(np.int16)

    def __init__(self, samples, starts, lengths):
        self.samples, self.starts, self.lengths = samples, np.asarray(starts), np.asarray(lengths)
        self.shape, self.longest = (len(self.starts), None), int(self.lengths.max(initial=0))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """int16 (n, L) of an array of n indices, a mask or a slice, or (L,) of one index."""
        rows = np.arange(len(self))[rows]
        chosen = np.atleast_1d(rows)
        padded = self._padded(self.starts[chosen], self.lengths[chosen])
        return padded if np.ndim(rows) else padded[0]

    def cut(self, rows, most, place):
        """int16 (n, L ≤ most) of n indices: of clips of more samples a stretch, which begins at the share `place` (n,)
        in [0, 1) of what is left out. The same stretch as `augment_audio.cut` takes."""
        lengths = self.lengths[rows]
        over = np.maximum(lengths - most, 0)
        first = np.minimum((place.astype(np.float32) * (over + 1).astype(np.float32)).astype(np.int64), over)
        return self._padded(self.starts[rows] + first, np.minimum(lengths, most))

    def digest(self, rows=None):
        """Hashes clips, all of them or those of some rows, by their samples alone: however they are padded."""
        rows = slice(None) if rows is None else rows
        starts, lengths = self.starts[rows], self.lengths[rows]
        digest = hashlib.sha256(np.ascontiguousarray(lengths, np.int64))
        for start, length in zip(starts, lengths):
            digest.update(np.ascontiguousarray(self.samples[start : start + length]))
        return digest.hexdigest()

    def _padded(self, starts, lengths):
        padded = np.full((len(starts), max(lengths, default=0)), PADDING, np.int16)
        for row, start, length in zip(padded, starts, lengths):
            row[:length] = self.samples[start : start + length]
        return padded


def unit_range(waveform):
    """int16 samples -> float32 in (−1, 1), padding −1; floats pass."""
    if waveform.dtype == tf.int16:
        return tf.cast(waveform, tf.float32) / -float(PADDING)
    return tf.cast(waveform, tf.float32)


def clips(name, waveforms, rate, names=None, label=None, classes=()):
    """A checked `Source` of clips in memory.

    Args:
        waveforms: a list of N arrays (T,): int16, or floats in [−1, 1].
        rate: samples per second, Hz.
        names: N strings, those of the files, say; by default numbers.
        label: (N,) integers, or None.

    Raises:
        ValueError: no clip; one that is empty, too short, of several channels, of another dtype, out of range
            or with NaN.
    """
    if not len(waveforms):
        raise ValueError(f"{name} has no examples. Expected at least one.")
    names = [str(i) for i in range(len(waveforms))] if names is None else list(names)
    made = [as_int16(f"{name}: {clip}", np.asarray(waveform)) for clip, waveform in zip(names, waveforms)]
    lengths = np.array([len(one) for one in made])
    return source(name, np.concatenate(made), lengths, rate, names, label, classes)


def as_int16(name, waveform):
    """int16 (T,) of a clip's samples."""
    if waveform.ndim != 1:
        raise ValueError(f"{name}: expected a waveform of shape (T,), one channel. Received: shape {waveform.shape}")
    if waveform.dtype.kind == "f":
        check_range(name, waveform)
        waveform = np.rint(np.clip(waveform, -1, 1) * MOST).astype(np.int16)
    if waveform.dtype != np.int16:
        raise ValueError(f"{name}: expected int16, or floats in [-1, 1]. Received: {waveform.dtype}")
    return np.maximum(waveform, LEAST)


def check_range(name, waveform):
    """Raises ValueError where floats are beyond [−1, 1], but for some overshoot, or not finite."""
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name}: expected finite samples. Received: NaN or infinity. Remove it.")
    loudest = float(np.abs(waveform).max(initial=0.0))
    if loudest > 1 + OVERSHOOT:
        raise ValueError(
            f"{name}: expected floats in [-1, 1]. Received: up to {loudest:g}. Divide by the largest value, or use "
            "int16."
        )


def source(name, samples, lengths, rate, names, label=None, classes=(), target=None, starts=None):
    """A checked `Source` of clips in `samples` (total,) int16, one after the other where `starts` does not say more."""
    lengths = np.asarray(lengths, np.int64)
    check_lengths(name, lengths, rate, names)
    starts = np.cumsum(lengths) - lengths if starts is None else np.asarray(starts)
    silent = [
        n
        for n, s, c in zip(names, starts, lengths)
        if samples[s] == samples[s + c - 1] == 0 and not np.any(samples[s : s + c])
    ]
    if silent:
        first = printable(silent[0])
        log.warning("%s: %d clips are silent, %s first: they teach nothing", name, len(silent), first)
    arrays = {"waveform": Clips(samples, starts, lengths), "name": np.array(names, object)}
    if label is not None:
        arrays["label"], classes = check_labels(name, label, len(lengths), classes)
    if target is not None:
        arrays["target"] = np.array(target, object)
    return Source(name, arrays, tuple(classes), lengths=lengths, rate=int(rate))


def check_lengths(name, lengths, rate, names):
    short = [i for i, length in enumerate(lengths) if length < max(1, SHORTEST * rate)]
    if short:
        raise ValueError(
            f"{name}: {len(short)} clips are shorter than {SHORTEST} s, the first is {printable(names[short[0]])} "
            f"with {lengths[short[0]]} samples at {rate} Hz. Remove them."
        )


def connected(splits):
    """`Splits` of labeled clips, joined: in each some clips of the same part, after pauses of faint noise.

    What is said is the names of their classes. Which clips meet is always the same.

    Raises:
        ValueError: no labels.
    """
    parts = []
    for index, (part, count) in enumerate(zip(splits, CONNECTED)):
        part.column_spec("waveform")
        part = short_enough(part, USUAL, "they are not joined to others")
        labels, random = part.column("label"), np.random.Generator(np.random.Philox(key=[CONNECTION_SEED, index]))
        waveforms, targets = [], []
        for _ in range(count):
            chosen, pieces = random.integers(len(part), size=random.integers(*WORDS, endpoint=True)), []
            rows = part.gather(chosen)["waveform"]
            for row, length in zip(rows, part.lengths[chosen]):
                pieces += [_pause(random, part.rate), row[:length]]
            waveforms.append(np.concatenate([*pieces, _pause(random, part.rate)]))
            targets.append(" ".join(part.classes[label] for label in labels[chosen]))
        title = f"connected:{part.base}[{Splits._fields[index]}]"
        lengths, names = [len(one) for one in waveforms], [str(number) for number in range(count)]
        joined = source(title, np.concatenate(waveforms), lengths, part.rate, names, target=targets)
        parts.append(dataclasses.replace(joined, notes=part.notes))
    return Splits(*parts)


def _pause(random, rate):
    """Faint noise, int16."""
    length = int(rate * random.uniform(*PAUSE))
    return np.rint(random.uniform(0, FAINT) * random.normal(size=length)).astype(np.int16)


def resampled(waveform, rate, new_rate):
    """(T,) at one rate -> (ceil(T · new/old),) at another, float32, by a polyphase filter."""
    if rate == new_rate:
        return np.asarray(waveform, np.float32)
    common = math.gcd(int(rate), int(new_rate))
    return resample_poly(np.asarray(waveform, np.float32), new_rate // common, rate // common)


def resampled_length(length, rate, new_rate):
    """How many samples `resampled` makes."""
    common = math.gcd(int(rate), int(new_rate))
    return -(-length * (new_rate // common) // (rate // common))


def short_enough(part, seconds, why):
    """The part without its clips of more than so many seconds. Raises ValueError where there are no others."""
    short = part.lengths <= seconds * part.rate
    if short.all():
        return part
    if not short.any():
        raise ValueError(f"{part.name}: expected clips of at most {seconds:g} s. All {len(part)} are longer. Cut them.")
    said = f"{len(short) - short.sum()} of {len(short)} clips are longer than {seconds:g} s and are left out: {why}"
    return part.take(np.flatnonzero(short)).noted(said)


def shortened(splits):
    """`Splits` in which one recording of an hour among clips of seconds is no longer than a network can hear at once.

    A clip may have `USUAL` seconds or, where most are long, `FAR` times the median of the training part, and `LONGEST`
    at most. Of a longer one the beginning is taken.
    """
    rate, median = splits.train.rate, float(np.median(splits.train.lengths))
    most = int(min(max(USUAL * rate, FAR * median), LONGEST * rate))
    return Splits(*(beginnings(part, most).noted(*longer(part, most, "the beginning is taken")) for part in splits))


def beginnings(part, most):
    """The part with at most so many samples of each clip."""
    whole = part.arrays["waveform"]
    if whole.longest <= most:
        return part
    column = Clips(whole.samples, whole.starts, np.minimum(whole.lengths, most))
    return dataclasses.replace(part, arrays=part.arrays | {"waveform": column}, lengths=np.minimum(part.lengths, most))


def longer(part, most, what):
    """What is to be said of the clips of more samples than that: a tuple of one sentence, or none."""
    long = np.sum(part.lengths > most)
    return (f"{long} of {len(part)} clips are longer than {most / part.rate:g} s: {what}",) if long else ()


def prepared(splits, rate):
    """The splits as a network takes them: at `rate` Hz, resampled where they have another, without their names."""
    return Splits(*(at_rate(part, rate) for part in splits))


def at_rate(part, rate):
    """A source as `prepared`."""
    part = part if part.rate == rate else _resampled(part, rate)
    return dataclasses.replace(part, arrays={k: v for k, v in part.arrays.items() if k != "name"})


def _resampled(part, rate):
    part = part.noted(f"{part.rate} Hz are resampled to {rate} Hz")
    clips_of, rows = part.arrays["waveform"], np.arange(len(part)) if part.rows is None else part.rows
    lengths = [resampled_length(int(length), part.rate, rate) for length in part.lengths]

    def chunks():
        for row, length in zip(rows, part.lengths):
            clip = clips_of.samples[clips_of.starts[row] : clips_of.starts[row] + length]
            made = resampled(np.float32(clip) / -PADDING, part.rate, rate)
            yield {"samples": as_int16(part.name, np.clip(made, -1, 1))}

    def key():
        return ["resampled", part.fingerprint(), part.rate, rate]

    samples = materialise(key, {"samples": ((), np.int16)}, sum(lengths), chunks)["samples"]
    label, target = (part.column(name) if name in part.arrays else None for name in ("label", "target"))
    names = list(part.column("name")) if "name" in part.arrays else [str(row) for row in rows]
    made = source(part.name, samples, lengths, rate, names, label, part.classes, target)
    return dataclasses.replace(made, notes=part.notes)


def held_out_by_name(splits, pattern):
    """`Splits` whose test part are all clips with a name like the pattern ("*_theo_*"), and the others none.

    Either the file's name or its whole path below the folder is like it. Of the rest a tenth is for validation, as
    always. So a speaker, say, is never heard before the test.

    Raises:
        ValueError: a pattern that no name, or every name, is like; parts that were given.
    """
    splits.train.column_spec("waveform")
    parts = [part.arrays["name"] for part in splits]
    if any(other is not parts[0] for other in parts):
        raise ValueError(f"{splits.train.base} has held-out parts of its own. Leave out [{pattern}].")
    rows = np.sort(np.concatenate([part.rows for part in splits]))
    whole = dataclasses.replace(
        splits.train, name=splits.train.base, rows=rows, lengths=splits.train.arrays["waveform"].lengths[rows]
    )
    paths = [(name, name.rpartition("/")[2]) for name in whole.column("name")]
    test = np.array([any(fnmatch.fnmatchcase(name, pattern) for name in each) for each in paths])
    if not test.any() or test.all():
        raise ValueError(
            f"{whole.name}: {'every' if test.all() else 'no'} name is like {pattern!r}. Expected a pattern of some "
            f"names; there are: {', '.join(whole.column('name')[:5])}, …"
        )
    name = f"{whole.name}[{pattern}]"
    train, test = (dataclasses.replace(whole.take(np.flatnonzero(part)), name=name) for part in (~test, test))
    return hold_out(train, test=test)
