"""Search of texts: the file that `search --texts` takes, and the texts that are nearest to a text."""

import numpy as np
import pytest

from ssl_keras.cli import main
from ssl_keras.cli.search import read_texts
from ssl_keras.encoders import load_encoder
from ssl_keras.evaluation.features import normalize
from ssl_keras.inference import search
from ssl_keras.networks import pooled_features


def test_a_text_in_each_line(tmp_path):
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbfa red ball\r\n\r\n a dog \n")
    assert read_texts(str(tmp_path / "words.txt")) == ["a red ball", "a dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "words.txt: no such file. Expected a file with one text"),
        (b" \n", "words.txt contains no text"),
        ("a dog".encode("utf-16"), "words.txt is UTF-16. Expected UTF-8 text"),
        (b"a h\xf6use", "words.txt: 1 of 7 characters are not UTF-8"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_texts(str(tmp_path / "words.txt"))


def test_the_texts_of_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.csv").write_text('label,text\n1,"a red, round ball"\n1,a dog\n2,a dog\n2,\n')
    assert read_texts("table:words.csv") == ["a red, round ball", "a dog"]
    with pytest.raises(ValueError, match="words.csv is a table. .* Use --texts table:words.csv"):
        read_texts("words.csv")
    (tmp_path / "empty.csv").write_text("label,text\n1,\n")
    with pytest.raises(ValueError, match="table:empty.csv contains no text"):
        read_texts("table:empty.csv")


TEXTS = ["Who wrote Hamlet ?", "What is the capital of France ?", "How far is the moon ?", "What is H2O ?"]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(TEXTS))
    return str(path)


def test_texts_are_found_by_a_text(questions, capsys):
    assert main(["search", "masked_lm-trec", TEXTS[1], "--texts", questions, "--count", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"1.000  {TEXTS[1]}"
    found = [float(line.split()[0]) for line in lines]
    assert len(found) == 3
    assert found == sorted(found, reverse=True)


def test_texts_cannot_forge_a_terminal(tmp_path, capsys):
    (tmp_path / "texts.txt").write_bytes(b"Who wrote \x1b]0;forged\x07 Hamlet ?\n")
    assert main(["search", "masked_lm-trec", TEXTS[0], "--texts", str(tmp_path / "texts.txt")]) == 0
    assert capsys.readouterr().out.endswith("Who wrote \\x1b]0;forged\\x07 Hamlet ?\n")


def test_the_encoder_that_ships_finds_texts_by_meaning():
    """No query shares a word with its text, beyond articles."""
    found = {
        "a doctor in a hospital": "The physician examined the sick child.",
        "railway delays": "Our train was two hours late.",
        "how to cook": "Bake the bread until it is brown.",
        "government and politics": "The parliament passed a new law.",
        "classical music": "She plays the violin in an orchestra.",
    }
    retriever, texts = search.TextRetriever("english"), list(found.values())
    embedded = retriever.of_texts(texts)
    assert [texts[search.nearest(retriever.of_query(query), embedded, 1)[0][0]] for query in found] == texts


def test_a_text_has_the_features_of_evaluation(monkeypatch):
    """In any company, and whatever the length of the others."""
    retriever = search.TextRetriever("masked_lm-trec")
    encoder, encoded = load_encoder("masked_lm-trec"), retriever.tokenizer.encode(TEXTS, special=True)
    expected = [pooled_features(encoder, np.array([ids], np.int32))[0] for ids in encoded]
    monkeypatch.setattr(search, "BATCH_SIZE", 3)
    ours = retriever.of_texts(TEXTS)
    np.testing.assert_allclose(ours, normalize(np.array(expected)), atol=1e-5)
    np.testing.assert_allclose(retriever.of_query(TEXTS[2]), ours[2], atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["autoencoder-fashion_mnist", "a", "--texts", "FILE"], "takes image. Expected an encoder of text"),
        (["masked_lm-trec", "a", "--images", "."], "masked_lm-trec has no text encoder. Expected an encoder of"),
        (["masked_lm-trec", " ", "--texts", "FILE"], "Expected words that the encoder's tokenizer has. Received: ' '"),
        (["masked_lm-trec", "a"], "or --texts FILE to search texts. Received: neither"),
        (["masked_lm-trec", "a", "--texts", "FILE", "--images", "."], "Received: both"),
    ],
)
def test_searches_that_do_not_fit_are_refused(words, message, questions, capsys):
    assert main(["search", *(questions if word == "FILE" else word for word in words)]) == 1
    assert message in capsys.readouterr().err
