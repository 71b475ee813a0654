"""Audio: clips of many lengths, as one stream of samples and where each begins.

A source of audio has the columns "waveform", "name" (its file's) and, where there are labels or transcripts,
"label" or "target".
Samples are int16; where a clip ends before the longest, PADDING follows, which no sample has. As floats
they are in (−1, 1), and padding is −1: a network reads from its one input where a clip ends.

Shapes: `N` clips, `L` samples of the longest, `T` samples of one.
"""

import dataclasses
import fnmatch
import logging
import math

import numpy as np
import tensorflow as tf
from scipy.signal import resample_poly

from ssl_keras.data.cache import materialise
from ssl_keras.data.splits import Source, Splits, check_labels, hold_out

PADDING = -(1 << 15)
LEAST, MOST = PADDING + 1, (1 << 15) - 1  # samples
SHORTEST = 0.02  # seconds; a clip of less says nothing
OVERSHOOT = 0.2  # by which lossy formats and resampling go beyond 1; it is clipped
# Of `connected`: clips of each part, words of a clip, seconds of a pause, the faint noise's standard deviation.
CONNECTED, WORDS, PAUSE, FAINT, CONNECTION_SEED = (2_000, 200, 300), (3, 7), (0.05, 0.3), 100.0, 20240229

log = logging.getLogger(__name__)


class Clips:
    """N clips as a column of a source: rows by index, padded to the longest.

    Args:
        samples: (total,) int16, one clip after the other. starts: (N,) where each begins. lengths: (N,) samples.
    """

    dtype = np.dtype(np.int16)

    def __init__(self, samples, starts, lengths):
        self.samples, self.starts, self.lengths = samples, np.asarray(starts), np.asarray(lengths)
        self.shape = (len(self.starts), int(self.lengths.max()))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """int16 (n, L) of an array of n indices, a mask or a slice, or (L,) of one index."""
        rows = np.arange(len(self))[rows]
        chosen = np.atleast_1d(rows)
        padded = np.full((len(chosen), self.shape[1]), PADDING, np.int16)
        for row, start, length in zip(padded, self.starts[chosen], self.lengths[chosen]):
            row[:length] = self.samples[start : start + length]
        return padded if np.ndim(rows) else padded[0]


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
        if not np.isfinite(waveform).all():
            raise ValueError(f"{name}: expected finite samples. Received: NaN or infinity. Remove it.")
        loudest = float(np.abs(waveform).max(initial=0.0))
        if loudest > 1 + OVERSHOOT:
            raise ValueError(
                f"{name}: expected floats in [-1, 1]. Received: up to {loudest:g}. Divide by the largest value, or use "
                "int16."
            )
        waveform = np.rint(np.clip(waveform, -1, 1) * MOST).astype(np.int16)
    if waveform.dtype != np.int16:
        raise ValueError(f"{name}: expected int16, or floats in [-1, 1]. Received: {waveform.dtype}")
    return np.maximum(waveform, LEAST)


def source(name, samples, lengths, rate, names, label=None, classes=(), target=None):
    """A checked `Source` of clips that lie one after the other in `samples` (total,) int16."""
    lengths = np.asarray(lengths, np.int64)
    check_lengths(name, lengths, rate, names)
    starts = np.cumsum(lengths) - lengths
    silent = [n for n, s, c in zip(names, starts, lengths) if samples[s] == samples[s + c - 1] == 0
              and not np.any(samples[s : s + c])]
    if silent:
        log.warning("%s: %d clips are silent, %s first: they teach nothing", name, len(silent), silent[0])
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
            f"{name}: {len(short)} clips are shorter than {SHORTEST} s, the first is {names[short[0]]} with "
            f"{lengths[short[0]]} samples at {rate} Hz. Remove them."
        )


def connected(splits):
    """`Splits` of labelled clips, joined: in each some clips of the same part, after pauses of faint noise.

    What is said is the names of their classes. Which clips meet is always the same.

    Raises:
        ValueError: no labels.
    """
    parts = []
    for index, (part, count) in enumerate(zip(splits, CONNECTED)):
        part.column_spec("waveform")
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
        parts.append(source(title, np.concatenate(waveforms), lengths, part.rate, names, target=targets))
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


def prepared(splits, rate):
    """The splits as a network takes them: at `rate` Hz, resampled where they have another, without their names."""
    return Splits(*(at_rate(part, rate) for part in splits))


def at_rate(part, rate):
    """A source as `prepared`."""
    part = part if part.rate == rate else _resampled(part, rate)
    return dataclasses.replace(part, arrays={k: v for k, v in part.arrays.items() if k != "name"})


def _resampled(part, rate):
    log.warning("%s has %d Hz and is resampled to %d Hz", part.name, part.rate, rate)
    clips_of, rows = part.arrays["waveform"], np.arange(len(part)) if part.rows is None else part.rows
    lengths = [resampled_length(int(length), part.rate, rate) for length in part.lengths]

    def chunks():
        for row, length in zip(rows, part.lengths):
            clip = clips_of.samples[clips_of.starts[row] : clips_of.starts[row] + length]
            yield {"samples": as_int16(part.name, np.clip(resampled(clip / -float(PADDING), part.rate, rate), -1, 1))}

    key = ["resampled", part.name, part.fingerprint(), part.rate, rate, len(part)]
    samples = materialise(key, {"samples": ((), np.int16)}, sum(lengths), chunks)["samples"]
    label, target = (part.column(name) if name in part.arrays else None for name in ("label", "target"))
    names = list(part.column("name")) if "name" in part.arrays else [str(row) for row in rows]
    return source(part.name, samples, lengths, rate, names, label, part.classes, target)


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
