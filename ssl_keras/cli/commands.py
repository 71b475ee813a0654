"""The commands of `ssl-keras`, and what `--help` shows of them: one line and one example each."""

import typing


class Command(typing.NamedTuple):
    """A row of the table of commands.

    The function `NAME_command(arguments)` of the module `ssl_keras.cli.MODULE` runs the command NAME.
    """

    module: str
    arguments: str
    summary: str
    example: str


GROUPS = {
    "Train": {
        "pretrain": Command(
            "pretrain",
            "OBJECTIVE",
            "Pretrain an encoder on unlabeled data",
            "pretrain autoencoder --data digits --epochs 20",
        ),
        "finetune": Command(
            "finetune",
            "ENCODER",
            "Train a saved encoder and a classification head on labels",
            "finetune autoencoder-digits --data digits --labels-per-class 10",
        ),
        "launch": Command(
            "runs",
            "COMMAND",
            "Run pretrain, finetune or evaluate on several local processes",
            "launch --workers 2 pretrain autoencoder --steps 500",
        ),
        "plan": Command(
            "pretrain",
            "OBJECTIVE",
            "Estimate the memory, throughput and hours of pretraining on GPUs",
            "plan causal_lm --size gpt2 --gpus 64",
        ),
    },
    "Evaluate": {
        "evaluate": Command(
            "evaluate",
            "ENCODER …",
            "Compare saved encoders with baselines and training from scratch, on labels",
            "evaluate autoencoder-digits --data digits --budgets 10 1",
        ),
        "score": Command(
            "sequences",
            "ENCODER",
            "Measure the error rates of a seq2seq or ctc encoder",
            "score seq2seq-cmudict --data cmudict",
        ),
        "recall": Command(
            "search",
            "ENCODER",
            "Measure the recall of an image_text encoder at ranks 1, 5 and 10",
            "recall image_text-emoji_pairs --data emoji:my_emoji --image-size 64",
        ),
        "fidelity": Command(
            "generate",
            "ENCODER",
            "Measure the FID, KID, precision and recall of a DCGAN's images",
            "fidelity dcgan-fashion_mnist --classifier classifier-fashion_mnist --data tfds:fashion_mnist",
        ),
    },
    "Use": {
        "embed": Command(
            "evaluate",
            "ENCODER",
            "Write the features of a data set to a file",
            "embed autoencoder-digits --data digits --out features.npy",
        ),
        "sample": Command(
            "generate",
            "ENCODER",
            "Generate text with a causal language model, or images with a DCGAN",
            'sample causal_lm-tiny_shakespeare --prompt "To be, or not" --temperature 0.8',
        ),
        "fill": Command(
            "generate",
            "ENCODER TEXT",
            "Predict the [MASK] tokens of a text",
            'fill masked_lm-trec "What is the [MASK] of France ?"',
        ),
        "translate": Command(
            "sequences",
            "ENCODER TEXT …",
            "Translate texts with a seq2seq encoder, to pronunciations for example",
            "translate seq2seq-cmudict reference tutorial",
        ),
        "transcribe": Command(
            "sequences",
            "ENCODER FILE …",
            "Transcribe audio files with a ctc encoder",
            "transcribe spoken_digits speech.wav",
        ),
        "search": Command(
            "search",
            "ENCODER QUERY",
            "Search images by words, or texts by an image, with an image_text encoder",
            'search image_text-emoji_pairs "a red heart" --images my_images',
        ),
        "export": Command(
            "encoders",
            "ENCODER",
            "Export an encoder as a SavedModel, or in the Hugging Face layout",
            "export autoencoder-fashion_mnist",
        ),
        "import": Command(
            "encoders",
            "FOLDER",
            "Import a GPT-2 or BERT checkpoint in the Hugging Face layout",
            "import bert-base-uncased",
        ),
    },
    "Data": {
        "inspect": Command(
            "inspect",
            "",
            "Show the sizes, classes, duplicates and conversions of a data set",
            "inspect --data digits --out digits.html",
        ),
        "leaks": Command(
            "data",
            "",
            "Find near duplicates between the training and held-out splits",
            "leaks --data digits --similar-image 0.99",
        ),
    },
    "Runs": {
        "list": Command("encoders", "", "List objectives, data sets and saved encoders", "list"),
        "runs": Command("runs", "[FOLDER]", "Compare runs: results, and settings that differ", "runs"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


class Example(typing.NamedTuple):
    """The flags in the examples of `pretrain OBJECTIVE --help` and `plan OBJECTIVE --help`."""

    pretrain: str
    plan: str


EXAMPLES = {
    "autoencoder": Example("--data digits --epochs 20", "--data digits --gpus 8"),
    "causal_lm": Example("--data pydoc --steps 500", "--size gpt2 --gpus 64"),
    "classifier": Example("--data digits --epochs 20", "--data digits --image-size 64 --gpus 8"),
    "contrastive": Example(
        "--data digits --epochs 20 --loss vicreg", "--data digits --image-size 64 --network resnet50"
    ),
    "ctc": Example(
        "--data connected:tfds:spoken_digit --words --run spoken_digits", "--data connected:tfds:spoken_digit"
    ),
    "dcgan": Example("--data digits --image-size 28 --epochs 20", "--data digits --image-size 64 --gpus 8"),
    "image_text": Example(
        "--data captions:captions.csv --image-size 64", "--data captions:captions.csv --image-size 64"
    ),
    "jigsaw": Example("--data digits --image-size 32 --epochs 20", "--data digits --image-size 64 --network resnet50"),
    "masked_lm": Example("--data pydoc --steps 500", "--size bert-base --gpus 64"),
    "recurrent_lm": Example("--data pydoc --horizon 1 --steps 500", "--data pydoc --width 1024 --layers 2"),
    "rotation": Example("--data digits --epochs 20", "--data digits --image-size 64 --network resnet50"),
    "seq2seq": Example("--data pydoc --task denoise --steps 500", "--data pydoc --width 1024 --layers 2"),
    "wav2vec2": Example("--data tfds:spoken_digit --frontend mel --steps 500", "--data tfds:spoken_digit --gpus 8"),
}
NOTES = """
`ssl-keras COMMAND --help` shows the flags of a command; `python -m ssl_keras` is the same program.
`ssl-keras pretrain --help` lists the objectives; `ssl-keras pretrain OBJECTIVE --help` shows their settings.

Exit codes:
    0          done
    1          bad input, or a failed run; one line on stderr names the cause
    2          wrong usage
    75         a worker did not connect
    130, 143   stopped by Ctrl-C or SIGTERM, with the state saved; `--resume` continues
"""


def usage():
    """Returns the text of `ssl-keras --help`."""
    lines = ["usage: ssl-keras COMMAND [OPTIONS]", "", "Self-supervised learning for Keras."]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"    {f'{name} {row.arguments}':26} {row.summary}" for name, row in group.items()]
    return "\n".join([*lines, "", "Example:", f"    ssl-keras {COMMANDS['pretrain'].example}", NOTES.rstrip()])


def usage_of_objectives(command, summaries):
    """Returns the text of `ssl-keras pretrain --help` or `plan --help`; `summaries` are (name, line) pairs."""
    row = COMMANDS[command]
    return "\n".join(
        [
            f"usage: ssl-keras {command} OBJECTIVE [OPTIONS]",
            "",
            described(row.summary, row.example),
            "",
            "Objectives:",
            *(f"    {name:13} {summary}" for name, summary in summaries),
            "",
            f"`ssl-keras {command} OBJECTIVE --help` shows the settings of an objective.",
        ]
    )


def described(summary, example):
    """Returns one line and one example, as `--help` shows them above the flags."""
    return f"{summary if summary[-1] in '.?' else summary + '.'}\n\nExample:\n    ssl-keras {example}"
