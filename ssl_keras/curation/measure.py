"""Measures a shard: of each example its id, what is wrong with it, and the sketches by which copies are found.

The features of `N` examples are arrays:

- id uint64 (N,), of the input's name, the example's name and its place, whatever folder they are in
- reason int16 (N,), an index into `REASONS`, 0 if nothing is wrong; value float32 (N,), the value that is out of bounds
- size uint32 (N,) in bytes, pixels or samples; hash uint64 (N, 2) of the content; values float32 (N, V) of the rules
- keys uint64 (M,) and key_rows uint32 (M,) of documents or images; short_keys and short_rows of short texts
- texts: sketch uint8 (N, 120), and short uint8 (L,), normalized short texts that end at short_ends int64 (N,)
- images: thumbnail int8 (N, 768), detail int8 (N, 1024)
"""

import functools
import hashlib

import numpy as np

from ssl_keras.curation import items, quality, rules
from ssl_keras.data.near_duplicates import images, texts
from ssl_keras.data.near_duplicates.sketching import BINS, compact, keys, sketches

GRAM = 13  # tokens of a sequence that an evaluation text is recognized by (Brown et al. 2020)
SHARE, ROW = 0.02, 3  # of the sequences of a document, or consecutive ones, that make it contaminated
BATCH = 1 << 16  # tokens and letters that are sketched together
ENCODING = "utf-8", "surrogateescape"  # of names, since file names may be any bytes
LANGUAGE = 1_000  # characters by which the language is recognized
NAMES = {
    "text": [*rules.text_checks(rules.TextRules(), ("gopher", "fineweb", "markup"), True)],
    "image": [*rules.image_checks(rules.ImageRules())],
    "audio": [*rules.sound_checks(rules.SoundRules())],
}
PROBLEMS = (items.UNREADABLE, items.NOT_TEXT, items.TOO_LONG, items.EMPTY, "pixels")
OTHERS = ("language", "evaluation text", "evaluation example", "exact copy", "near copy")
REASONS = ("", *PROBLEMS, *dict.fromkeys(name for names in NAMES.values() for name in names), *OTHERS)


def measure(shard, listing, settings, grams=None, reference=False):
    """Returns the features of a shard, as a dict of arrays.

    Args:
        listing: the `Listing` that the shard is of.
        settings: `Settings`; see `curate.py`.
        grams: sorted uint64 hashes of the 13-token sequences of evaluation texts, or None.
        reference: whether the shard is of an evaluation dataset, whose examples are not judged.
    """
    describe = {"text": _Texts, "image": _Images, "audio": _Sounds}[listing.kind](listing, settings, grams, reference)
    ids, names, sizes = [], [], []
    for item in items.read(shard, listing.kind, listing.rate, settings.image.pixels, settings.sound.seconds[1]):
        ids.append(identify(shard["input"], item.name))
        names.append(item.name)
        describe.add(item)
        sizes.append(describe.size)
    made = describe.features()
    code = {name: number for number, name in enumerate(REASONS)}
    reasons = [("", 0.0) if each is None else each for each in describe.reasons]
    values = np.full((len(ids), len(NAMES[listing.kind])), np.nan, np.float32)
    for row, each in zip(values, describe.values):
        row[:] = [each.get(name, np.nan) for name in NAMES[listing.kind]]
    return made | {
        "id": np.array(ids, np.uint64),
        "size": np.array(sizes, np.uint32),
        "reason": np.array([code[name] for name, _ in reasons], np.int16),
        "value": np.array([value for _, value in reasons], np.float32),
        "values": values,
        "name": np.frombuffer("\n".join(name.replace("\n", " ") for name in names).encode(*ENCODING), np.uint8),
    }


def identify(source, name):
    """Returns the id of an example, an integer below 2^64."""
    content = f"{source}\0{name}".encode(*ENCODING)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def content_hash(content):
    """Returns two uint64 numbers for bytes."""
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint64)


def hash_of(item, kind):
    """Returns the hash by which exact copies of an example are found: of its folded text, its pixels or its samples."""
    if kind == "text":
        return content_hash(texts.normalize_text(item.content).encode("utf-8", "surrogatepass"))
    shape = f"{item.content.shape}{item.captions or ''}".encode("utf-8", "surrogatepass")
    return content_hash(shape + np.ascontiguousarray(item.content).tobytes())


