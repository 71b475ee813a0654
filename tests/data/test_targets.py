"""Targets of fine-tuning, and the readers of tagged words, pairs of texts, and several labels."""

import logging

import numpy as np
import pytest

from ssl_keras.data import targets
from ssl_keras.data.readers import tags
from ssl_keras.data.readers.text import from_texts
from ssl_keras.data.sources import load

ROWS = [f"row {index}" for index in range(20)]


def table(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return load(f"table:{path}")


def whole(splits, column):
    """A column of all three splits, in the order of the file."""
    values = np.concatenate([part.column(column) for part in splits])
    return values[np.argsort(np.concatenate([part.rows for part in splits]))]


def conll(path, *sentences):
    text = "\n\n".join("\n".join(" ".join(row) for row in sentence) for sentence in sentences)
    path.write_text(text + "\n", "utf-8")
    return path


PERSON = [("Ada", "x", "B-PER"), ("Lovelace", "x", "I-PER"), ("wrote", "x", "O"), (".", "x", "O")]


def sentences(count, row=("left", "x", "O")):
    return [[*PERSON, (f"w{index}", "x", "O"), row] for index in range(count)]


def test_a_pair_has_two_texts(tmp_path):
    splits = table(tmp_path / "p.csv", "text2,label,text", [f"b{i},{'xy'[i % 2]},a" for i in range(20)])
    assert whole(splits, "text").tolist() == ["a"] * 20  # only whole pairs are copies
    assert whole(splits, "text2").tolist() == [f"b{i}" for i in range(20)]
    prepared, target = targets.prepare(splits)
    assert prepared is splits
    assert target == targets.Target("class", ("x", "y"))


@pytest.mark.parametrize(("row", "empty"), [("a, ,x", "text2"), (",b,x", "text")])
def test_an_empty_side_of_a_pair_is_refused_with_its_row(tmp_path, row, empty):
    with pytest.raises(ValueError, match=f"p.csv, row 3: {empty} is empty. Expected two texts. Fill it in"):
        table(tmp_path / "p.csv", "text,text2,label", ["a,b,x", row, "c,d,y"])


def test_numbers_are_standardized_by_the_training_split(tmp_path):
    splits, target = targets.prepare(
        table(tmp_path / "n.csv", "text,label", map("{},{}.5".format, ROWS, range(20))), "number"
    )
    train = splits.train.column("number")
    assert (train.mean(), train.std()) == pytest.approx((0, 1), abs=1e-6)
    rows = np.concatenate([[int(text.split()[1]) for text in part.column("text")] for part in splits])
    values = np.concatenate([part.column("number") for part in splits])
    np.testing.assert_allclose(values * target.scale + target.mean, rows + 0.5, rtol=1e-5)
    assert (target.outputs, target.names, splits.train.classes) == (1, (), ())
    assert "label" not in splits.train.arrays


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (["1", "2", "three"], "number", "expected finite numbers as labels, such as 3 or 2.5. Received: three"),
        (["1", "2", "3,5"], "number", "Received: 3,5"),
        (["1", "2", "nan"], "number", "Received: nan"),
        (["1", "2", "1e40"], "number", "at most 1e[+]30 as labels. Received: 1e[+]40"),
        (["1700000001", "1700000002"], "number", "where float32 has steps of 128. Subtract an offset"),
        (["a", "b", "a;b", ""], "class", "expected a class in each row. Received: an empty label"),
        (["7"], "number", "only one number, 7"),
        (["a"], "class", "only one class"),
        (["b;a"], "labels", "only one combination of labels, a, b"),
        (["a", "b"], "tags", "has no tags. Expected a token and its tag in each line of tags:PATH"),
    ],
)
def test_what_cannot_be_learned_is_refused(labels, kind, message):
    made = sorted(set(labels))
    splits = from_texts(ROWS, [made.index(labels[i % len(labels)]) for i in range(20)], classes=made)
    with pytest.raises(ValueError, match=message):
        targets.prepare(splits, kind)


def test_images_have_classes_only():
    with pytest.raises(ValueError, match="The target number is for text. Received: image, label from digits"):
        targets.prepare(load("digits"), "number")


def test_several_labels_in_one_column(tmp_path):
    cells = ["a;b", "b", "", " c ; a;"]
    splits = table(tmp_path / "l.csv", "text,label", [f"{row},{cells[i % 4]}" for i, row in enumerate(ROWS)])
    splits, target = targets.prepare(splits, "labels")
    assert target == targets.Target("labels", ("a", "b", "c"))
    expected = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], np.float32)
    for part in splits:
        rows = [int(text.split()[1]) % 4 for text in part.column("text")]
        np.testing.assert_array_equal(part.column("labels"), expected[rows])


def test_columns_of_0_and_1_are_several_labels(tmp_path, caplog):
    rows = [f"{row},{i % 2},{i},{int(i % 3 == 0)}" for i, row in enumerate(ROWS)]
    splits = table(tmp_path / "l.csv", "text,odd,id,third", rows)
    with caplog.at_level(logging.INFO):
        prepared, target = targets.prepare(splits)
    assert "the data have labels, so the target is labels" in caplog.text
    assert target == targets.Target("labels", ("odd", "third"))
    np.testing.assert_array_equal(whole(prepared, "labels"), [[i % 2, i % 3 == 0] for i in range(20)])
    assert any("are not read: id" in note for note in splits.train.notes)
    # With a column of labels they are not: nothing is guessed.
    splits = table(
        tmp_path / "c.csv", "text,odd,third,label", [f"{row},1,0,{'xy'[i % 2]}" for i, row in enumerate(ROWS)]
    )
    assert targets.prepare(splits)[1].kind == "class"


