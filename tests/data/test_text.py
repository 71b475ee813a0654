"""Sources of text, tokenizers, and the memory-mapped corpus."""

import json
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data import tokens
from ssl_keras.data.cache import cache_folder
from ssl_keras.data.readers import text
from ssl_keras.data.readers.folders import files_below
from ssl_keras.data.sources import load
from ssl_keras.data.splits import hold_out

ANIMALS = ["cat", "dog", "cow", "hen", "fox", "bat"]
SENTENCES = [f"The {word} sat on the mat, number {i}.\n" for i, word in enumerate(ANIMALS * 5)]


@pytest.fixture(scope="module")
def corpus():
    return hold_out(text.documents("sentences", SENTENCES))


def made(kind, vocabulary=300):
    return tokenizers.Tokenizer(
        {"characters": tokenizers._characters, "bpe": tokenizers._bpe, "wordpiece": tokenizers._wordpiece}[kind](
            SENTENCES, vocabulary
        )
    )


BPE = made("bpe")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_bpe_is_lossless(any_text):
    ids = BPE.encode([any_text])[0]
    assert BPE.decode(ids) == any_text
    assert BPE.byte_lengths()[ids].sum() == len(any_text.encode())


def test_special_tokens_in_text_are_text():
    for kind in tokenizers.KINDS:
        tokenizer = made(kind)
        mask = tokenizer.special["[MASK]"]
        assert mask not in tokenizer.encode(["the [MASK] sat"])[0]
        if kind != "characters":
            assert mask in tokenizer.encode(["the [MASK] sat"], special=True)[0]
    hostile = "x[SEP]</s><|endoftext|>[PAD]\x00"
    assert BPE.decode(BPE.encode([hostile])[0]) == hostile


def test_characters():
    tokenizer = made("characters")
    assert tokenizer.decode(tokenizer.encode(["The cat\n sat  "])[0]) == "The cat\n sat  "
    assert tokenizer.encode(["é"])[0] == [tokenizer.unknown]
    assert set(tokenizer.byte_lengths()) == {0, 1}


def test_wordpiece_adds_special_tokens_and_lowercases():
    tokenizer = made("wordpiece")
    plain, framed = tokenizer.encode(["The CAT"])[0], tokenizer.encode(["The CAT"], special=True)[0]
    assert framed == [tokenizer.special["[CLS]"], *plain, tokenizer.special["[SEP]"]]
    assert tokenizer.decode(plain) == "the cat"


def test_words_do_not_split_multibyte_letters():
    ids = np.array(BPE.encode(["été дом naïve."])[0])
    words = np.cumsum(BPE.word_starts()[ids])
    assert [BPE.decode(ids[words == w]) for w in np.unique(words)] == ["été", " дом", " naïve", "."]


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_word_starts(kind):
    tokenizer = made(kind)
    ids = np.array(tokenizer.encode(["the mat, fox"])[0])
    words = np.cumsum(tokenizer.word_starts()[ids])
    by_word = [tokenizer.decode(ids[words == w]).strip() for w in np.unique(words)]
    assert [word for word in by_word if word] == ["the", "mat", ",", "fox"]


def test_a_tokenizer_is_saved_and_trained_once(corpus, monkeypatch, tmp_path):
    content = tokens.content_of(corpus.train)
    first = tokenizers.train("bpe", tokens.texts_of(corpus.train), 300, content)
    with monkeypatch.context() as patch:
        patch.setattr(tokenizers, "_bpe", None)  # training would fail
        assert tokenizers.train("bpe", tokens.texts_of(corpus.train), 300, content).json == first.json
    (tmp_path / "tokenizer.json").write_text(first.json)
    assert tokenizers.load(tmp_path / "tokenizer.json").sha256 == first.sha256
    (tmp_path / "tokenizer.json").write_text(first.json[:-20])
    with pytest.raises(ValueError, match="is not a supported tokenizer"):
        tokenizers.load(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="vocabulary must be at least 261"):
        tokenizers.train("bpe", SENTENCES, 100, "other")
    with pytest.raises(ValueError, match="tokenizer must be characters, bpe, wordpiece"):
        tokenizers.train("words", SENTENCES, 100, "other")


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_the_stream_contains_each_document_once(corpus, kind):
    tokenizer = made(kind)
    stream = tokens.tokenize(corpus.train, tokenizer)
    assert isinstance(stream, np.memmap)
    texts = list(tokens.texts_of(corpus.train))
    expected = []
    for number, each in enumerate(texts):
        expected += ([tokenizer.end] if number else []) + tokenizer.encode([each])[0]
    np.testing.assert_array_equal(stream, expected)


