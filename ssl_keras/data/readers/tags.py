"""Tagged words: `tags:PATH`, in the layout of CoNLL 2003 (Tjong Kim Sang & De Meulder 2003).

A line has a token and, in its last column, a tag. Columns are separated by tabs or spaces. An empty line ends a
sentence. Lines that begin with -DOCSTART- are skipped, and so are comments of CoNLL-U, such as `# sent_id = 1`. A file
with tokens alone has no tags.

A source has the column "text", the tokens of each sentence joined by spaces, and the column "tags", its tags joined
likewise. Tags of spans are IOB2: B- begins a span, I- continues it, O is outside. An I- that does not continue a span
of its kind begins one, and is read as B-.
"""

import os
import pathlib
import re

from ssl_keras.data.readers import text_files
from ssl_keras.data.readers.folders import listed
from ssl_keras.data.readers.split_names import PARTS, words_of
from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import hold_out
from ssl_keras.files import printable

OUTSIDE = "O"
SPAN = re.compile(r"[BI]-\S+")
CELL = re.compile(r"[^ \t\r\n\f\v]+")  # other spaces, such as a no-break space, may be tokens
LINE_END = re.compile(r"\r\n?|\n")
COMMENT = re.compile(r"#\s*(newdoc\b|newpar\b|\S+ = )")
DOCUMENT = "-DOCSTART-"
EXPECTED = "lines of a token and its tag, and an empty line between sentences"


def load(path):
    """Returns `Splits` of a file, or of a folder with a file for each split, such as train.txt and test.txt.

    Repeated sentences are skipped, so that no copy is in two splits.

    Raises:
        ValueError: The path does not exist, no file of a folder is named after the training split, a line has another
            number of columns than the first, or a tag is not IOB while others are.
    """
    root = pathlib.Path(os.path.expanduser(path))
    name = f"tags:{path}"
    if root.is_file():
        return hold_out(_source(name, root))
    if not root.is_dir():
        raise ValueError(f"{name}: no such file or folder. Expected a file with {EXPECTED}.")
    found, others = {}, []
    for file in sorted(each for each in root.iterdir() if each.is_file() and not each.name.startswith(".")):
        parts = {PARTS[word] for word in words_of(file) & PARTS.keys()}
        if len(parts) == 1 and parts <= found.keys():
            raise ValueError(f"{name}: {printable(file.name)} and {found[parts.pop()].name} name one split.")
        if len(parts) == 1:
            found[parts.pop()] = file
        else:
            others.append(printable(file.name))
    if "train" not in found:
        raise ValueError(
            f"{name} has no training split. Expected files named after the splits, such as train.txt and test.txt. "
            f"Received: {listed(others + [printable(file.name) for file in found.values()]) or 'no files'}"
        )
    notes = [f"skipped files: {listed(others)}"] if others else []
    sources = {part: _source(name if part == "train" else f"{name}[{part}]", file) for part, file in found.items()}
    return hold_out(sources.pop("train").with_notes(*notes), **sources)


def _source(name, path):
    """Returns the `Source` of a file."""
    sentences, texts = _sentences(name, path), {}
    for words, tags, _ in sentences:
        texts.setdefault(" ".join(words), " ".join(tags))
    copies, begun = len(sentences) - len(texts), sum(count for _, _, count in sentences)
    notes = [f"{copies} sentences repeat an earlier one and are skipped"] if copies else []
    if begun:
        notes.append(f"{begun} tags I- do not continue a span of their kind; each begins one, and is read as B-")
    source = documents(name, list(texts)).with_notes(*notes)
    if any(texts.values()):
        source.arrays["tags"] = documents(f"{name}, tags", list(texts.values())).arrays["text"]
    return source


def _sentences(name, path):
    """Returns [(words, tags, number of I- read as B-)] of a file; without tags, the lists of tags are empty."""
    sentences, width, spans, plain = [[]], None, None, None
    for number, line in enumerate(LINE_END.split(text_files.read(name, path)), 1):
        if COMMENT.match(line):
            continue
        cells = [cell.strip(" ") for cell in (line.split("\t") if "\t" in line else CELL.findall(line))]
        if not any(cells) or cells[0] == DOCUMENT:
            sentences.append([])
            continue
        width = width or len(cells)
        if len(cells) != width or not all(CELL.fullmatch(cell) for cell in (cells[0], cells[-1])):
            raise ValueError(
                f"{name}, line {number}: expected {width} columns, as in the lines before; the first is a token and "
                f"the last its tag, without spaces. Received: {line[:80]!r}"
            )
        if width > 1 and re.fullmatch(r"[bi]-\S+", cells[-1]):
            raise ValueError(f"{name}, line {number}: expected O, B-… or I-…. Received: {cells[-1]}. Use capitals.")
        if width > 1 and SPAN.fullmatch(cells[-1]):
            spans = spans or (number, cells[-1])
        elif width > 1 and cells[-1] != OUTSIDE:
            plain = plain or (number, cells[-1])
        sentences[-1].append((cells[0], cells[-1] if width > 1 else ""))
    if spans and plain:
        raise ValueError(
            f"{name}, line {plain[0]}: expected O, B-… or I-…, since line {spans[0]} has {spans[1]}. Received: "
            f"{plain[1]}. Convert the tags to IOB."
        )
    if not any(sentences):
        raise ValueError(f"{name} has no tokens. Expected {EXPECTED}.")
    return [_sentence(rows, width > 1, bool(spans)) for rows in sentences if rows]


def _sentence(rows, tagged, spans):
    words, tags = zip(*rows)
    if not tagged:
        return words, (), 0
    clean = iob2(tags) if spans else list(tags)
    return words, clean, sum(before != after for before, after in zip(tags, clean))


def is_iob(names):
    """Returns whether tags are of spans: O, B-… and I-…, and not O alone."""
    return any(map(SPAN.fullmatch, names)) and all(name == OUTSIDE or SPAN.fullmatch(name) for name in names)


def iob2(tags):
    """Returns the tags of a sentence, where an I- that does not continue a span of its kind is a B-."""
    made = []
    for tag in tags:
        continues = made and made[-1][2:] == tag[2:] and made[-1] != OUTSIDE
        made.append(f"B-{tag[2:]}" if tag.startswith("I-") and not continues else tag)
    return made
