"""Awkward text files and tables, read through every text source."""

import gzip
import json
import logging

import pytest
import texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl_keras.data.readers import text as reader
from ssl_keras.data.readers import text_files
from ssl_keras.data.sources import load


def column(splits, name="text"):
    return [value for part in splits for value in part.column(name)]


def test_tables_in_many_dialects(tmp_path, caplog):
    expected = {text: i % 2 for i, text in enumerate(texts.sentences())}
    for name, file in texts.tables(tmp_path).items():
        splits = load(f"table:{file}")
        assert dict(zip(column(splits), column(splits, "label"))) == expected, name
    assert {record.args[1] for record in caplog.records} == {"these columns are not read: more"}


def test_quotation_marks_as_quoting_and_as_text(tmp_path):
    """A quoted cell may span two lines. A mark that never closes, or closes rows later, is text."""
    rows = [(f'first "{i}"\nsecond\tline', str(i % 2)) for i in range(12)]
    (tmp_path / "t.tsv").write_text(texts.separated([("text", "label"), *rows], "\t", "\n"), newline="")
    assert set(column(load(f"table:{tmp_path}/t.tsv"))) == {text for text, _ in rows}
    for cells in (['"{} opens', "{} plain"], ['"{} opens', '{} closes"'], ['"{}" in marks', '"{}"'], ['"{}"', "{}"]):
        words = [cells[i % 2].format(i) for i in range(12)]
        (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(f"{word}\t{i % 2}\n" for i, word in enumerate(words)))
        assert set(column(load(f"table:{tmp_path}/t.tsv"))) == set(words)


@pytest.mark.parametrize("rare", ['"one, {}"', '"a ""mark"" {}"'])
def test_spreadsheets_quote_only_cells_that_need_it(tmp_path, rare):
    """Excel's "Text (Tab delimited)" quotes cells with a comma or a quotation mark, and no others."""
    rows = "".join(f"{rare if i % 2 else 'plain {}'}\t{i % 2}\n".format(i) for i in range(12))
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + rows)
    splits = load(f"table:{tmp_path}/t.tsv")
    assert rare[1:-1].replace('""', '"').format(3) in column(splits)
    assert not splits.train.notes


def test_quotation_marks_that_are_kept_are_noted(tmp_path):
    """An unquoted cell with a comma shows that no program quoted these cells."""
    for cells in (['"{}"', "{}"], ['"yes, {}"', "no, {}"]):
        rows = [cells[i % 2].format(i) for i in range(40)]
        (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(f"{row}\t{i % 2}\n" for i, row in enumerate(rows)))
        splits = load(f"table:{tmp_path}/t.tsv")
        assert set(column(splits)) == set(rows)
        assert splits.train.notes == ("20 texts begin and end with quotation marks, which are read as text",)
    (tmp_path / "p.tsv").write_text("".join(f'"{i}" x\t"{i}"\n' for i in range(300)))
    assert "300 texts begin and end" in load(f"pairs:{tmp_path}/p.tsv").train.notes[0]


def test_columns_that_are_not_read_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("id,text,sentiment\n" + "".join(f"{i},word {i},{i % 2}\n" for i in range(20)))
    splits = load(f"table:{tmp_path}/t.csv")
    note = "these columns are not read: id, sentiment. If one has the labels, rename it to label"
    assert splits.train.notes == (note,)
    with pytest.raises(ValueError, match="has no labels.* These columns are not read: id, sentiment.* Choose other"):
        splits.train.column_spec("label")
    (tmp_path / "t.csv").write_text("id,text,label\n" + "".join(f"{i},word {i},{i % 2}\n" for i in range(20)))
    assert load(f"table:{tmp_path}/t.csv").train.notes == ("these columns are not read: id",)


@pytest.mark.parametrize(
    ("labels", "notes"),
    [
        (["1", "1.0", "0"], ["spelled alike: 1 and 1.0"]),
        (["Spam", "spam", "ham", "Ham"], ["spelled alike: Ham and ham, Spam and spam"]),
        (["a", "nan", "NULL"], ["not as missing labels: NULL, nan"]),
        (["1", "10", "1.5", "a1"], []),
    ],
)
def test_labels_that_may_be_one_class_or_none_are_noted(tmp_path, labels, notes):
    rows = "".join(f"word {i},{labels[i % len(labels)]}\n" for i in range(20))
    (tmp_path / "t.csv").write_text("text,label\n" + rows)
    splits = load(f"table:{tmp_path}/t.csv")
    assert splits.train.classes == tuple(sorted(labels))
    assert len(splits.train.notes) == len(notes)
    assert all(part in note for part, note in zip(notes, splits.train.notes))


