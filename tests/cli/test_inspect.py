"""The command `inspect`: a table, and a page that runs nothing."""

import json
import pathlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from ssl_keras.cli import inspect, main
from ssl_keras.data import summary

EVIL = "<script>alert(1)<script>"


@pytest.fixture
def data(tmp_path, rng):
    """{name of the data: what of strangers is in it}, of every kind with pictures or texts."""
    for name in (EVIL, "b"):
        for folder in ("images", "sounds"):
            (tmp_path / folder / name).mkdir(parents=True)
        for number in range(6):
            file = f"{number}<script>"
            Image.fromarray(rng.integers(0, 256, (80, 40, 3), np.uint8)).save(
                tmp_path / "images" / name / f"{file}.png"
            )
            soundfile.write(tmp_path / "sounds" / name / f"{file}.wav", rng.uniform(-1, 1, 800 + number), 8_000)
    (tmp_path / "flat").mkdir()
    for number in range(9):
        Image.fromarray(np.full((4, 4), 20 * number, np.uint8)).save(tmp_path / "flat" / f"{number}<script>.png")
    (tmp_path / "text.txt").write_text("".join(f"{EVIL} {number}\n" for number in range(400)))
    (tmp_path / "pairs.tsv").write_text("".join(f"{EVIL} {number}\t{EVIL}{number}\n" for number in range(200)))
    (tmp_path / "table.csv").write_text(
        "text,label\n" + "".join(f"{EVIL} {number},<script>{number % 2}\n" for number in range(20))
    )
    (tmp_path / "captions.jsonl").write_text(
        "".join(
            json.dumps({"image": f"many/{number}.png", "caption": f"{rng.bytes(40).hex()} {EVIL}"}) + "\n"
            for number in range(80)
        )
    )
    (tmp_path / "many").mkdir()
    for number in range(80):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "many" / f"{number}.png")


@pytest.mark.parametrize(
    "name",
    [
        "folder:images",
        "folder:flat",
        "audio:sounds",
        "text:text.txt",
        "pairs:pairs.tsv",
        "table:table.csv",
        "captions:captions.jsonl",
    ],
)
def test_nothing_of_strangers_runs(data, name, capsys):
    assert main(["inspect", "--data", name, "--out", "page.html"]) == 0, capsys.readouterr().err
    content = pathlib.Path("page.html").read_text("utf-8")
    assert "&lt;script&gt;" in content
    assert "<script" not in content.lower()
    assert ("data:image/png" in content) == (name.partition(":")[0] in ("folder", "audio", "captions"))


def test_the_table_is_aligned(capsys):
    assert main(["inspect", "--data", "digits"]) == 0
    title, header, first, *rows = capsys.readouterr().out.splitlines()
    assert (title, header.split(), first.split()) == (
        "digits",
        ["train", "validation", "test"],
        ["examples", "1,295", "143", "359"],
    )
    assert len({len(line) for line in (header, first, *rows)}) == 1
    assert [row.split()[:2] for row in rows[-10:]] == [["class", str(number)] for number in range(10)]


def test_columns_are_as_wide_as_need_be():
    assert inspect.aligned([["", "a"], ["long", "1,000"]]) == "          a\nlong  1,000"


def test_many_classes_are_counted(digits):
    rows = summary.table(summary.summarize(digits), 4)
    assert [row[0] for row in rows[-2:]] == ["class 3", "and 6 more classes"]


def test_a_page_is_not_replaced_unasked(capsys):
    pathlib.Path("page.html").write_text("mine")
    assert main(["inspect", "--out", "page.html"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert pathlib.Path("page.html").read_text() == "mine"


def test_data_without_anything_to_learn_are_shown_and_refused(tmp_path, capsys):
    (tmp_path / "same").mkdir()
    for number in range(9):
        Image.new("L", (4, 4), 7).save(tmp_path / "same" / f"{number}.png")
    assert main(["inspect", "--data", "folder:same"]) == 1
    output = capsys.readouterr()
    assert "images of one color" in output.out
    assert "nothing to learn" in output.err
