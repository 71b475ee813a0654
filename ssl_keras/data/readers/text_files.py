"""Text files: UTF-8, optionally compressed with gzip (`.gz`), and JSON lines. Errors name other formats."""

import gzip
import json
import logging
import os
import pathlib
import zlib
from collections.abc import Mapping

import numpy as np

from ssl_keras.data.cache import materialize
from ssl_keras.files import printable, sha256

BOM = b"\xef\xbb\xbf"
MAX_INVALID = 0.01  # a larger fraction of characters that are not UTF-8 is an error
HEAD = 1 << 12  # bytes that identify a format
BLOCK = 1 << 22  # bytes decompressed at a time
MAX_UNPACKED, MAX_RATIO = 1 << 30, 200  # bytes and compression ratio; a file that exceeds both is an error
EXTENSIONS = {"", ".txt", ".text", ".md", ".rst"}  # of plain text
JSON_LINES = {".jsonl", ".ndjson"}
SUPPORTED = EXTENSIONS | JSON_LINES | {".gz"}
JSON = JSON_LINES | {".json"}
# (first bytes, what it is, what to do)
SIGNATURES = [
    (b"\xff\xfe\0\0", "UTF-32", "Convert it: iconv -f utf-32 -t utf-8"),
    (b"\0\0\xfe\xff", "UTF-32", "Convert it: iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "UTF-16", "Convert it: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16", "Convert it: iconv -f utf-16 -t utf-8"),
    (b"\x1f\x8b", "compressed with gzip", "Rename it to end in .gz, or decompress it: gunzip"),
    (b"BZh", "compressed with bzip2", "Decompress it: bunzip2"),
    (b"\xfd7zXZ\0", "compressed with xz", "Decompress it: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Decompress it: unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Extract it: 7z x"),
    (b"PK\x03\x04", "a ZIP archive or an Office document", "Extract it, or save it as UTF-8 text (a sheet as CSV)"),
    (b"\xd0\xcf\x11\xe0", "an Office document", "Save it as UTF-8 text (a sheet as CSV)"),
    (b"%PDF-", "a PDF", "Extract its text: pdftotext"),
    (b"{\\rtf", "RTF", "Save it as plain text in UTF-8"),
    (b"PAR1", "a Parquet table", "Save it as CSV or JSON lines"),
    (b"ARROW1", "an Arrow table", "Save it as CSV or JSON lines"),
    (b"SQLite format 3\0", "an SQLite database", "Save its table as CSV"),
]

log = logging.getLogger(__name__)


def ending(path):
    """Returns the extension of a file, lowercased and without `.gz`: ".txt" for a.TXT.gz."""
    return pathlib.PurePath(path.name.lower().removesuffix(".gz")).suffix


def opened(path):
    """Checks a file; returns what `span` reads: the path or, if compressed, its bytes, uint8 (n,).

    Raises:
        ValueError: The first bytes are not those of UTF-8 text, or a compressed file is damaged or implausibly large.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    source = path
    if path.name.lower().endswith(".gz") and head[:2] == b"\x1f\x8b":
        source = _unpacked(path)
        head = source[:HEAD].tobytes()
    other = foreign(head)
    if other:
        raise ValueError(f"{printable(path)} is {other[0]}. Expected UTF-8 text. {other[1]}")
    return source


def foreign(head):
    """Returns (what a file is, what to do about it) from its first bytes, or None if they may be UTF-8 text."""
    for signature, what, advice in SIGNATURES:
        if head.startswith(signature):
            return what, advice
    if head[257:262] == b"ustar":
        return "a tar archive", "Extract it: tar xf"
    for first, order in ((1, "utf-16-le"), (0, "utf-16-be")):  # every other byte of ASCII letters is 0
        if head[first::2].count(0) > len(head) // 4 and head[1 - first :: 2].count(0) <= len(head) // 16:
            return "UTF-16 without a byte order mark", f"Convert it: iconv -f {order} -t utf-8"
    return None


def size(source):
    """Returns the number of bytes of an opened file."""
    return len(source) if isinstance(source, np.ndarray) else source.stat().st_size


def span(source, start=0, stop=None):
    """Returns the bytes of an opened file from `start` to `stop`, or to its end."""
    if isinstance(source, np.ndarray):
        return source[start:stop].tobytes()
    with open(source, "rb") as file:
        file.seek(start)
        return file.read(-1 if stop is None else stop - start)


def _unpacked(path):
    """Decompresses a file to uint8 (n,), in memory or, for more than a gigabyte, in the cache."""
    most = max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size)

    def chunks():
        with gzip.open(path, "rb") as file:
            while chunk := file.read(BLOCK):
                yield {"bytes": np.frombuffer(chunk, np.uint8)}

    count = 0
    try:
        for chunk in chunks():
            count += len(chunk["bytes"])
            if count > most:
                raise ValueError(
                    f"{printable(path)} is not plausible text. Expected at most {most} decompressed bytes from "
                    f"{path.stat().st_size}. Received: more"
                )
        return materialize(["unpacked", sha256(path)], {"bytes": ((), np.uint8)}, count, chunks)["bytes"]
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{printable(path)} cannot be decompressed: {error}. Download or copy it again.") from error


def decoded(content):
    """Decodes bytes: returns (text, number of invalid characters), which are read as U+FFFD."""
    text = content.decode("utf-8", "replace")
    # U+FFFD in the file itself is valid. NUL is counted as invalid, because text does not contain it.
    return text, text.count("\ufffd") - content.count("\ufffd".encode()) + content.count(b"\0")


def check_utf8(name, broken, characters):
    """Warns of characters that are not UTF-8. Raises ValueError if there are too many.

    Args:
        broken: {path: number of invalid characters}.
        characters: the number of characters in all files.
    """
    count = sum(broken.values())
    if not count:
        return
    worst = sorted((path for path, bad in broken.items() if bad), key=broken.get, reverse=True)
    names = ", ".join(f"{printable(path)} ({broken[path]})" for path in worst[:10]) + (" …" if worst[10:] else "")
    note = f"{name}: {count} of {characters} characters are not UTF-8: {names}"
    if count > MAX_INVALID * characters and 2 * span(opened(worst[0])).count(b"\0") > broken[worst[0]]:
        raise ValueError(
            f"{note.replace('not UTF-8', 'NUL')}. Expected text. Remove files that are not text, and NUL characters in "
            "others: tr -d '\\000'"
        )
    if count > MAX_INVALID * characters:
        raise ValueError(
            f"{note}. Expected UTF-8. Remove files that are not text, and convert the others from their encoding: "
            "iconv -f ENCODING -t utf-8"
        )
    log.warning("%s. They are read as U+FFFD.", note)


def read(name, path):
    """Reads the whole text of a file.

    Raises:
        ValueError: See `opened` and `check_utf8`.
    """
    text, bad = decoded(span(opened(path)).removeprefix(BOM))
    check_utf8(name, {path: bad}, len(text))
    return text


def json_form(path, fields):
    """Returns the expected content of a JSON file for messages; `fields` are those of an object: {"text": …}."""
    return f"{'a list of objects, or ' if ending(path) == '.json' else ''}one object a line: {fields}"


def json_rows(name, path, expected):
    """Returns [(line, value)] of a file of JSON lines, or of a `.json` file with one list.

    Args:
        expected: see `json_form`.

    Raises:
        ValueError: See `read`; or a line is not valid JSON.
    """
    text = read(name, path)
    if ending(path) == ".json" and text.lstrip().startswith("["):
        return list(enumerate(from_json(text, f"{name}: expected {expected}"), 1))
    return [
        (number, from_json(line, f"{name}, line {number}: expected {expected}"))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def json_lines(source):
    """Yields (offset, bytes without the line end) of each line of an opened file."""
    start = len(BOM) if span(source, 0, len(BOM)) == BOM else 0
    place, rest = start, b""
    while chunk := span(source, place, place + BLOCK):
        place += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield start, line
            start += len(line) + 1
    if rest:
        yield start, rest


def from_json(text, expected):
    """Parses a JSON text.

    Raises:
        ValueError: It is not valid JSON, or nested too deeply. The message starts with `expected`.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{expected}. Received: {text[:80]!r}, nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{expected}. Received: {text[:80]!r} ({error})") from error


def whole_characters(text):
    """Returns (text, number of lone surrogates), which are read as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return whole, whole.count("\ufffd") - text.count("\ufffd")
    return text, 0


def strings(name, texts):
    """Returns (strings as a list, number of their lone surrogates), which are read as U+FFFD.

    Raises:
        ValueError: `texts` is not a sequence of strings.
    """
    if isinstance(texts, str | bytes | os.PathLike | Mapping) or not np.iterable(texts):
        received = f"one string, {texts[:40]!r}" if isinstance(texts, str) else type(texts).__name__
        raise ValueError(f"{name}: expected a list of strings. Received: {received}. Pass a list of documents.")
    found, count = [], 0
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"{name}: expected strings. Received: {type(text).__name__} at index {index}. Convert or remove it."
            )
        whole, halves = whole_characters(text)
        found.append(whole)
        count += halves
    return found, count