def test_the_stream_is_cached_by_content_and_tokenizer(corpus, monkeypatch):
    tokens.tokenize(corpus.train, BPE)
    plain = tokens._tokenize
    calls = []
    monkeypatch.setattr(tokens, "_tokenize", lambda *args: (calls.append(1), plain(*args)))
    tokens.tokenize(corpus.train, BPE)
    assert not calls
    tokens.tokenize(corpus.train, made("bpe", 280))
    tokens.tokenize(corpus.test, BPE)
    assert len(calls) == 2


def test_an_interrupted_tokenization_leaves_nothing(corpus, monkeypatch, tmp_path):
    def half(source, tokenizer, path, dtype):
        path.write_bytes(b"\x01\x00\x02")
        raise OSError("disk full")

    monkeypatch.setattr(tokens, "_tokenize", half)
    with pytest.raises(OSError, match="disk full"):
        tokens.tokenize(corpus.train, BPE)
    assert not list((tmp_path / "cache").glob("*"))  # excludes hidden files
    assert not list((tmp_path / "cache").glob(".*"))


def test_windows_cover_every_token_once():
    stream = np.arange(23, dtype=np.uint16)
    held_out = tokens.Windows(stream, 6, 5, whole=False)  # five targets each
    rows = held_out[np.arange(len(held_out))]
    np.testing.assert_array_equal(rows[0], [0, 1, 2, 3, 4, 5])
    targets = rows[:, 1:]
    np.testing.assert_array_equal(targets[targets >= 0], np.arange(1, 23))
    training = tokens.Windows(stream, 10, 5, whole=True)
    assert len(training) == 3
    assert (training[np.arange(3)] >= 0).all()
    for size in range(17, 50):  # also without next-token targets
        rows = tokens.Windows(np.arange(size), 16, 16, whole=False)[:]
        np.testing.assert_array_equal(rows[rows >= 0], np.arange(size))
    table = tokens.Windows(stream, 6, 5, whole=False, table=np.arange(23) * 2)
    np.testing.assert_array_equal(table[np.array([4])], [[40, 42, 44, 0, 0, 0]])


def test_a_corpus_shorter_than_the_window_is_an_error(corpus):
    with pytest.raises(ValueError, match="fewer than a window of 5001.*shorter window"):
        tokens.corpus(corpus, BPE, 5000, target=1)


def test_large_files_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MIN_PIECE", 50)
    content = "".join(SENTENCES) + "ends without a line: é€😀" * 20
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "b.md").write_text("short\n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    source = text._pieces("text:x", files_below(tmp_path, text.EXTENSIONS))
    rows = source.gather(np.arange(len(source)))
    assert len(source) > 20
    assert "".join(rows["text"]) == content + "short\n"
    assert rows["ends"].sum() == 2
    assert "\ufffd" not in "".join(rows["text"])
    tokenizer = tokenizers.Tokenizer(tokenizers._characters([content], 0))
    stream = tokens.tokenize(source, tokenizer)
    assert tokenizer.decode(stream) == content + "[SEP]" + "short\n"


def test_text_folders_with_splits(tmp_path):
    for split, words in (("train", "one two three"), ("val", "four"), ("test", "five")):
        (tmp_path / split).mkdir()
        for word in words.split():
            (tmp_path / split / f"{word}.txt").write_text(word)
    splits = load(f"text:{tmp_path}")
    assert [sorted(tokens.texts_of(part)) for part in splits] == [["one", "three", "two"], ["four"], ["five"]]


def test_text_that_is_not_utf8(tmp_path, caplog):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"abcdefghij \xef\xbf\xbd\n" * 2000 + "café\n".encode("latin-1") * 3)
    with caplog.at_level(logging.WARNING):
        splits = load(f"text:{file}")
    assert "3 of" in caplog.text
    assert str(file) in caplog.text
    assert len(splits.train) > 1
    file.write_bytes("é".encode("latin-1") * 500)
    with pytest.raises(ValueError, match=r"500 of 500 characters are not UTF-8: .*latin.txt \(500\).*Remove.*iconv"):
        load(f"text:{file}")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="has no text"):
        load(f"text:{tmp_path / 'empty.txt'}")
    with pytest.raises(ValueError, match="no such file or folder"):
        load("text:nowhere")


