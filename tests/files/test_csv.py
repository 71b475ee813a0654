"""CSV files, as Python and a spreadsheet read them."""

import csv

import numpy as np
import pytest

from ssl_keras.files import tables


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "  =1+1", "\t=1+1", "＝1+1", "-1+cmd|' /C calc'!A0"]
)
def test_formulas_are_escaped(text):
    assert tables.cell(text).startswith(("'", "\\"))


@pytest.mark.parametrize("text", ["-1", "+1.5e3", "-0", "a=b", "2-3", "中文", "'quoted'", "", "😀", "a-1"])
def test_other_text_is_kept(text):
    assert tables.cell(text) == text


def test_numbers():
    assert tables.cell(-1) == -1
    for value in (np.nan, np.float32("inf"), -np.inf):
        assert tables.cell(value) == ""
    assert tables.cell(None) is None  # an empty cell


def test_a_file_is_read_as_it_was_written(tmp_path):
    rows = [["class", "accuracy"], ['a "b", c', 0.1], ["中\n文\x1b", np.float32(0.5)], ["\ud800", None], ["é", np.nan]]
    tables.write_csv(tmp_path / "table.csv", rows)
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as file:
        read = list(csv.reader(file))
    assert read == [
        ["class", "accuracy"],
        ['a "b", c', "0.1"],
        ["中\\n文\\x1b", "0.5"],
        ["\\ud800", ""],
        ["é", ""],
    ]
    assert (tmp_path / "table.csv").read_bytes().count(b"\n") == 5  # a row is a line
