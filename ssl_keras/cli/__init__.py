"""The command line: `ssl-keras COMMAND`, or `python -m ssl_keras COMMAND`."""

import errno
import importlib
import logging
import os
import re
import signal
import sys

import ssl_keras
from ssl_keras.cli.commands import COMMANDS, usage
from ssl_keras.files import printable
from ssl_keras.startup import start_tensorflow

# Lines of TensorFlow's messages that locate an error without naming it.
NOISE = ("Graph execution error", "Detected at node", 'File "', "Node:", "Stack trace", "<stack traces")
# Phrases in TensorFlow's messages after a worker of a collective operation has died.
LOST_WORKER = ("Collective ops is aborted", "tasks are unhealthy", "Connection reset by peer")


def message_of(error):
    """Returns the line that a user gets for an exception: its cause, without TensorFlow's tracebacks."""
    exhausted = sys.modules["tensorflow"].errors.ResourceExhaustedError
    full = os.strerror(errno.ENOSPC)  # TensorFlow raises ResourceExhaustedError for a full disk too
    if isinstance(error, exhausted) and full in str(error):
        file = re.search(r"(\S+); " + full, str(error))
        return printable(f"{full}{f': {file[1]}' if file else ''}. Free some space, or write to another disk.")
    if isinstance(error, MemoryError | exhausted):
        shape = re.search(r"shape ?(\[[\d,]*\])", str(error))
        cause = f"at a tensor of shape {shape[1]}" if shape else str(error).strip().partition("\n")[0]
        return printable(
            f"Out of memory{f': {cause}' if cause else ''}. Use smaller images (--image-size), smaller batches "
            "(--batch-size, --accumulate), shorter texts or clips, or a smaller network."
        )
    if isinstance(error, sys.modules["tensorflow"].errors.OpError):
        causes = [line.strip() for line in str(error.message or error).splitlines()]
        kept = next((line for line in causes if line and not line.startswith(NOISE)), type(error).__name__)
        return printable(f"TensorFlow: {kept}")
    return printable(str(error) or type(error).__name__, keep="\n")


class EscapingFormatter(logging.Formatter):
    """Escapes control characters: file names, and texts from other people's cards, may contain any."""

    def format(self, record):
        return printable(super().format(record), keep="\n")


def main(arguments=None):
    """Runs a command, and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character must not lose the result
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments == ["--version"]:
        print(f"ssl-keras {ssl_keras.__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"Unknown command {command!r}. Expected one of: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("absl", "tensorflow", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # our own messages name the file and the reason
    try:
        start_tensorflow()
        module = importlib.import_module(f"{__name__}.{COMMANDS[command].module}")
        getattr(module, f"{command}_command")(rest)
    except BrokenPipeError:  # `ssl-keras runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        expected = (ValueError, RuntimeError, OSError, FloatingPointError, MemoryError)
        of_tensorflow = isinstance(error, sys.modules["tensorflow"].errors.OpError)
        if not (of_tensorflow or isinstance(error, expected)):
            raise  # a bug, whose traceback matters
        if os.environ.get("SSL_KERAS_TRACEBACK", "0").strip() not in ("", "0"):
            raise
        from ssl_keras.training import workers

        if of_tensorflow and any(phrase in str(error) for phrase in LOST_WORKER):
            error = "Another worker has died, or cannot be reached. Use --resume to continue from the last checkpoint."
        print(f"error: {message_of(error)}", file=sys.stderr)
        return workers.EXIT_ALONE if isinstance(error, TimeoutError) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0