def test_json_in_another_form_is_an_error(tmp_path):
    rows = [{"text": f"word {i}", "label": i % 2} for i in range(9)]
    for name, content in (("a.jsonl", rows), ("a.json", {"data": rows})):
        (tmp_path / name).write_text(json.dumps(content, indent=1))
        form = "a list of objects, or one object a line" if name == "a.json" else "one object a line"
        with pytest.raises(ValueError, match=rf"{name}, line 1: expected {form}: {{"):
            load(f"table:{tmp_path}/{name}")


def test_the_text_of_json_lines_is_in_a_field_without_a_name(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"": f"word {i}"}) + "\n" for i in range(9)))
    assert sorted(column(load(f"text:{tmp_path}/a.jsonl"))) == [f"word {i}" for i in range(9)]


def test_a_long_header_is_cut(tmp_path):
    for name, kind in (("a.csv", "table"), ("a.csv", "captions"), ("a.jsonl", "pairs")):
        long = "x\x1b" * 5000
        content = json.dumps({long: "a"}) if name == "a.jsonl" else f"{long},b\nc,d\n"
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="expected (a header|the fields)") as error:
            load(f"{kind}:{tmp_path}/{name}")
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 1000


def test_nul_characters_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"word \0{i},{i % 2}\n" for i in range(9)))
    with pytest.raises(ValueError, match=r"9 of 101 characters are NUL: .*tr -d '\\000'") as error:
        load(f"table:{tmp_path}/a.csv")
    assert "iconv" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "received"),
    [
        ("a.jsonl", '{"title": "t", "body": "b"}\n', r"Received: a.jsonl. .*a.jsonl: expected .*single string field"),
        ("a.srt", "words", r"Received: .srt \(1\)"),
        ("a.txt", "", "Received: 1 empty files"),
        (".hidden", "", "Received: no files"),
    ],
)
def test_a_folder_without_text_is_an_error_that_names_its_files(tmp_path, name, content, received):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"has no text. Expected .* {received}"):
        load(f"text:{tmp_path}")


def test_incomplete_rows(tmp_path, caplog):
    (tmp_path / "t.csv").write_text("text;label\n" + "".join(f"satz {i};{i % 2}\n" for i in range(9)) + ";1\n ;0\n")
    assert len(column(load(f"table:{tmp_path}/t.csv"))) == 9
    assert caplog.text.count("2 rows have no text and are skipped") == 1
    (tmp_path / "t.csv").write_text("text;label\n" + "satz;0\n;\n;;\nmore;\n")
    with pytest.raises(ValueError, match="Expected at least"):
        load(f"table:{tmp_path}/t.csv")
    assert "1 rows have no label and are skipped" in caplog.text
    (tmp_path / "t.csv").write_text("text,label\n" + "a,0\nb,1,c\n" * 9)
    with pytest.raises(ValueError, match="row 3: expected as many columns as the header has, 2. Received: 3"):
        load(f"table:{tmp_path}/t.csv")


def test_texts_in_many_forms(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    expected = "\n".join(texts.sentences())
    for name, file in texts.texts(tmp_path).items():
        caplog.clear()
        source = reader._pieces(f"text:{file}", [file])
        found = list(source.column("text"))
        assert ("\n" if "json" in name.lower() else "").join(found) == expected, name
        assert ("from the field content" in caplog.text) == ("content" in name)
    assert len(load(f"text:{tmp_path}").train) > 100  # reads all of them


def test_pairs_in_many_forms(tmp_path):
    expected = {text: text.upper() for text in texts.sentences(200)}
    for name, file in texts.pairs(tmp_path).items():
        splits = load(f"pairs:{file}")
        assert dict(zip(column(splits), column(splits, "target"))) == expected, name


@pytest.mark.parametrize("kind", ["text", "table", "pairs", "transcripts", "captions"])
def test_files_that_are_not_text_are_named(tmp_path, kind):
    for file, message in texts.unreadable(tmp_path).items():
        with pytest.raises(ValueError, match=message) as error:
            load(f"{kind}:{file}")
        assert str(file) in str(error.value)
        assert "latin1" not in str(error.value)


@pytest.mark.parametrize("kind", ["text", "table", "pairs", "captions"])
@pytest.mark.parametrize("line", ["[" * 100_000, "nonsense", "[1]", "7", '{"text": [1], "target": 1, "image": 2}'])
def test_invalid_json_lines_are_named(tmp_path, kind, line):
    good = [{"text": f"t{i}", "target": f"u{i}", "image": f"{i}.png", "caption": f"c{i}"} for i in range(3)]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join([*map(json.dumps, good), line]))
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4: expected .*\. Received: ") as error:
        load(f"{kind}:{file}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_lone_surrogates_are_counted(tmp_path, caplog):
    lines = [json.dumps({"text": f"word {i}" + " \ud800" * (i == 3), "label": i % 2}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert "word 3 \ufffd" in column(load(f"table:{tmp_path}/a.jsonl"))
    assert "1 lone surrogates" in caplog.text
    assert "word 3 \ufffd" in column(load(f"text:{tmp_path}/a.jsonl"))
    assert "1 of 272 characters are not UTF-8" in caplog.text
    splits = reader.from_texts(["a\udc00", "b", "c", "d"])
    assert "a\ufffd" in column(splits)
    assert splits.train.notes == splits.test.notes
    assert splits.train.fingerprint()


def test_files_that_are_not_utf8_are_named(tmp_path, caplog):
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text("some words\n" * 30)
    (tmp_path / "98.txt").write_bytes("ä".encode("latin-1") + b"some words\n" * 30)
    (tmp_path / "99.txt").write_bytes("öü".encode("latin-1") + b"some words\n" * 30)
    load(f"text:{tmp_path}")
    assert f"3 of 4623 characters are not UTF-8: {tmp_path}/99.txt (2), {tmp_path}/98.txt (1)." in caplog.text


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train.txt", "test.txt", "valid.txt"], "test.txt, train.txt, valid.txt are read together"),
        (["wiki.train.txt", "wiki.test.txt"], "wiki.test.txt, wiki.train.txt are read together"),
        (["a/train.jsonl", "b/test.jsonl"], None),
        (["train.txt", "other.txt"], None),
        (["test.txt", "valid.txt"], None),
        (["train/train_0.txt", "test/test_0.txt"], None),
    ],
)
def test_pooling_files_named_after_splits_adds_a_note(tmp_path, names, said):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "some words"}\n' * 30)
    notes = " ".join(load(f"text:{tmp_path}").train.notes)
    assert (said or "") in notes
    assert ("PATH/train" in notes) == bool(said)


