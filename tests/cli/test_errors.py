"""What goes wrong is said in one line, whoever says it."""

import importlib
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import cli
from ssl_keras.cli import main


def fails(error):
    def command(_):
        raise error

    return command


def too_large_an_array(_):
    np.empty((1 << 40, 1 << 10))


def too_large_a_tensor(_):
    raise tf.errors.ResourceExhaustedError(
        None,
        None,
        "Graph execution error:\n\nDetected at node A defined at (most recent call last):\n"
        "OOM when allocating tensor with shape[4,5]\n\t [[{{node A}}]]\nHint: ...",
    )


def a_full_disk(_):
    raise tf.errors.ResourceExhaustedError(
        None, None, "{{function_node __wrapped__SaveV2}} out/part-0.tempstate4; No space left on device [Op:SaveV2]"
    )


def shapes_that_do_not_fit(_):
    tf.constant([1.0, 2.0]) + tf.constant([1.0, 2.0, 3.0])


def within_a_graph(_):
    tf.function(lambda x: tf.ensure_shape(x, (3,)), input_signature=[tf.TensorSpec((None,))])(tf.zeros(2))


def a_file(_):
    open("nowhere\x1b[2J")  # noqa: SIM115


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (too_large_an_array, r"^error: Out of memory: Unable to allocate 8.00 PiB .*--batch-size"),
        (too_large_a_tensor, r"^error: Out of memory: .*--batch-size"),
        (a_full_disk, r"^error: No space left on device: out/part-0\.tempstate4\. Free some space"),
        (fails(MemoryError()), r"^error: Out of memory\. Use"),
        (shapes_that_do_not_fit, r"^error: TensorFlow: .*[Ii]ncompatible shapes: \[2\] vs. \[3\]"),
        (within_a_graph, r"^error: TensorFlow: .*\[2\]"),
        (fails(NotImplementedError()), r"^error: NotImplementedError"),
        (fails(ValueError("a\rb\x1b[2J\x9b")), r"^error: a\\rb\\x1b\[2J\\x9b"),
        (a_file, r"No such file or directory: 'nowhere\\x1b"),
    ],
)
def test_it_is_one_line_with_the_cause(attempt, message, monkeypatch, capsys):
    monkeypatch.setattr(importlib.import_module("ssl_keras.cli.encoders"), "list_command", attempt)
    assert main(["list"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


def test_a_bug_shows_where_it_happened(monkeypatch):
    monkeypatch.setattr(importlib.import_module("ssl_keras.cli.encoders"), "list_command", fails(KeyError("x")))
    with pytest.raises(KeyError):
        main(["list"])


def test_what_is_logged_forges_no_line():
    record = logging.LogRecord("x", logging.INFO, "", 0, "a %s: b\nc", ("\x1b[1A\rname",), None)
    assert cli.EscapingFormatter("%(message)s").format(record) == r"a \x1b[1A\rname: b" + "\nc"


def test_a_terminal_that_knows_no_letters_loses_nothing():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import sys; from ssl_keras.cli import main; main(['--version']); main(['x']); print('\u00d7')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == r"\xd7"
