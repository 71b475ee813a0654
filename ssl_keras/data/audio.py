"""Audio: clips of different lengths, stored as one stream of samples with the offset of each clip.

An audio source has the columns "waveform" and "name" (of the file), and "label" or "target" if there are labels or
transcripts. Samples are int16. PADDING, which is never a sample, fills shorter clips. As floats, samples are in (−1, 1)
and padding is −1, so networks find the end of a clip in the waveform itself.

Shapes: `N` clips, `L` samples of the longest clip in a batch, `T` samples of one clip.
"""

import dataclasses
import fnmatch
import hashlib
import logging
import math

import numpy as np
import tensorflow as tf
from scipy.signal import resample_poly

from ssl_keras.data.cache import materialize
from ssl_keras.data.labels import check_labels, class_names, unmasked
from ssl_keras.data.splits import Source, Splits, hold_out
from ssl_keras.files import printable

PADDING = -(1 << 15)
LEAST, MOST = PADDING + 1, (1 << 15) - 1  # range of samples
SHORTEST = 0.02  # seconds; shorter clips are an error
LONGEST = 60.0  # seconds of a clip that a network can take
USUAL, FAR = 10.0, 4  # `limit_lengths` keeps this many seconds, or this many times the median clip
OVERSHOOT = 0.2  # floats may exceed 1 by this, as after filtering; they are clipped
# For `connected`: clips of each split, words of a clip, seconds of a pause, largest standard deviation of its noise.
CONNECTED, WORDS, PAUSE, FAINT, CONNECTION_SEED = (2_000, 200, 300), (3, 7), (0.05, 0.3), 100.0, 20240229

log = logging.getLogger(__name__)