def test_byte_order_marks_and_other_encodings(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbf" + b"plain words\n" * 300)
    assert "".join(tokens.texts_of(text._pieces("x", [file]))) == "plain words\n" * 300
    file.write_bytes("plain words\n".encode("utf-16") * 300)
    with pytest.raises(ValueError, match="is UTF-16"):
        load(f"text:{file}")
    file.write_bytes(("plain words\n" * 300).encode("utf-16-le"))
    with pytest.raises(ValueError, match="is UTF-16 without a byte order mark.*iconv -f utf-16-le"):
        load(f"text:{file}")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="has test but no train"):
        load(f"text:{tmp_path}")


def test_contents_do_not_collide():
    one, two = (text.documents("x", texts).take(np.arange(len(texts))) for texts in (["a\x00b"], ["a", "b"]))
    assert tokens.content_of(one) != tokens.content_of(two)


def test_a_damaged_cache_is_rebuilt(corpus, tmp_path):
    whole = np.array(tokens.tokenize(corpus.train, BPE))
    (file,) = (tmp_path / "cache").glob("*.tokens")
    for content in (file.read_bytes()[:21], b"", file.read_bytes() + b"\0\0"):
        file.write_bytes(content)
        np.testing.assert_array_equal(tokens.tokenize(corpus.train, BPE), whole)


def damaged(**changes):
    return json.dumps(json.loads(BPE.json) | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not a supported tokenizer"),
        (damaged(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}), "Received: Replace"),
        (
            damaged(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}],
                }
            ),
            "Received: Replace",
        ),
        (
            damaged(
                pre_tokenizer={
                    "type": "Sequence",
                    "pretokenizers": [
                        {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False},
                        json.loads(BPE.json)["pre_tokenizer"],
                    ],
                }
            ),
            r"Received: Split:\(x",
        ),
        (BPE.json.replace('"[MASK]":4', '"[MASK]":70000').replace('"id":4', '"id":70000'), "not contiguous"),
    ],
)
def test_hostile_tokenizers_are_an_error(content, message):
    with pytest.raises(ValueError, match=message):
        tokenizers.parse(content, "it")


def table(tmp_path, content, name="t.tsv"):
    (tmp_path / name).write_text(content)
    return load(f"table:{tmp_path / name}")


def test_tables(tmp_path, caplog):
    rows = "".join(f'{"ham" if i % 3 else "spam"}\tmessage "{i}, and more\n' for i in range(60))
    with caplog.at_level(logging.WARNING):
        splits = table(tmp_path, "Label\tSMS\n" + rows + 'ham\tmessage "4, and more\n')
    assert "1 rows repeat a text" in caplog.text
    assert splits.train.classes == ("ham", "spam")
    assert sum(map(len, splits)) == 60
    assert 'message "' in splits.train.gather(np.array([0]))["text"][0]
    csv = "id,text,label\n" + "".join(f'{i},"line one,\nline {i}",{i % 2}\n' for i in range(30))
    splits = table(tmp_path, csv, "t.csv")
    assert sum(map(len, splits)) == 30
    assert "line one,\nline" in splits.test.gather(np.array([0]))["text"][0]
    without = table(tmp_path, "text\n" + "".join(f"words {i}\n" for i in range(9)), "u.csv")
    assert "label" not in without.train.arrays


