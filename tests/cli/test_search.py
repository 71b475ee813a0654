"""The texts that `search --texts` takes."""

import pytest

from ssl_keras.cli.search import read_texts


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