class _Examples:
    """Findings about the examples: reason (name, value) or None, values, and hash of each."""

    def __init__(self, listing, settings, grams, reference):
        self.listing, self.settings, self.grams, self.reference = listing, settings, grams, reference
        self.reasons, self.values, self.hashes, self.size = [], [], [], 0

    def judge(self, item, values, checks):
        """Notes an example's values and reason; returns whether it is kept."""
        reason = (item.problem, 0.0) if item.problem else None if self.reference else rules.broken(values, checks)
        self.reasons.append(reason)
        self.values.append(values)
        self.hashes.append(hash_of(item, self.listing.kind) if reason is None else np.zeros(2, np.uint64))
        return reason is None


class _Texts(_Examples):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        english = self.settings.language in ("", "en")
        self.checks = rules.text_checks(self.settings.text, self.settings.families(), english)
        self.sequences = any(name.startswith(("top_grams", "repeated_grams")) for name in self.checks)
        self.waiting, self.letters = [], 0
        self.parts = {name: [] for name in ("keys", "key_rows", "short_keys", "short_rows")}
        self.sketches, self.short = {}, {}
        self.gram_parts = []

    def add(self, item):
        row, self.size = len(self.reasons), 0 if item.problem else len(item.content.encode("utf-8", "surrogatepass"))
        judged = self.checks and not (item.problem or self.reference)
        values = quality.text_values(item.content) if judged else {}
        if not self.judge(item, values, self.checks):
            return
        if self.settings.language and not self.reference and _language(item.content) != self.settings.language:
            self.reasons[row] = ("language", 0.0)
            return
        self.waiting.append((row, texts.fold(item.content)))
        self.letters += len(item.content)
        if self.letters >= 6 * BATCH:
            self._flush()

    def _flush(self):
        """Looks at the waiting texts together: sequences of words, evaluation texts, sketches."""
        rows, folded = [row for row, _ in self.waiting], [text for _, text in self.waiting]
        self.waiting, self.letters = [], 0
        for start, stop in _batches(folded):
            some = np.array(rows[start:stop])
            hashes, places, lengths = texts.tokens_and_lengths(folded[start:stop])
            if self.sequences and not self.reference:
                self._judge_sequences(some, *_first_tokens(hashes, places, lengths))
            if self.grams is not None:
                self._find_evaluation(some, hashes, places)
            if self.reference:
                self.gram_parts.append(texts.token_shingles(hashes, places, GRAM)[0])
            self._sketch(some, folded[start:stop], hashes, places)

    def _judge_sequences(self, rows, hashes, places, lengths):
        found = quality.sequence_values(hashes, places, lengths)
        for place, row in enumerate(rows):
            self.values[row] |= {name: float(values[place]) for name, values in found.items()}
            self.reasons[row] = rules.broken(self.values[row], self.checks)

    def _find_evaluation(self, rows, hashes, places):
        shingles, owners = texts.token_shingles(hashes, places, GRAM)
        known = np.zeros(len(shingles), bool)
        if len(self.grams):
            at = np.minimum(np.searchsorted(self.grams, shingles), len(self.grams) - 1)
            known = self.grams[at] == shingles
        share = np.bincount(owners, known, len(rows)) / np.maximum(np.bincount(owners, minlength=len(rows)), 1)
        row_of = known[: len(known) - ROW + 1].copy() if len(known) >= ROW else np.zeros(0, bool)
        for step in range(1, ROW):
            row_of &= known[step : len(known) - ROW + 1 + step]
            row_of &= owners[step : len(known) - ROW + 1 + step] == owners[: len(row_of)]
        several = np.bincount(owners[: len(row_of)], row_of, len(rows)) > 0
        for place in np.flatnonzero((share > SHARE) | several):
            if self.reasons[rows[place]] is None:
                self.reasons[rows[place]] = ("evaluation text", float(share[place]))

    def _sketch(self, rows, folded, hashes, places):
        """Adds the sketches and keys of the texts that are still kept."""
        counts = np.diff(places)
        kept = np.array([self.reasons[row] is None for row in rows], bool)
        long = kept & (counts >= texts.DOCUMENT_TOKENS)
        made = sketches(*texts.token_shingles(hashes, places), len(rows))
        found = keys(made, *texts.DOCUMENT_BANDS)
        self.parts["keys"].append(found[long].ravel())
        self.parts["key_rows"].append(np.repeat(rows[long], found.shape[1]))
        small = compact(made)
        self.sketches |= {rows[place]: small[place] for place in np.flatnonzero(long)}
        few = np.flatnonzero(kept & (counts < texts.SHORT_TOKENS))
        if len(few):
            short = [" ".join(folded[place].split()) for place in few]
            found = keys(sketches(*texts.letter_shingles(short), len(few)), *texts.SHORT_BANDS)
            self.parts["short_keys"].append(found.ravel())
            self.parts["short_rows"].append(np.repeat(rows[few], found.shape[1]))
            self.short |= {row: text.encode("utf-8", "surrogatepass") for row, text in zip(rows[few], short)}

    def features(self):
        self._flush()
        sketch = np.zeros((len(self.reasons), BINS), np.uint8)
        for row, made in self.sketches.items():
            sketch[row] = made
        whole = b"".join(self.short.get(row, b"") for row in range(len(self.reasons)))
        ends = np.cumsum([len(self.short.get(row, b"")) for row in range(len(self.reasons))], dtype=np.int64)
        grams = {"grams": np.unique(_joined(self.gram_parts, np.uint64))} if self.reference else {}
        kinds = {"keys": np.uint64, "key_rows": np.uint32, "short_keys": np.uint64, "short_rows": np.uint32}
        return (
            {name: _joined(self.parts[name], dtype) for name, dtype in kinds.items()}
            | grams
            | {
                "hash": _hashes(self.hashes),
                "sketch": sketch,
                "short": np.frombuffer(whole, np.uint8),
                "short_ends": ends,
            }
        )