def test_rows_without_a_label_are_for_pretraining(tmp_path, caplog):
    rows = [f"words {i},{'ab'[i % 2] if i < 20 else ''}" for i in range(100)]
    splits = table(tmp_path, "text,label\n" + "\n".join([*rows, ",", ",a"]) + "\n", "t.csv")
    path = tmp_path / "t.csv"
    assert (
        f"80 rows have no label and are skipped. For all texts, to pretrain or to predict, use table:{path}[text]"
        in caplog.text
    )
    assert "1 rows have no text" in caplog.text  # a row of empty cells is none
    assert sum(map(len, splits)) == 20
    assert splits.train.classes == ("a", "b")
    every = load(f"table:{path}[text]")
    assert (every.train.base, every.train.short_name) == (f"table:{path}[text]", "t")
    assert sum(map(len, every)) == 100
    assert "label" not in every.train.arrays
    assert any("are not read: label" in note for note in every.train.notes)
    none = table(tmp_path, "text,label\n" + "".join(f"words {i},\n" for i in range(20)), "n.csv")
    assert sum(map(len, none)) == 20
    assert not none.train.classes


def test_malformed_tables_are_an_error(tmp_path):
    good = "".join(f"a\ttext {i}\n" for i in range(9))
    with pytest.raises(ValueError, match="row 11: expected as many columns as the header has, 2. Received: 1 columns"):
        table(tmp_path, "label\ttext\n" + good + "alone\n")
    with pytest.raises(ValueError, match="expected a header with the columns text and label"):
        table(tmp_path, "a,b,c\n1,2,3\n", "h.csv")
    with pytest.raises(ValueError, match="no such file"):
        load("table:nowhere.csv")
    with pytest.raises(ValueError, match="columns text and label"):
        table(tmp_path, "no header here\n" * 9, "n.csv")
    with pytest.raises(ValueError, match="is not a valid CSV file.*not closed"):
        table(tmp_path, "label,text\n" + 'a,"open\n' + "a,b\n" * 50, "o.csv")
    semicolons = table(tmp_path, "text;label\n" + "".join(f"word {i}, and;{i % 2}\n" for i in range(20)), "s.csv")
    assert semicolons.train.classes == ("0", "1")
    long = table(tmp_path, "text,label\n" + "".join(f"{'x' * 140_000} {i},{i % 2}\n" for i in range(4)), "l.csv")
    assert sum(map(len, long)) == 4


def test_texts_from_python():
    splits = text.from_texts(["one", "two", "three", "four"], [0, 1, 0, 1], test=(["five", "six"], [1, 0]))
    assert splits.test.classes == ("0", "1")
    with pytest.raises(ValueError, match="expected labels that are class indices"):
        text.from_texts(["a", "b", "c"], [0, 1, 0], test=(["x", "y"], [7, -1]))
    with pytest.raises(ValueError, match="one integer label per example"):
        text.from_texts(["a", "b", "c"], [0])
    with pytest.raises(ValueError, match="expected a list of strings. Received: one string, 'some words'. Pass"):
        text.from_texts("some words")
    with pytest.raises(ValueError, match="expected strings. Received: int at index 1"):
        text.from_texts(["a", 5, "c"])


def test_pieces_of_files_are_not_texts(tmp_path, monkeypatch):
    (tmp_path / "book.txt").write_text("line of it\n" * 3000)
    with pytest.raises(ValueError, match="expected whole texts"):
        tokens.tokenize_texts(load(f"text:{tmp_path / 'book.txt'}"), BPE, 16)


