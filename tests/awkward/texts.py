"""Writes small, awkward text files and tables: each function fills a folder."""

import bz2
import csv
import gzip
import io
import json
import lzma

COUNT = 60  # rows, enough for every split of pairs


def sentences(count=COUNT):
    return [f'He said "{i}", and left; été 😀' for i in range(count)]


def separated(rows, separator=",", end="\r\n", **style):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator=end, **style).writerows(rows)
    return out.getvalue()


def tables(folder):
    """Returns {name: file} of one table in many dialects. The label of a text is its number modulo 2."""
    rows = [(text, str(i % 2)) for i, text in enumerate(sentences())]
    head = ("text", "label")
    plain = "".join(f"{text}\t{label}\n" for text, label in rows)
    objects = [{"text": text, "label": int(label), "more": [1]} for text, label in rows]
    contents = {
        "comma.csv": separated([head, *rows]),
        "semicolon.csv": separated([head, *rows], ";"),
        "bar.csv": separated([head, *rows], "|"),
        "minimal.tsv": separated([head, *rows], "\t", "\n"),
        "all.tsv": separated([head, *rows], "\t", "\n", quoting=csv.QUOTE_ALL),
        "plain.tsv": "text\tlabel\n" + plain,
        "mac.csv": separated([head, *rows], end="\r"),
        "sep.csv": "sep=;\r\n" + separated([head, *rows], ";"),
        "sep-quoted.CSV": '"sep=;"\r\n' + separated([head, *rows], ";"),
        "index.csv": separated([("", *head), *((str(i), *row) for i, row in enumerate(rows))]),
        "named.csv": separated([("", "Sentence", "Label"), *((str(i), *row) for i, row in enumerate(rows))]),
        "empty-rows.csv": separated([head, ("", ""), *rows, ("", ""), (" ", ""), ("", "", "")]) + "\r\n\r\n",
        "wider.csv": separated([head, *((*row, "", "") for row in rows)], ";"),
        "spaced.csv": "text, label\n" + "".join(f'"{t.replace(chr(34), chr(34) * 2)}", "{n}"\n' for t, n in rows),
        "escaped.csv": "text,label\n" + "".join('"{}",{}\n'.format(t.replace('"', '\\"'), n) for t, n in rows),
        "mark.csv": "\ufeff" + separated([head, *rows]),
        "lines.jsonl": "".join(json.dumps(row) + "\n" for row in objects) + "\n",
        "lines.NDJSON": "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in objects),
        "list.json": json.dumps(objects, indent=1),
    }
    return _written(folder, contents)


def texts(folder):
    """Returns {name: file} of one text in many forms, with a sentence per line."""
    lines = sentences()
    contents = {
        "plain.txt": "\n".join(lines),
        "none": "\n".join(lines),
        "upper.TXT": "\n".join(lines),
        "mark.md": "\ufeff" + "\n".join(lines),
        "lines.jsonl": "".join(json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(lines)),
        "content.ndjson": "".join(json.dumps({"n": 1, "content": line}) + "\n" for line in lines),
        "mark.JSONL": "\ufeff" + "".join(json.dumps({"text": line}) + "\n\n" for line in lines),
    }
    return _written(folder, contents)


def pairs(folder):
    """Returns {name: file} of the same pairs in many forms."""
    rows = [(text, text.upper()) for text in sentences(200)]
    contents = {
        "plain.tsv": "".join(f"{a}\t{b}\n" for a, b in rows),
        "minimal.tsv": separated(rows, "\t", "\n"),
        "all.txt": separated(rows, "\t", quoting=csv.QUOTE_ALL),
        "empty-rows.tsv": "\n" + separated([*rows, ("", ""), (" ", "")], "\t") + "\n\n",
        "lines.jsonl": "".join(json.dumps({"target": b, "text": a}) + "\n" for a, b in rows),
    }
    return _written(folder, contents)


def _written(folder, contents):
    """Writes the files, plain and compressed."""
    files = {}
    for name, content in contents.items():
        for file, data in ((name, content.encode()), (f"{name}.gz", gzip.compress(content.encode(), 1))):
            (folder / file).write_bytes(data)
            files[file] = folder / file
    return files


def unreadable(folder):
    """Returns {file: error message} of files that are not UTF-8 text."""
    text, plain = "go 1\tva 1\r\n" * 30, b"go 1\tva 1\r\n" * 30
    packed = gzip.compress(plain)
    contents = {
        "utf-16": (text.encode("utf-16"), "is UTF-16. .*iconv -f utf-16 "),
        "utf-16-le": (text.encode("utf-16-le"), "UTF-16 without a byte order mark. .*iconv -f utf-16-le"),
        "utf-16-be": (text.encode("utf-16-be"), "UTF-16 without a byte order mark. .*iconv -f utf-16-be"),
        "utf-32": (text.encode("utf-32"), "is UTF-32. .*iconv -f utf-32"),
        "latin": (
            ("été\tva\n" * 30).encode("latin1"),
            "60 of .* characters are not UTF-8: .*from their encoding: iconv",
        ),
        "gzip": (packed, "compressed with gzip. .*gunzip"),
        "cut.gz": (packed[:-9], "cannot be decompressed: .*Download"),
        "spoilt.gz": (packed[:12] + b"\xff" * 9 + packed[21:], "cannot be decompressed: .*Download"),
        "twice.gz": (gzip.compress(packed), "compressed with gzip"),
        "utf-16.gz": (gzip.compress(text.encode("utf-16")), "is UTF-16"),
        "folder.gz": (gzip.compress(bytes(257) + b"ustar" + bytes(250)), "is a tar archive"),
        "bzip2": (bz2.compress(plain), "bunzip2"),
        "xz": (lzma.compress(plain), "unxz"),
        "zstd": (b"\x28\xb5\x2f\xfd" + plain, "unzstd"),
        "sheet.csv": (b"PK\x03\x04" + plain, "a sheet as CSV"),
        "old.csv": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + plain, "a sheet as CSV"),
        "paper": (b"%PDF-1.7\n" + plain, "pdftotext"),
        "letter": (b"{\\rtf1" + plain, "is RTF"),
        "table": (b"PAR1" + plain, "CSV or JSON lines"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {folder / name: message for name, (_, message) in contents.items()}