def _batches(folded):
    """Yields (start, stop) of runs of texts with about `BATCH` tokens, so that their arrays stay in the cache."""
    start, letters = 0, 0
    for stop, text in enumerate(folded, 1):
        letters += len(text)
        if letters >= 4 * BATCH or stop == len(folded):
            yield start, stop
            start, letters = stop, 0


def _first_tokens(hashes, places, lengths):
    """Returns the first `quality.TOKENS` tokens of texts."""
    if len(hashes) <= quality.TOKENS:
        return hashes, places, lengths
    return hashes[: quality.TOKENS], np.minimum(places, quality.TOKENS), lengths[: quality.TOKENS]


@functools.cache
def recognizer():
    """Returns the recognizer of languages, once. Raises ValueError if py3langid is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ValueError("--language needs py3langid. Install it: pip install 'ssl-keras[curation]'") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _language(text):
    """Returns the language of a text, ISO 639-1, from its first `LANGUAGE` characters."""
    return recognizer().classify(text[:LANGUAGE])[0]


class _Images(_Examples):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.checks, self.rows, self.made, self.waiting = rules.image_checks(self.settings.image), [], [], []

    def add(self, item):
        self.size = 0 if item.problem else item.content.shape[0] * item.content.shape[1]
        values = {} if item.problem else quality.image_values(item.content)
        if self.judge(item, values, self.checks if self.settings.families() else {}):
            self.rows.append(len(self.reasons) - 1)
            self.waiting.append(item.content)
            if len(self.waiting) == images.CHUNK:
                self._flush()

    def _flush(self):
        if self.waiting:
            self.made.append(images.sketches(self.waiting))
        self.waiting = []

    def features(self):
        self._flush()
        count, rows = len(self.reasons), np.array(self.rows, np.uint32)
        thumbnail, detail = np.zeros((count, 768), np.int8), np.zeros((count, 1024), np.int8)
        if len(rows):
            thumbnail[rows], detail[rows] = (np.concatenate([each[part] for each in self.made]) for part in (0, 1))
        found = np.concatenate([np.zeros((0, images.BANDS), np.uint64), *(each[2] for each in self.made)])
        return {
            "hash": _hashes(self.hashes),
            "thumbnail": thumbnail,
            "detail": detail,
            "keys": found.ravel(),
            "key_rows": np.repeat(rows, images.BANDS),
        }


class _Sounds(_Examples):
    def add(self, item):
        self.size = 0 if item.problem else len(item.content)
        values = {} if item.problem else quality.sound_values(item.content, self.listing.rate)
        self.judge(item, values, rules.sound_checks(self.settings.sound) if self.settings.families() else {})

    def features(self):
        none = {"keys": np.zeros(0, np.uint64), "key_rows": np.zeros(0, np.uint32)}
        return none | {"hash": _hashes(self.hashes)}


def _joined(parts, dtype):
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _hashes(found):
    return np.concatenate([np.zeros(0, np.uint64), *found]).reshape(-1, 2)
