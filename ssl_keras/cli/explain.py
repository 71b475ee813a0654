"""The command `explain`: what an encoder responds to in examples, and whether the pictures can be trusted."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tensorflow as tf

from ssl_keras import encoders, files
from ssl_keras.cli.flags import DataFlags, EncoderArgument, NetworkFlag, OverwriteFlag, parse
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.inputs import native_size
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.interpretation import questions, report, sections
from ssl_keras.pictures import page, picture_grid

MAX_EXAMPLES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explain(EncoderArgument, DataFlags, OverwriteFlag, NetworkFlag):
    """Attributions, dense features, probes of layers and their faithfulness for chosen examples, as an HTML page."""

    split: Literal[*Splits._fields] = "test"
    """Split that contains the examples."""
    examples: tuple[Annotated[int, Range(0)], ...] = ()
    """Numbers of the examples to explain, at most 64. By default --count examples, evenly spaced over the split."""
    count: Annotated[int, Range(1, MAX_EXAMPLES)] = 16
    """Number of examples, if --examples does not list them."""
    question: Literal["", *questions.QUESTIONS] = ""
    """Output to explain: the logit of a class; the same of a linear probe that is fitted on the data's labels; a
    feature; the similarity with the nearest neighbor, or with the caption; the logit of a hidden or of the next token;
    a symbol of a recognizer. By default the encoder's own output, or the similarity for an encoder without one."""
    choice: str = ""
    """Class, symbol or token by name, or number of a feature. By default the one with the largest score."""
    compare: str = ""
    """Name or path of a second saved encoder, which is explained next to the first one on the same examples."""
    out: str = "explain.html"
    """HTML file to write. It contains all pictures and needs no network."""
    tensorboard: bool = False
    """Write the pictures for TensorBoard too, into a folder with the name of --out without its ending."""


def explain_command(arguments):
    asked = parse(Explain, "explain", arguments)
    out = pathlib.Path(asked.out)
    files.check_output(out, asked.overwrite)
    folder = out.with_suffix("")
    if asked.tensorboard and folder == out:
        raise ValueError(f"Expected --out to end in .html, since TensorBoard's folder has no ending. Received: {out}")
    if len(asked.examples) > MAX_EXAMPLES:
        raise ValueError(f"Expected at most {MAX_EXAMPLES} --examples. Received: {len(asked.examples)}")
    card = cards.read(encoders.find(asked.encoder))
    splits = load(asked.data, asked.image_size or native_size(card))
    names = [asked.encoder, *([asked.compare] if asked.compare else [])]
    maker = asked.network_maker()
    opened = [questions.open_encoder(name, splits, maker() if maker else None) for name in names]
    source = getattr(opened[0].splits, asked.split)
    rows = list(asked.examples) or evenly_spaced(len(source), asked.count).tolist()
    asked_of = [questions.ask(each, asked.split, rows, asked.question or None, asked.choice or None) for each in opened]
    reports = [report.explain(each, one, asked.split) for each, one in zip(opened, asked_of)]
    title = f"{' and '.join(each.card['name'] for each in opened)} on {source.name}"
    page.write(out, title, *sections.parts(reports, asked.split, rows))
    for each in reports:
        print("\n".join([each.loaded.card["name"], *_aligned(sections.checks(each)), *sections.failures(each)]))
    print(f"Page: {files.printable(out)}")
    if asked.tensorboard:
        _write_events(folder, reports)
        print(f"TensorBoard: {files.printable(folder)}")


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _write_events(folder, reports):
    """Writes the maps of each report as images, a row for each method, and the checks as text."""
    with tf.summary.create_file_writer(str(folder)).as_default(step=0):
        for each in reports:
            name = each.loaded.card["name"]
            for method, shown in sections.pictures(each).items():
                widest = max(picture.shape[1] for picture in shown)
                padded = [
                    tf.pad(one, [(0, 0), (0, widest - one.shape[1]), (0, 0)], constant_values=1.0) for one in shown
                ]
                tf.summary.image(f"{name}/{method}", picture_grid([tf.stack(padded)])[None])
            lines = ["| " + " | ".join(row) + " |" for row in sections.checks(each)]
            lines.insert(1, "|---" * len(sections.checks(each)[0]) + "|")
            tf.summary.text(f"{name}/faithfulness", "\n".join([*lines, "", *sections.failures(each)]))