def test_what_may_be_meant_is_said(tmp_path, caplog):
    for name, cells, advice in (("n", ["1.5", "2"], "--target number"), ("l", ["a;b", "b"], "--target labels")):
        splits = table(tmp_path / f"{name}.csv", "text,label", [f"{row},{cells[i % 2]}" for i, row in enumerate(ROWS)])
        assert targets.prepare(splits)[1].kind == "class"
        assert advice in caplog.text


def test_tagged_words(tmp_path):
    document = [("-DOCSTART-", "-X-", "O")]
    splits = load(f"tags:{conll(tmp_path / 't.txt', document, *sentences(20), sentences(1)[0])}")
    assert sum(map(len, splits)) == 20
    assert "1 sentences repeat an earlier one and are skipped" in splits.train.notes
    assert splits.train.column("text")[0].startswith("Ada Lovelace wrote . w")
    assert set(np.concatenate([part.column("tags") for part in splits])) == {"B-PER I-PER O O O O"}
    prepared, target = targets.prepare(splits)
    assert prepared is splits
    assert target == targets.Target("tags", ("B-PER", "I-PER", "O"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_comments_and_line_ends_of_any_kind(end, tmp_path):
    rows = [f"# sent_id = {i}\n# text = Ada {i}\nAda\tB-PER\n#\tO\n{i}\tO\n" for i in range(9)]
    (tmp_path / "t.txt").write_bytes("\n".join(["# newdoc", *rows]).replace("\n", end).encode())
    splits = load(f"tags:{tmp_path / 't.txt'}")
    assert sorted(np.concatenate([part.column("text") for part in splits])) == [f"Ada # {i}" for i in range(9)]


def test_an_i_that_continues_nothing_begins_a_span(tmp_path):
    row = [("a", "x", "I-A"), ("b", "x", "I-A"), ("c", "x", "I-B"), ("d", "x", "O"), ("e", "x", "I-B")]
    splits = load(f"tags:{conll(tmp_path / 't.txt', *[[*row, (str(i), 'x', 'O')] for i in range(10)])}")
    assert set(splits.train.column("tags")) == {"B-A I-A B-B O B-B O"}
    note = "30 tags I- do not continue a span of their kind; each begins one, and is read as B-"
    assert note in splits.train.notes
    assert tags.iob2(["B-A", "B-A", "I-A", "I-A"]) == ["B-A", "B-A", "I-A", "I-A"]
    assert tags.is_iob(("O", "B-A"))
    assert not tags.is_iob(("O",))
    assert not tags.is_iob(("NOUN", "VERB"))


def test_other_spaces_are_tokens_and_a_file_may_have_no_tags(tmp_path):
    (tmp_path / "t.txt").write_text("\n\n".join(f"\u00a0\n{i}\n\u2028x" for i in range(9)), "utf-8")
    source = load(f"tags:{tmp_path / 't.txt'}").train
    assert list(source.arrays) == ["text"]
    assert all(len(tags.CELL.findall(text)) == 3 for text in source.column("text"))
    with pytest.raises(ValueError, match="has no tags"):
        targets.prepare(load(f"tags:{tmp_path / 't.txt'}"), "tags")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("alone",), "line 6: expected 3 columns, as in the lines before; .* Received: 'alone'"),
        (("a", "b", "c", "O"), "line 6: expected 3 columns"),
        (("Ada", "x", "b-PER"), "line 6: expected O, B-… or I-…. Received: b-PER. Use capitals"),
        (("Ada", "x", "E-PER"), "line 6: expected O, B-… or I-…, since line 1 has B-PER. Received: E-PER. Convert"),
    ],
)
def test_lines_that_do_not_fit_are_refused(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load(f"tags:{conll(tmp_path / 't.txt', *sentences(3, row))}")


def test_one_tag_alone_is_refused(tmp_path):
    path = conll(tmp_path / "t.txt", *[[("a", "O"), (f"w{i}", "O")] for i in range(9)])
    with pytest.raises(ValueError, match="only one tag, O"):
        targets.prepare(load(f"tags:{path}"))


def test_files_of_a_folder_are_splits(tmp_path):
    for name, first in (("eng.train", 0), ("dev.txt", 10), ("test.conll", 20)):
        conll(tmp_path / name, *sentences(30)[first : first + 5 + first // 10])
    (tmp_path / "README.md").write_text("about")
    splits = load(f"tags:{tmp_path}")
    assert [len(part) for part in splits] == [5, 6, 7]
    assert splits.train.notes == ("skipped files: README.md",)
    conll(tmp_path / "train.txt", *sentences(3))
    with pytest.raises(ValueError, match="train.txt and eng.train name one split"):
        load(f"tags:{tmp_path}")
    with pytest.raises(ValueError, match="has no training split. Expected files named after the splits"):
        load(f"tags:{tmp_path.parent}")
    with pytest.raises(ValueError, match="no such file or folder"):
        load(f"tags:{tmp_path}/nothing")


def test_a_column_of_zeros_and_ones_with_empty_cells_is_named(tmp_path):
    rows = [f"text {i},{i % 2}.0,{float(i % 3 == 0)},{'' if i == 6 else i % 2}" for i in range(20)]
    (tmp_path / "t.csv").write_text("text,odd,third,other\n" + "\n".join(rows) + "\n")
    source = load(f"table:{tmp_path}/t.csv").train
    assert source.classes == ("odd", "third")
    assert "other has only 0 and 1, but 1 empty cells. To read it as a label, fill these in" in source.notes