def test_skipped_files_of_a_folder_are_named(tmp_path, caplog):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("some words\n" * 30)
    (tmp_path / "about.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "pictures.tar.gz").write_bytes(gzip.compress(b"x"))
    (tmp_path / "line\nbreak.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "empty.jsonl").write_text("")
    load(f"text:{tmp_path}")
    assert "3 files have no supported text and are skipped: pictures.tar.gz, about.jsonl, li" in caplog.text
    assert r"line\nbreak.jsonl" in caplog.text
    with pytest.raises(ValueError, match=r"line\\nbreak.jsonl: expected"):
        load(f"text:{tmp_path}/line\nbreak.jsonl")
    (tmp_path / "words.csv").write_text("text,label\n" * 90)
    load(f"text:{tmp_path}/words.csv")
    assert "are read as plain text, with their separators" in caplog.text
    (tmp_path / "a.json").write_text('[{"text": "x"}]')
    with pytest.raises(ValueError, match="expected JSON lines"):
        load(f"text:{tmp_path}/a.json")


def test_lines_without_text(tmp_path, caplog):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in ["a", "b", "c", "d", None, "", " "]))
    assert sorted(column(load(f"text:{file}"))) == ["a", "b", "c", "d"]
    assert "3 lines have no text" in caplog.text
    file.write_text("\n".join(json.dumps({"text": text}) for text in ["a", "b", "c", None, None, "", " "]))
    with pytest.raises(ValueError, match="4 of 7 lines have no text"):
        load(f"text:{file}")


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_UNPACKED", 1 << 16)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * (1 << 22)))
    with pytest.raises(ValueError, match="not plausible text. Expected at most .* decompressed bytes"):
        load(f"text:{tmp_path}/a.txt.gz")


BROKEN = st.sampled_from(
    [
        b"",
        b"\0",
        b"\xff",
        b'"',
        b"\t",
        b"\n",
        b"\r",
        b";",
        b",",
        b"\\",
        b"\xef\xbb\xbf",
        b"{",
        b"[" * 2000,
        b"sep=;\n",
        b'sep="\n',
        b"\xff\xfe",
        b"\x1f\x8b",
        b"\\ud800",
        b"1e999",
        b"null",
        "é\u2028".encode(),
        b"\n\n",
        b'""',
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_file_is_read_or_an_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("broken")
    kind = data.draw(st.sampled_from(["text", "table", "pairs"]))
    files = {"text": texts.texts, "table": texts.tables, "pairs": texts.pairs}[kind](folder)
    file = files[data.draw(st.sampled_from(sorted(files)))]
    content = file.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content = content[:start] + data.draw(BROKEN) + content[start + data.draw(st.integers(0, 30)) :]
    file.write_bytes(content)
    try:
        splits = load(f"{kind}:{file}")
    except ValueError:
        return
    for part in splits:
        assert part.fingerprint()
        assert all(value.encode() for name in part.arrays for value in part.column(name) if isinstance(value, str))