class Clips:
    """A column of N clips. Indexing pads rows to the longest of the selected clips.

    Args:
        samples: (total,) int16, all clips. starts: (N,) the offset of each. lengths: (N,) the samples of each.
    """

    dtype = np.dtype(np.int16)

    def __init__(self, samples, starts, lengths):
        self.samples, self.starts, self.lengths = samples, np.asarray(starts), np.asarray(lengths)
        self.shape, self.longest = (len(self.starts), None), int(self.lengths.max(initial=0))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Returns int16 (n, L) for an array of n indices, a mask or a slice, or (L,) for one index."""
        rows = np.arange(len(self))[rows]
        chosen = np.atleast_1d(rows)
        padded = self._padded(self.starts[chosen], self.lengths[chosen])
        return padded if np.ndim(rows) else padded[0]

    def cut(self, rows, most, place):
        """Returns int16 (n, L ≤ most) for n indices. Longer clips are cropped at the relative offset `place` (n,) in
        [0, 1), like `augment_audio.cut` does."""
        lengths = self.lengths[rows]
        over = np.maximum(lengths - most, 0)
        first = np.minimum((place.astype(np.float32) * (over + 1).astype(np.float32)).astype(np.int64), over)
        return self._padded(self.starts[rows] + first, np.minimum(lengths, most))

    def digest(self, rows=None):
        """Hashes the samples of the clips, or of some rows, without padding."""
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
    """Converts int16 samples to float32 in (−1, 1), with padding −1; floats are unchanged."""
    if waveform.dtype == tf.int16:
        return tf.cast(waveform, tf.float32) / -float(PADDING)
    return tf.cast(waveform, tf.float32)


def clips(name, waveforms, rate, names=None, label=None, classes=()):
    """Returns a `Source` of clips in memory, after checking them.

    Args:
        waveforms: a list of N arrays (T,), int16 or floats in [−1, 1].
        rate: the sampling rate in Hz.
        names: N strings, such as file names. Defaults to numbers.
        label: (N,) integers, or None.

    Raises:
        ValueError: There are no clips, or a clip is too short, has several channels or another dtype, or contains NaN
            or values out of range.
    """
    if not len(waveforms):
        raise ValueError(f"{name} has no examples. Expected at least one clip.")
    names = [str(i) for i in range(len(waveforms))] if names is None else list(names)
    arrays = [np.asarray(unmasked(f"{name}: {clip}", waveform)) for clip, waveform in zip(names, waveforms)]
    made = [as_int16(f"{name}: {clip}", array) for clip, array in zip(names, arrays)]
    lengths = np.array([len(one) for one in made])
    notes = overshoot_notes([array.dtype.kind == "f" and is_over(array) for array in arrays])
    return source(name, np.concatenate(made), lengths, rate, names, label, classes).with_notes(*notes)


def as_int16(name, waveform):
    """Converts a clip to int16 (T,)."""
    if waveform.ndim != 1:
        raise ValueError(f"{name}: expected a waveform of shape (T,), one channel. Received: shape {waveform.shape}")
    if waveform.dtype.kind == "f":
        check_range(name, waveform)
        waveform = np.rint(np.clip(waveform, -1, 1) * MOST).astype(np.int16)
    if waveform.dtype != np.int16:
        raise ValueError(f"{name}: expected int16 samples, or floats in [-1, 1]. Received: dtype {waveform.dtype}")
    return np.maximum(waveform, LEAST)


def check_range(name, waveform):
    """Raises ValueError if floats are not finite, or exceed [−1, 1] by more than OVERSHOOT."""
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name}: expected finite samples. Received: NaN or infinity. Remove the clip.")
    loudest = float(np.abs(waveform).max(initial=0.0))
    if loudest > 1 + OVERSHOOT:
        raise ValueError(
            f"{name}: expected floats in [-1, 1]. Received: values up to {loudest:g}. Rescale them to [-1, 1], or use "
            "int16."
        )


def is_over(waveform):
    """Returns whether floats (T,) exceed [−1, 1], so that `as_int16` clips them."""
    return float(np.abs(waveform).max(initial=0.0)) > 1


def overshoot_notes(over):
    """Returns a tuple with a note on the clips that were clipped, of a bool for each clip; empty if there are none."""
    note = f"{np.sum(over)} of {len(over)} clips have floats beyond [-1, 1], up to {1 + OVERSHOOT:g}, which are clipped"
    return (note,) if np.any(over) else ()


def source(name, samples, lengths, rate, names, label=None, classes=(), target=None, starts=None):
    """Returns a checked `Source` of clips in `samples` (total,) int16; by default, one starts where another ends."""
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
        log.warning("%s: %d clips are silent, the first is %s.", name, len(silent), first)
    arrays, notes = {"waveform": Clips(samples, starts, lengths), "name": np.array(names, object)}, ()
    classes = class_names(name, classes)
    if label is not None:
        arrays["label"], classes, notes = check_labels(name, label, len(lengths), classes)
    if target is not None:
        arrays["target"] = np.array(target, object)
    return Source(name, arrays, classes, lengths=lengths, rate=int(rate)).with_notes(*notes)


def is_short(length, rate):
    """Returns whether a clip of this many samples is shorter than SHORTEST."""
    return length < max(1, SHORTEST * rate)


def check_lengths(name, lengths, rate, names):
    """Raises ValueError if clips are shorter than SHORTEST."""
    short = [i for i, length in enumerate(lengths) if is_short(length, rate)]
    if short:
        raise ValueError(
            f"{name}: {len(short)} clips are shorter than {SHORTEST} s, the first is {printable(names[short[0]])} "
            f"with {lengths[short[0]]} samples at {rate} Hz. Remove them."
        )


def connected(splits):
    """Returns `Splits` of connected speech: labeled clips of the same split, concatenated with pauses of faint noise.

    The transcripts are the class names. The choice of clips is fixed.

    Raises:
        ValueError: The clips have no labels.
    """
    parts = []
    for index, (part, count) in enumerate(zip(splits, CONNECTED)):
        part.column_spec("waveform")
        part = drop_long_clips(part, USUAL, "only shorter ones are concatenated")
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
    """Returns a pause of faint noise, int16."""
    length = int(rate * random.uniform(*PAUSE))
    return np.rint(random.uniform(0, FAINT) * random.normal(size=length)).astype(np.int16)


def resample(waveform, rate, new_rate):
    """Resamples a waveform (T,) to (ceil(T · new/old),) float32, with a polyphase filter."""
    if rate == new_rate:
        return np.asarray(waveform, np.float32)
    common = math.gcd(int(rate), int(new_rate))
    return resample_poly(np.asarray(waveform, np.float32), new_rate // common, rate // common)


def resampled_length(length, rate, new_rate):
    """Returns the number of samples that `resample` returns."""
    common = math.gcd(int(rate), int(new_rate))
    return -(-length * (new_rate // common) // (rate // common))


def drop_long_clips(part, seconds, why):
    """Drops clips longer than `seconds`, with a note. Raises ValueError if no clip is left."""
    short = part.lengths <= seconds * part.rate
    if short.all():
        return part
    if not short.any():
        raise ValueError(f"{part.name}: expected clips of at most {seconds:g} s. All {len(part)} are longer. Cut them.")
    note = f"{len(short) - short.sum()} of {len(short)} clips are longer than {seconds:g} s and are skipped: {why}"
    return part.take(np.flatnonzero(short)).with_notes(note)


def limit_lengths(splits):
    """Truncates long clips, with a note, so that one long recording among short clips does not exhaust memory.

    The largest length is `USUAL` seconds or `FAR` times the median of the training split, whichever is longer, and at
    most `LONGEST`.
    """
    rate, median = splits.train.rate, float(np.median(splits.train.lengths))
    most, note = int(min(max(USUAL * rate, FAR * median), LONGEST * rate)), "only their beginning is used"
    return Splits(*(truncate_clips(part, most).with_notes(*long_clip_notes(part, most, note)) for part in splits))


def truncate_clips(part, most):
    """Truncates each clip to at most `most` samples."""
    whole = part.arrays["waveform"]
    if whole.longest <= most:
        return part
    column = Clips(whole.samples, whole.starts, np.minimum(whole.lengths, most))
    return dataclasses.replace(part, arrays=part.arrays | {"waveform": column}, lengths=np.minimum(part.lengths, most))


def long_clip_notes(part, most, what):
    """Returns a tuple with a note on clips of more than `most` samples; empty if there are none."""
    long = np.sum(part.lengths > most)
    return (f"{long} of {len(part)} clips are longer than {most / part.rate:g} s: {what}",) if long else ()


def resample_splits(splits, rate):
    """Resamples the splits to `rate` Hz and drops the names of clips."""
    return Splits(*(resample_source(part, rate) for part in splits))


def resample_source(part, rate):
    """Resamples a source to `rate` Hz and drops the names of clips."""
    part = part if part.rate == rate else _resample_source(part, rate)
    return dataclasses.replace(part, arrays={k: v for k, v in part.arrays.items() if k != "name"})


def _resample_source(part, rate):
    part = part.with_notes(f"clips are resampled from {part.rate} Hz to {rate} Hz")
    clips_of, rows = part.arrays["waveform"], np.arange(len(part)) if part.rows is None else part.rows
    lengths = [resampled_length(int(length), part.rate, rate) for length in part.lengths]

    def chunks():
        for row, length in zip(rows, part.lengths):
            clip = clips_of.samples[clips_of.starts[row] : clips_of.starts[row] + length]
            made = resample(np.float32(clip) / -PADDING, part.rate, rate)
            yield {"samples": as_int16(part.name, np.clip(made, -1, 1))}

    def key():
        return ["resampled", part.fingerprint(), part.rate, rate]

    samples = materialize(key, {"samples": ((), np.int16)}, sum(lengths), chunks)["samples"]
    label, target = (part.column(name) if name in part.arrays else None for name in ("label", "target"))
    names = list(part.column("name")) if "name" in part.arrays else [str(row) for row in rows]
    made = source(part.name, samples, lengths, rate, names, label, part.classes, target)
    return dataclasses.replace(made, notes=part.notes)


def hold_out_by_name(splits, pattern):
    """Returns `Splits` whose test split is all clips whose names match the pattern, such as "*_theo_*" for a speaker.

    The pattern matches the file name, or its path below the folder. A tenth of the other clips is held out for
    validation.

    Raises:
        ValueError: The pattern matches no name or every name, or the data has its own splits.
    """
    splits.train.column_spec("waveform")
    parts = [part.arrays["name"] for part in splits]
    if any(other is not parts[0] for other in parts):
        raise ValueError(f"{splits.train.base} already has held-out splits. Remove [{pattern}] from its name.")
    rows = np.sort(np.concatenate([part.rows for part in splits]))
    whole = dataclasses.replace(
        splits.train, name=splits.train.base, rows=rows, lengths=splits.train.arrays["waveform"].lengths[rows]
    )
    paths = [(name, name.rpartition("/")[2]) for name in whole.column("name")]
    test = np.array([any(fnmatch.fnmatchcase(name, pattern) for name in each) for each in paths])
    if not test.any() or test.all():
        raise ValueError(
            f"{whole.name}: {'every' if test.all() else 'no'} file name matches {pattern!r}. Expected a pattern that "
            f"matches some of them: {', '.join(whole.column('name')[:5])}, …"
        )
    name = f"{whole.name}[{pattern}]"
    train, test = (dataclasses.replace(whole.take(np.flatnonzero(part)), name=name) for part in (~test, test))
    return hold_out_files(train, test)


def hold_out_files(whole, test=None):
    """Returns `Splits` as `hold_out` does, with all examples of one file in one split."""
    names = whole.column("name")
    _, first, group = np.unique(names, return_index=True, return_inverse=True)
    if len(first) == len(names):
        return hold_out(whole, test=test)
    rows = np.arange(len(whole)) if whole.rows is None else whole.rows
    parts = hold_out(whole.take(np.sort(first)), test=test)
    expanded = [whole.take(np.flatnonzero(np.isin(rows[first][group], part.rows))) for part in parts]
    made = [dataclasses.replace(each, name=part.name) for each, part in zip(expanded, parts)]
    return Splits(*made[:2], made[2] if test is None else parts.test)