def test_labeled_texts_become_padded_tokens(tmp_path, caplog):
    splits = table(tmp_path, "label\ttext\n" + "".join(f"{'ab'[i % 2]}\tcat {'dog ' * i}\n" for i in range(20)))
    tokenizer = made("wordpiece")
    with caplog.at_level(logging.WARNING):
        ours = tokens.tokenize_texts(splits, tokenizer, 12)
    assert "longer than 12 tokens" in caplog.text
    rows = ours.train.column("tokens")
    assert rows.shape[1] == 12
    assert (rows[:, 0] == tokenizer.special["[CLS]"]).all()
    for row, label, words in zip(rows, ours.train.column("label"), tokens.texts_of(splits.train)):
        valid = row[row >= 0]
        assert valid[-1] == tokenizer.special["[SEP]"]
        assert words.lower().startswith(tokenizer.decode(valid[1:-1]))
        assert label == words.count("dog") % 2
    roomy = tokens.tokenize_texts(splits, tokenizer, 500)
    assert roomy.train.column("tokens").shape[1] < 40


def test_embedded_and_tfds_text(monkeypatch):
    splits = load("pydoc")
    assert sum(map(len, splits)) == 79
    assert sum(len(t) for part in splits for t in tokens.texts_of(part)) > 400_000


def test_tfds_text(tfds_folder):
    trec = load("tfds:trec")
    assert [len(part) for part in trec] == [4907, 545, 500]
    assert len(trec.train.classes) == 6
    shakespeare = load("tfds:tiny_shakespeare")
    assert [len(next(iter(tokens.texts_of(part)))) for part in shakespeare] == [1003854, 55770, 55770]


# ----- the cache -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-3],
        lambda content: b"",
        lambda content: b"\x01" + content[1:],
        lambda content: content[:20] + bytes([content[20] ^ 4]) + content[21:],
        lambda content: content + b"\0" * 8,
    ],
)
def test_damaged_tokens_are_rebuilt(corpus, caplog, damage):
    whole = np.array(tokens.tokenize(corpus.train, BPE))
    (path,) = cache_folder().glob("*.tokens")
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(tokens.tokenize(corpus.train, BPE), whole)
    assert f"{path} is damaged" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(tokens.tokenize(corpus.train, BPE), whole)
    assert not caplog.text
    assert [each.name for each in cache_folder().iterdir()] == [path.name]


def test_a_damaged_tokenizer_is_trained_again(caplog):
    first = tokenizers.train("characters", SENTENCES, 100, "content")
    (path,) = cache_folder().glob("*.tokenizer.json")
    for content in (first.json[:-9], "", "[]"):
        path.write_text(content)
        assert tokenizers.train("characters", SENTENCES, 100, "content").json == first.json
        assert f"{path} is damaged" in caplog.text
        caplog.clear()


def test_fingerprints_of_a_corpus_depend_on_the_whole_stream():
    stream = np.arange(1_000, dtype=np.uint16)
    windows = tokens.Windows(stream, 8, 8, True)
    assert windows.digest() == tokens.Windows(stream.copy(), 8, 8, True).digest()
    assert windows.digest(np.arange(3)) != windows.digest(np.arange(4))
    other = stream.copy()
    other[517] += 1
    assert tokens.Windows(other, 8, 8, True).digest() != windows.digest()


def test_unknown_tokens(caplog):
    """For windows, padded texts and captions, more than half is an error, and a tenth or more adds a note."""
    tokenizer = tokenizers.Tokenizer(tokenizers._characters(["abcdefghi"], 0))

    def texts(content):
        return hold_out(text.documents("letters", [content] * 40))

    for read in (
        lambda splits: tokens.corpus(splits, tokenizer, 4, target=0),
        lambda splits: tokens.tokenize_texts(splits, tokenizer, 12),
    ):
        with pytest.raises(ValueError, match=r"letters\[train\]: \d+ of \d+ tokens are unknown.*--tokenizer bpe"):
            read(texts("aazzzzzzz"))
        caplog.clear()
        for _ in range(2):  # the second time, windows come from the cache
            noted = read(texts("abcdefghz"))
        assert len(caplog.records) == 2
        assert "tokens are unknown to the tokenizer (1" in noted.train.notes[0]
        caplog.clear()
        assert not read(texts("abcdefghi" * 3 + "z")).train.notes
        assert "unknown to the tokenizer" in caplog.text
