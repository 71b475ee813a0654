"""The command `curate` and its report."""

import re

import numpy as np
import pytest
from PIL import Image
from test_curate import texts_below

from ssl_keras.cli import main
from ssl_keras.data.sources import load

NONE = ["--rules", "off", "--parts", "0.6", "0.2", "0.2"]


def test_the_command_writes_a_dataset_and_a_report(tmp_path, rng, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts_below(tmp_path / "in", rng)
    (tmp_path / "in" / "bad<b>.txt").write_bytes(b"\0" * 99)
    assert main(["curate", "text:in", "--dry-run", "--report", "page.html", *NONE]) == 0
    assert capsys.readouterr().out == "61 examples, not text 1, exact copy 1, near copy 2, kept 57\n"
    page = (tmp_path / "page.html").read_text()
    assert "57 of 61 examples were kept (93.4%)" in page
    assert "<td>near copy</td><td>2</td>" in page
    assert "bad&lt;b&gt;.txt" in page
    assert "kept: 000.txt" in page or "kept: 001.txt" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "page.html"]
    assert main(["curate", "text:in", "--out", "clean", *NONE]) == 0
    assert "clean: train " in capsys.readouterr().out
    assert sum(map(len, load("curated:clean"))) == 57


def test_a_report_of_pictures(tmp_path, rng, capsys):
    (tmp_path / "in").mkdir()
    for number in range(20):
        picture = Image.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8))
        picture.save(tmp_path / "in" / f"{number}.png")
        if number < 3:
            picture.resize((32, 32)).save(tmp_path / "in" / f"copy{number}.png")
    arguments = ["curate", f"folder:{tmp_path}/in", "--dry-run", "--report", f"{tmp_path}/page.html"]
    assert main(arguments) == 0
    page = (tmp_path / "page.html").read_text()
    assert "near copy, 3" in page
    assert len(re.findall("data:image/png", page)) == 6  # five values, and a sheet
    assert "kept: 0.01 to …" in page
    assert main(arguments) == 1
    assert "already exists. Add --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected --out FOLDER, or --dry-run. Received: neither"),
        (["--dry-run", "--out", "x"], "Received: both"),
        (["--out", "x", "--", "--runner=FlinkRunner"], "only with --engine beam"),
        (["--out", "x", "--parts", "2"], "--parts must be"),
    ],
)
def test_flags_that_do_not_fit(tmp_path, rng, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    texts_below(tmp_path / "in", rng, 10)
    assert main(["curate", "text:in", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
