"""`import ssl_keras`: what it offers, lazily and typed."""

import inspect
import subprocess
import sys

import pytest

import ssl_keras


def test_the_import_is_quick_and_lists_the_names():
    """TensorFlow and Keras are imported when a name is used, not before."""
    code = "import ssl_keras, sys; print(*dir(ssl_keras)); sys.exit(bool({'tensorflow', 'keras'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(ssl_keras.__all__) <= set(done.stdout.split())


@pytest.mark.parametrize("name", ssl_keras.__all__)
def test_each_name_is_there_documented_and_typed(name):
    public = getattr(ssl_keras, name)
    assert public.__name__ == name
    assert inspect.getdoc(public)
    signature = inspect.signature(public)
    untyped = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
    assert not untyped
    if not inspect.isclass(public):
        assert signature.return_annotation is not inspect.Signature.empty


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'load_encodr'"):
        ssl_keras.load_encodr  # noqa: B018
