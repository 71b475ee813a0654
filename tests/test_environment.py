"""Variables of the environment, as people set them."""

import pathlib

import pytest

from ssl_keras.cli import main
from ssl_keras.data.cache import cache_folder


@pytest.mark.parametrize(
    ("text", "folder"),
    [("", "home/.cache/ssl_keras"), (" ", "home/.cache/ssl_keras"), ("~/mine", "home/mine"), ("here", "here")],
)
def test_the_cache_is_where_it_is_asked_for(text, folder, monkeypatch):
    """Nothing is no folder: it would be the present one."""
    monkeypatch.setenv("HOME", "home")
    monkeypatch.setenv("SSL_KERAS_CACHE", text)
    assert cache_folder() == pathlib.Path(folder)


@pytest.mark.parametrize(("text", "shown"), [("", False), ("0", False), (" 0 ", False), ("1", True), ("yes", True)])
def test_tracebacks_are_shown_to_who_asks_for_them(text, shown, monkeypatch, capsys):
    monkeypatch.setenv("SSL_KERAS_TRACEBACK", text)
    if shown:
        with pytest.raises(ValueError, match="No runs in"):
            main(["runs", "nowhere"])
    else:
        assert main(["runs", "nowhere"]) == 1
        assert "error: No runs in nowhere" in capsys.readouterr().err
