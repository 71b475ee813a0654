"""The command line: `ssl-keras COMMAND`, or `python -m ssl_keras COMMAND`."""

import errno
import importlib
import logging
import os
import re
import signal
import sys

import ssl_keras
from ssl_keras.files import printable
from ssl_keras.startup import start_tensorflow

# Command: (the module of this package whose `COMMAND_command(arguments)` runs it, arguments, what it does).
COMMANDS = {
    "pretrain": ("pretrain", "OBJECTIVE", "learn from data without labels, and save the encoder"),
    "finetune": ("finetune", "ENCODER", "train it with a head, on labels"),
    "evaluate": (
        "evaluate",
        "ENCODER …",
        "measure them beside pixels, TF-IDF or log-mel, random init, and training from scratch",
    ),
    "embed": ("evaluate", "ENCODER", "write the features of a data set"),
    "sample": ("generate", "ENCODER", "write text with a causal language model, or make images with a DCGAN"),
    "fidelity": ("generate", "ENCODER", "compare a DCGAN's images with real ones"),
    "fill": ("generate", "ENCODER TEXT", "guess the [MASK]s of a text"),
    "translate": ("sequences", "ENCODER TEXT …", "write the targets of texts: pronunciations, translations"),
    "transcribe": ("sequences", "ENCODER FILE …", "write what is said in sound files"),
    "score": ("sequences", "ENCODER", "measure the error rate of decoded targets or transcripts"),
    "import": ("encoders", "FOLDER", "take over a GPT-2 or BERT checkpoint in the Hugging Face layout"),
    "export": ("encoders", "ENCODER", "write a SavedModel, or that layout"),
    "search": ("search", "ENCODER WORDS", "find pictures by words, or words by a picture, with an image_text encoder"),
    "recall": ("search", "ENCODER", "measure how often it finds the right ones"),
    "launch": (
        "runs",
        "COMMAND",
        "pretrain, finetune or evaluate on several local processes; restart them when one dies",
    ),
    "plan": ("pretrain", "OBJECTIVE", "estimate what pretraining costs on a number of GPUs: memory, hours"),
    "inspect": ("inspect", "", "say what a data set is, as a table and a page with pictures"),
    "leaks": ("data", "", "find near duplicates on both sides of a data set's split"),
    "list": ("encoders", "", "list objectives, data sets and encoders"),
    "runs": ("runs", "", "compare runs"),
}
NOTES = """
`ssl-keras COMMAND --help` shows a command's flags; those of pretraining belong to the
objective: `ssl-keras pretrain autoencoder --help`.

Exit codes: 0 done; 1 bad input or a failed run (one line says what); 2 wrong usage;
75 a worker of several did not come;
130 and 143 after Ctrl-C and SIGTERM, with the state saved: `--resume` continues."""
# Lines of TensorFlow's messages that say where, and not what.
NOISE = ("Graph execution error", "Detected at node", 'File "', "Node:", "Stack trace", "<stack traces")
# What TensorFlow says, among forty lines, where a worker of a collective is gone.
LOST = ("Collective ops is aborted", "tasks are unhealthy", "Connection reset by peer")


def usage():
    """The text of `ssl-keras --help`."""
    lines = [f"    {f'{name} {arguments}':26} {what}" for name, (_, arguments, what) in COMMANDS.items()]
    return "\n".join([__doc__, "", *lines, NOTES])


def said(error):
    """The line that a user gets of an exception: its cause, without TensorFlow's tracebacks."""
    exhausted = sys.modules["tensorflow"].errors.ResourceExhaustedError
    full = os.strerror(errno.ENOSPC)  # which TensorFlow raises as what memory that is out is
    if isinstance(error, exhausted) and full in str(error):
        file = re.search(r"(\S+); " + full, str(error))
        return printable(f"{full}{f': {file[1]}' if file else ''}. Make room, or write to another place.")
    if isinstance(error, MemoryError | exhausted):
        shape = re.search(r"shape ?(\[[\d,]*\])", str(error))
        cause = f"at a tensor of shape {shape[1]}" if shape else str(error).strip().partition("\n")[0]
        return printable(
            f"Out of memory{f': {cause}' if cause else ''}. Take smaller images (--image-size), smaller batches "
            "(--batch-size, --accumulate), shorter texts or clips, or a smaller network."
        )
    if isinstance(error, sys.modules["tensorflow"].errors.OpError):
        causes = [line.strip() for line in str(error.message or error).splitlines()]
        kept = next((line for line in causes if line and not line.startswith(NOISE)), type(error).__name__)
        return printable(f"TensorFlow: {kept}")
    return printable(str(error) or type(error).__name__, keep="\n")


class Lines(logging.Formatter):
    """Formats what is logged with escapes: names of files, and words of strangers' cards, may hold anything."""

    def format(self, record):
        return printable(super().format(record), keep="\n")


def main(arguments=None):
    """Runs a command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a result must not be lost because a terminal cannot show a letter of it
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
        print(f"Unknown command {command!r}. There are: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    handler = logging.StreamHandler()
    handler.setFormatter(Lines("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("absl", "tensorflow", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # our own lines name the file, and the reason
    try:
        start_tensorflow()
        module = importlib.import_module(f"{__name__}.{COMMANDS[command][0]}")
        getattr(module, f"{command}_command")(rest)
    except BrokenPipeError:  # `ssl-keras runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        expected = (ValueError, RuntimeError, OSError, FloatingPointError, MemoryError)
        of_tensorflow = isinstance(error, sys.modules["tensorflow"].errors.OpError)
        if not (of_tensorflow or isinstance(error, expected)):
            raise  # a bug: where it happened matters
        if os.environ.get("SSL_KERAS_TRACEBACK", "0").strip() not in ("", "0"):
            raise
        from ssl_keras.training import workers

        if of_tensorflow and any(sign in str(error) for sign in LOST):
            error = "Another worker has ended, or cannot be reached. --resume goes on from the last checkpoint."
        print(f"error: {said(error)}", file=sys.stderr)
        return workers.EXIT_ALONE if isinstance(error, TimeoutError) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0
