"""Files of text: UTF-8, also packed by gzip (`.gz`), and JSON lines. What is something else is named."""

import gzip
import hashlib
import json
import logging
import pathlib
import zlib

import numpy as np

from ssl_keras.data.cache import materialise
from ssl_keras.files import printable

BOM = b"\xef\xbb\xbf"
NOT_UTF8_SHARE = 0.01  # of the characters; more than this is an error
HEAD = 1 << 12  # bytes by which a file is recognized
AT_ONCE = 1 << 22  # bytes unpacked at a time
MAX_UNPACKED, MAX_RATIO = 1 << 30, 200  # bytes; beyond them a file that was packed more than so many times is a trap
JSON = {".jsonl", ".ndjson", ".json"}
# (first bytes, what it is, what to do)
SIGNATURES = [
    (b"\xff\xfe\0\0", "UTF-32", "Convert it: iconv -f utf-32 -t utf-8"),
    (b"\0\0\xfe\xff", "UTF-32", "Convert it: iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "UTF-16", "Convert it: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16", "Convert it: iconv -f utf-16 -t utf-8"),
    (b"\x1f\x8b", "compressed by gzip", "Let its name end in .gz, or unpack it: gunzip"),
    (b"BZh", "compressed by bzip2", "Unpack it: bunzip2"),
    (b"\xfd7zXZ\0", "compressed by xz", "Unpack it: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it: unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it: 7z x"),
    (b"PK\x03\x04", "a ZIP archive, or an Office document", "Unpack it, or save it as text in UTF-8 (a sheet: as CSV)"),
    (b"\xd0\xcf\x11\xe0", "an Office document", "Save it as text in UTF-8 (a sheet: as CSV)"),
    (b"%PDF-", "a PDF", "Save its text: pdftotext"),
    (b"{\\rtf", "RTF", "Save it as plain text in UTF-8"),
    (b"PAR1", "a Parquet table", "Save it as CSV or JSON lines"),
    (b"ARROW1", "an Arrow table", "Save it as CSV or JSON lines"),
    (b"SQLite format 3\0", "an SQLite database", "Save its table as CSV"),
]

log = logging.getLogger(__name__)


def ending(path):
    """The ending of a file's name in lower case, without `.gz`: ".txt" of a.TXT.gz."""
    return pathlib.PurePath(path.name.lower().removesuffix(".gz")).suffix


def opened(path):
    """What `span` reads: the path or, of a packed file, its bytes, uint8 (n,).

    Raises:
        ValueError: the file is none of UTF-8, by its first bytes; what is packed is damaged, or of absurd size.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    source = path
    if path.name.lower().endswith(".gz") and head[:2] == b"\x1f\x8b":
        source = _unpacked(path)
        head = source[:HEAD].tobytes()
    for signature, what, advice in SIGNATURES:
        if head.startswith(signature):
            raise ValueError(f"{printable(path)} is {what}. Expected text in UTF-8. {advice}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{printable(path)} is a tar archive. Expected text in UTF-8. Unpack it: tar xf")
    for first, order in ((1, "utf-16-le"), (0, "utf-16-be")):  # every other byte of plain letters is 0
        if head[first::2].count(0) > len(head) // 4 and head[1 - first :: 2].count(0) <= len(head) // 16:
            raise ValueError(
                f"{printable(path)} is UTF-16 without a mark. Expected text in UTF-8. Convert it: "
                f"iconv -f {order} -t utf-8"
            )
    return source


def size(source):
    """How many bytes an opened file has."""
    return len(source) if isinstance(source, np.ndarray) else source.stat().st_size


def span(source, start=0, stop=None):
    """The bytes of an opened file from `start` to `stop`, or to its end."""
    if isinstance(source, np.ndarray):
        return source[start:stop].tobytes()
    with open(source, "rb") as file:
        file.seek(start)
        return file.read(-1 if stop is None else stop - start)


def _unpacked(path):
    """The unpacked bytes, uint8 (n,): in memory or, of more than a gigabyte, in the cache."""
    most = max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size)

    def chunks():
        with gzip.open(path, "rb") as file:
            while chunk := file.read(AT_ONCE):
                yield {"bytes": np.frombuffer(chunk, np.uint8)}

    count = 0
    try:
        for chunk in chunks():
            count += len(chunk["bytes"])
            if count > most:
                raise ValueError(
                    f"{printable(path)} has {path.stat().st_size} bytes, and more than {most} unpacked: no text has."
                )
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return materialise(["unpacked", digest], {"bytes": ((), np.uint8)}, count, chunks)["bytes"]
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{printable(path)} cannot be unpacked: {error}. Get it again.") from error


def decoded(content):
    """(bytes as text, how many of its characters are not UTF-8): they come as U+FFFD."""
    text = content.decode("utf-8", "replace")
    # U+FFFD that the file itself holds is no error of its; a NUL is none of a text's.
    return text, text.count("\ufffd") - content.count("\ufffd".encode()) + content.count(b"\0")


def check_utf8(name, broken, characters):
    """Warns of characters that are not UTF-8, or raises ValueError where they are too many.

    Args:
        broken: {path: how many}.
        characters: in all files.
    """
    count = sum(broken.values())
    if not count:
        return
    worst = sorted((path for path, bad in broken.items() if bad), key=broken.get, reverse=True)
    names = ", ".join(f"{printable(path)} ({broken[path]})" for path in worst[:10]) + (" …" if worst[10:] else "")
    note = f"{name}: {count} of {characters} characters are not UTF-8: {names}"
    if count > NOT_UTF8_SHARE * characters:
        raise ValueError(
            f"{note}. Expected UTF-8. Take out what is no text; save other files as such, or convert them from the "
            "encoding that they have: iconv -f ENCODING -t utf-8"
        )
    log.warning("%s. They are read as U+FFFD.", note)


def read(name, path):
    """The whole text of a file.

    Raises:
        ValueError: as `opened` and `check_utf8`.
    """
    text, bad = decoded(span(opened(path)).removeprefix(BOM))
    check_utf8(name, {path: bad}, len(text))
    return text


def json_rows(name, path, expected):
    """[(line, value)] of a file of JSON lines or, of a `.json`, of one list.

    Args:
        expected: for messages: what a line is, {"text": …} say.

    Raises:
        ValueError: as `read`; a line that is no JSON.
    """
    text = read(name, path)
    if ending(path) == ".json" and text.lstrip().startswith("["):
        return list(enumerate(from_json(text, f"{name}: expected a list of {expected}"), 1))
    return [
        (number, from_json(line, f"{name}, line {number}: expected {expected}"))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def json_lines(source):
    """(where it starts, the line's bytes without its end) for each line of an opened file."""
    start = len(BOM) if span(source, 0, len(BOM)) == BOM else 0
    place, rest = start, b""
    while chunk := span(source, place, place + AT_ONCE):
        place += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield start, line
            start += len(line) + 1
    if rest:
        yield start, rest


def from_json(text, expected):
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deeply: `expected`, and what came instead.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{expected}. Received: {text[:80]!r}, nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{expected}. Received: {text[:80]!r} ({error})") from error


def whole_characters(text):
    """(a text, how many halves of characters it has): these, lone surrogates, are no text and come as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return whole, whole.count("\ufffd") - text.count("\ufffd")
    return text, 0
