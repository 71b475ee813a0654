"""The command `explain`: a page that runs nothing, TensorBoard, and questions that cannot be answered."""

import pathlib

import keras
import numpy as np
import pytest

from ssl_keras.cli import main
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.sources import load
from ssl_keras.encoders import save_encoder
from ssl_keras.networks import Network

EVIL = "<script>alert(1)</script>"
DATA = ["--data", "digits", "--image-size", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with small untrained encoders: `headless` of images, and `classes` with a head; `words` of tokens."""
    keras.utils.set_random_seed(0)
    made, spec = tmp_path_factory.mktemp("encoders"), load("digits", 8).train.spec()
    keywords = {"image_shape": (8, 8, 1), "widths": (6, 4)}
    save_encoder(made / "headless", Network("dense", **keywords).build(), spec=spec)
    head = Network("classifier_head", features=4, classes=3).build()
    save_encoder(made / "classes", Network("dense", **keywords).build(), spec=spec, head=head, classes=[EVIL, "b", "c"])
    return made


@pytest.fixture
def words(folder, tmp_path):
    """The folder of a masked language model, and labeled texts in `table.csv`."""
    rows = [
        f"{name} {verb} {number},{'person' if name == 'who' else 'place'}"
        for number in range(20)
        for name in ("who", "where")
        for verb in ("is", "was")
    ]
    (tmp_path / "table.csv").write_text("\n".join(["text,label", *rows, f"{EVIL},person"]) + "\n")
    texts = [row.partition(",")[0] for row in rows] + [EVIL]
    tokenizer = tokenizers.train("wordpiece", texts, 60, "these")
    small = {"vocabulary": tokenizer.vocabulary, "width": 8}
    network = Network("transformer", context=16, layers=1, heads=2, architecture="bert", causal=False, **small).build()
    spec = {"tokens": ((None,), np.int32)}
    head = Network("masked_head", **small).build()
    save_encoder(folder / "words", network, spec=spec, head=head, tokenizer=tokenizer, context=16)
    return folder / "words"


def test_a_page_of_two_encoders_and_tensorboard(folder, capsys):
    names = [str(folder / "classes"), "--compare", str(folder / "headless")]
    assert main(["explain", *names, *DATA, "--count", "3", "--out", "page.html", "--tensorboard"]) == 0
    shown, content = capsys.readouterr().out, pathlib.Path("page.html").read_text("utf-8")
    assert "<script" not in content.lower()
    assert "&lt;script&gt;" in content
    assert content.count("data:image/png") >= 3 * 2 * 5
    assert "http" not in content.replace("http-equiv", "")
    for text in ("classes", "headless", "integrated gradients", "random order", "dense_1", "similarity with example"):
        assert text in content
        assert text in shown or text.startswith(("dense", "similarity"))
    assert list(pathlib.Path("page").glob("events*"))


@pytest.mark.slow
def test_a_page_of_texts_colors_whole_words(words, capsys):
    """`test_page.py` and `test_tokens_become_whole_words` are the part of `make test`."""
    assert main(["explain", str(words), "--data", "table:table.csv", "--count", "3", "--out", "page.html"]) == 0
    content = pathlib.Path("page.html").read_text("utf-8")
    assert "<script" not in content.lower()
    assert "attention rollout" in content
    assert "hidden token" in content
    assert "[MASK]</span>" in content
    assert "background: rgba(" in content


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("headless", ["--question", "class"], "has no classification head. Expected one of similarity, feature, probe"),
        ("headless", ["--question", "token"], "has no output for the question 'token'"),
        ("headless", ["--examples", "1", "359"], r"does not have the examples [359]. Expected numbers from 0 to 358"),
        ("classes", ["--choice", "d"], f"Unknown class 'd'. Expected one of {EVIL}, b, c."),
        ("headless", ["--question", "feature", "--choice", "4"], "Expected a feature from 0 to 3. Received: '4'"),
        ("headless", ["--compare", "masked_lm-trec"], "masked_lm-trec takes text. Received: image, label"),
        ("headless", ["--count", "65"], "count must be 1 to 64"),
    ],
)
def test_what_cannot_be_explained_is_one_line(name, flags, message, folder, capsys):
    assert main(["explain", str(folder / name), *DATA, *flags, "--out", "page.html"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not pathlib.Path("page.html").exists()


def test_an_existing_page_is_kept(folder, capsys):
    pathlib.Path("page.html").write_text("mine")
    assert main(["explain", str(folder / "headless"), *DATA, "--out", "page.html"]) == 1
    assert "already exists. Add --overwrite" in capsys.readouterr().err
    assert pathlib.Path("page.html").read_text() == "mine"
