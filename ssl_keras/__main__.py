"""The command line: `python -m ssl_keras COMMAND`, or `ssl-keras COMMAND`.

    pretrain OBJECTIVE   learn from data without labels, and save the encoder
    finetune ENCODER     train it with a head, on labels
    evaluate ENCODER …   measure them beside pixels, TF-IDF or log-mel, random init, and training from scratch
    embed ENCODER        write the features of a data set
    sample ENCODER       write text with a causal language model, or make images with a DCGAN
    fidelity ENCODER     how near a DCGAN's images are to real ones
    fill ENCODER TEXT    guess the [MASK]s of a text
    translate ENCODER TEXT …   write the targets of texts: pronunciations, translations
    transcribe ENCODER FILE …  write what is said in sound files
    score ENCODER        how many of a data set's targets or transcripts are decoded right
    import FOLDER        take over a GPT-2 or BERT checkpoint in the Hugging Face layout
    export ENCODER       write a SavedModel, or that layout
    search ENCODER WORDS       find pictures by words, or words by a picture, with an encoder of image_text
    recall ENCODER       how often it finds the right ones
    launch COMMAND       pretrain, finetune or evaluate on several local processes; starts them again when one dies
    plan OBJECTIVE       what pretraining costs on so many GPUs: memory, hours
    leaks                near duplicates on both sides of a data set's split
    list                 what there is: objectives, data, encoders
    runs                 compare runs

`ssl-keras COMMAND --help` shows a command's flags; those of pretraining belong to the
objective: `ssl-keras pretrain autoencoder --help`.

Exit codes: 0 done; 1 bad input or a failed run (one line says what); 2 wrong usage;
75 a worker of several did not come;
130 and 143 after Ctrl-C and SIGTERM, with the state saved: `--resume` goes on.
"""

import logging
import os
import signal
import sys

import ssl_keras
from ssl_keras import commands, objectives
from ssl_keras.startup import start_tensorflow

# What TensorFlow says, among forty lines, where a worker that it adds up with is gone.
LOST = ("Collective ops is aborted", "tasks are unhealthy", "Connection reset by peer")

def main(arguments=None):
    """Runs a command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    if arguments == ["--version"]:
        print(f"ssl-keras {ssl_keras.__version__}")
        return 0
    command, *rest = arguments
    own = objectives.commands()
    if command not in commands.NAMES and command not in own:
        print(f"Unknown command {command!r}. There are: {', '.join([*commands.NAMES, *own])}.", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("absl", "tensorflow", "matplotlib", "PIL"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        start_tensorflow()
        if command in own:
            _objective_command(command, own[command], rest)
        else:
            getattr(commands, f"{command}_command")(rest)
    except BrokenPipeError:  # `ssl-keras runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        expected = (ValueError, RuntimeError, OSError, FloatingPointError)
        of_tensorflow = isinstance(error, sys.modules["tensorflow"].errors.OpError)
        if not (of_tensorflow or isinstance(error, expected)):
            raise  # a bug: where it happened matters
        if os.environ.get("SSL_KERAS_TRACEBACK"):
            raise
        from ssl_keras.training import workers

        if of_tensorflow and any(sign in str(error) for sign in LOST):
            error = "Another worker has ended, or cannot be reached. --resume goes on from the last checkpoint."
        print(f"error: {error}", file=sys.stderr)
        return workers.EXIT_ALONE if isinstance(error, TimeoutError) else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _objective_command(command, modules, arguments):
    """A command that objectives bring with them; the encoder that it names says which one's."""
    from ssl_keras import encoders
    from ssl_keras.encoders import card as cards

    name = modules[0]
    if arguments and not arguments[0].startswith("-"):
        name = cards.read(encoders.find(arguments[0]))["objective"]
        if name not in modules:
            raise ValueError(f"{command} is for encoders of {', '.join(modules)}. {arguments[0]} is of {name}.")
    getattr(objectives.module(name), f"{command}_command")(arguments)


if __name__ == "__main__":
    sys.exit(main())
