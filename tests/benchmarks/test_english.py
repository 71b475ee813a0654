"""The smaller copy of a teacher, from which the small English encoder starts."""

import json
import pathlib

import numpy as np
import pytest
import scripts

from ssl_keras import encoders
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.inference.search import TextRetriever
from ssl_keras.networks import Network

LINES = ["who saw the red house", "the house of a king", "a king was seen", "red and green", "who was the king of rome"]


@pytest.fixture(scope="module")
def english():
    return scripts.benchmark("english")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A BERT of three random blocks, whose tokenizer has a piece for each word and each letter."""
    folder = tmp_path_factory.mktemp("teacher")
    words = sorted({word for line in LINES for word in line.split()} - set("a"))
    letters = sorted(set("".join(words)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text(
        "\n".join([*special, *words, *letters, *(f"##{each}" for each in letters)]) + "\n"
    )
    tokenizer = tokenizers.load(folder)
    options = {"layers": 3, "heads": 2, "width": 8, "context": 200, "architecture": "bert", "causal": False}
    network, random = (
        Network("transformer", vocabulary=tokenizer.vocabulary, **options).build(),
        np.random.default_rng(0),
    )
    for variable in network.trainable_variables:
        variable.assign(variable.numpy() + random.normal(0, 0.3, variable.shape))
    encoders.save_encoder(
        folder / "saved", network, spec={"tokens": ((None,), np.int32)}, tokenizer=tokenizer, name="three"
    )
    return str(folder / "saved")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("english.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))


def test_a_copy_of_all_blocks_and_pieces_is_the_teacher(english, teacher, corpus):
    english.write_student(teacher, "copy", [0, 1, 2], encoders.load_tokenizer(teacher).vocabulary)
    ours, theirs = (TextRetriever(name).of_texts(LINES) for name in ("copy", teacher))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_smaller_copy_has_the_blocks_and_the_pieces_that_are_asked_for(english, teacher, corpus):
    english.write_student(teacher, "small", [0, 2], 41)
    small, whole = (
        {each.path: each.numpy() for each in encoders.load_encoder(name).weights} for name in ("small", teacher)
    )
    np.testing.assert_array_equal(small["block_1/mlp_in"], whole["block_2/mlp_in"])
    assert small["embeddings/positions"].shape == (english.CONTEXT, 8)
    kept, all_pieces = (encoders.load_tokenizer(name).backend.get_vocab() for name in ("small", teacher))
    assert len(kept) == 41
    assert {"king", "the"} <= kept.keys() < all_pieces.keys()
    for piece, row in kept.items():
        np.testing.assert_array_equal(small["embeddings/tokens"][row], whole["embeddings/tokens"][all_pieces[piece]])
    # A word whose piece was left out is spelled.
    (rare,) = encoders.load_tokenizer("small").encode(["seen"])
    assert [encoders.load_tokenizer("small").backend.id_to_token(each) for each in rare] == ["s", "##e", "##e", "##n"]
