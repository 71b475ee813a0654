"""The commands that every objective shares, each a function of its arguments, with a dataclass for its flags.

Those that an objective brings with it are in its own file.
"""

import dataclasses
import json
import os
import pathlib

import tyro

from ssl_keras import objectives

Positional = tyro.conf.Positional


def _parse(kind, command, arguments, **options):
    return tyro.cli(kind, prog=f"ssl-keras {command}", args=arguments, config=(tyro.conf.OmitArgPrefixes,), **options)


def _defaults(training, arguments):
    """A run's defaults; whoever asks for epochs does not want the default number of steps, nor the other way round."""
    asked = {argument.partition("=")[0] for argument in arguments}
    if "--epochs" in asked and "--steps" not in asked:
        return dataclasses.replace(training, steps=0)
    return dataclasses.replace(training, epochs=0) if "--steps" in asked and "--epochs" not in asked else training


def pretrain_command(arguments):
    from ssl_keras.training.pretrain import pretrain

    if not arguments or arguments[0].startswith("-"):
        print(f"usage: ssl-keras pretrain OBJECTIVE [flags]; objectives: {', '.join(objectives.names())}")
        raise SystemExit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    name, *rest = arguments
    module = objectives.module(name)
    flags = dataclasses.make_dataclass("Pretrain", [
        ("settings", module.Settings, dataclasses.field(default=module.Settings())),
        ("training", type(module.DEFAULTS), dataclasses.field(default=_defaults(module.DEFAULTS, rest))),
    ])
    asked = _parse(flags, f"pretrain {name}", rest, description=module.__doc__)
    outcome = pretrain(name, asked.settings, asked.training)
    print(json.dumps(outcome, indent=2))
    folder = outcome["folder"]
    print(f"Encoder: {folder}/encoder\nLook at it: tensorboard --logdir {asked.training.runs}")


def finetune_command(arguments):
    from ssl_keras.training import finetune as tuning

    flags = dataclasses.make_dataclass("Finetune", [
        ("encoder", Positional[str]),
        ("settings", tuning.Settings, dataclasses.field(default=tuning.Settings())),
        ("training", tuning.runs.Training, dataclasses.field(default=_defaults(tuning.DEFAULTS, arguments))),
    ])
    asked = _parse(flags, "finetune", arguments, description=tuning.__doc__)
    print(json.dumps(tuning.finetune(asked.encoder, asked.settings, asked.training), indent=2))


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures saved encoders beside pixels or TF-IDF, random init, and training from scratch."""

    encoders: Positional[tuple[str, ...]]
    """Saved encoders' names or paths."""
    data: str = "digits"
    """Labelled data: digits, folder:PATH, table:FILE, audio:PATH, espeak, or tfds:NAME."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""
    budgets: tuple[int, ...] = (60, 10, 1)
    """Labels per class of the few-label columns."""
    seeds: int = 5
    """Draws of labels: seeds 0, 1, …."""
    trained: bool = True
    """Include the rows that take training (fine-tuned, scratch)."""
    strategy: str = "auto"
    """auto (all local GPUs), one, mirrored, or multi_worker: as TF_CONFIG or Slurm's variables say."""
    replicas: int = 0
    """With mirrored: how many replicas (logical CPUs where there is no GPU)."""
    out: str = ""
    """Folder for the table; default results/ENCODERS-DATA."""
    record: bool = False
    """Write the results into the encoders' cards as well."""


def evaluate_command(arguments):
    from ssl_keras import downstream, encoders, files
    from ssl_keras.data.sources import load
    from ssl_keras.encoders import card as cards
    from ssl_keras.training.distribution import strategy
    from ssl_keras.training.workers import Workers

    asked = _parse(Evaluate, "evaluate", arguments)
    chosen = strategy(asked.strategy, asked.replicas)
    workers = Workers(chosen)
    about = [cards.read(encoders.find(encoder)) for encoder in asked.encoders]
    names = [card["name"] for card in about]
    if not names:
        raise ValueError("Expected at least one encoder: ssl-keras evaluate NAME … --data …")
    name = names[0] if len(names) == 1 else f"{len(names)} encoders"
    splits = load(asked.data, asked.image_size)
    folder = pathlib.Path(asked.out or f"results/{'+'.join(names)}-{splits.train.short_name}")
    files.make_folder(folder)
    weights = [card["weights"]["sha256"] for card in about]
    same = [weights, asked.budgets, asked.seeds, asked.trained, [source.fingerprint() for source in splits]]
    workers.agree("encoders, settings and data", json.dumps(same))
    with chosen.scope():
        table = downstream.evaluate(
            asked.encoders, splits, asked.budgets, tuple(range(asked.seeds)), asked.trained
        )
    if workers.is_chief:
        print(downstream.markdown(table))
        seeds = f"label seeds 0–{asked.seeds - 1}" if asked.seeds > 1 else "label seed 0"
        downstream.save(table, folder, f"{name} on {splits.train.base}, test accuracy, {seeds}")
        print(f"Saved in {folder}: table.md, table.csv, table.json, table.png")
        for encoder in asked.encoders if asked.record else ():
            encoders.record(encoder, asked.data, table)  # whole: what was measured together belongs together
    workers.wait()


@dataclasses.dataclass(frozen=True)
class Embed:
    """Writes the features of every example of a split of a data set, in order, as float32 (N, D)."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    data: str = "digits"
    """digits, folder:PATH, pydoc, text:PATH, table:FILE, pairs:FILE, audio:PATH, espeak, or tfds:NAME."""
    split: str = "test"
    """train, validation or test."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""
    out: str = "features.npy"
    """The file to write."""


def embed_command(arguments):
    import io

    import numpy as np

    from ssl_keras import encoders, files
    from ssl_keras.data.sources import load
    from ssl_keras.data.splits import Splits
    from ssl_keras.encoders import card as cards
    from ssl_keras.evaluation.features import extract_features

    asked = _parse(Embed, "embed", arguments)
    if asked.split not in Splits._fields:
        raise ValueError(f"split must be one of {', '.join(Splits._fields)}. Received: {asked.split!r}")
    files.make_folder(pathlib.Path(asked.out).absolute().parent)
    folder = encoders.find(asked.encoder)
    splits = encoders.adapt(folder, cards.read(folder), load(asked.data, asked.image_size))
    features = extract_features(encoders.load_encoder(asked.encoder), getattr(splits, asked.split))
    content = io.BytesIO()
    np.save(content, features)
    files.write(pathlib.Path(asked.out), content.getvalue())
    print(f"{asked.out}: {features.shape[0]} × {features.shape[1]} float32")


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes a TensorFlow SavedModel for serving (images in [0, 1], tokens or waveforms, to features or to
    logits), or a language model's checkpoint in the Hugging Face layout."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    out: str = ""
    """The folder to write; default ENCODER.savedmodel, or ENCODER.hugging-face."""
    hugging_face: bool = False
    """Write config.json, model.safetensors and tokenizer.json."""
    classifier: bool = False
    """Export a fine-tuned encoder with its head."""


def export_command(arguments):
    import shutil

    from ssl_keras import encoders
    from ssl_keras.encoders import card as cards

    asked = _parse(Export, "export", arguments)
    if asked.hugging_face:
        from ssl_keras import hugging_face

        print(hugging_face.export(asked.encoder, asked.out or None))
        return
    model = encoders.load_classifier(asked.encoder) if asked.classifier else encoders.load_encoder(asked.encoder)
    name = cards.read(encoders.find(asked.encoder))["name"]
    example = model.input.name
    out = pathlib.Path(asked.out or f"{name}.savedmodel")
    if out.exists():
        raise ValueError(f"{out} exists. Choose another --out, or remove it.")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        model.export(partial, verbose=False)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already where all went well
    print(f"{out}: a SavedModel.\n    model = tf.saved_model.load({str(out)!r})\n    model.serve({example})")


@dataclasses.dataclass(frozen=True)
class Import:
    """Takes over a GPT-2 or BERT checkpoint in the Hugging Face layout as an encoder of ours."""

    folder: Positional[str]
    """With config.json, model.safetensors and tokenizer.json."""
    out: str = ""
    """The folder to write; default saved_models/FOLDER."""


def import_command(arguments):
    from ssl_keras import hugging_face

    asked = _parse(Import, "import", arguments)
    print(hugging_face.import_encoder(asked.folder, asked.out or None))


def plan_command(arguments):
    from ssl_keras.planning import cost

    if not arguments or arguments[0].startswith("-"):
        print(f"usage: ssl-keras plan OBJECTIVE [flags]; objectives: {', '.join(objectives.names())}")
        raise SystemExit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    name, *rest = arguments
    module, words = objectives.module(name), name in ("causal_lm", "masked_lm")
    length = cost.Tokens() if words else cost.Passes(data=module.DEFAULTS.data)
    flags = dataclasses.make_dataclass("Planned", [
        ("settings", module.Settings, dataclasses.field(default=module.Settings())),
        ("plan", cost.Plan, dataclasses.field(default=cost.Plan())),
        ("length", type(length), dataclasses.field(default=length)),
    ])
    asked = _parse(flags, f"plan {name}", rest, description=cost.__doc__)
    if words:
        work = cost.of_language(asked.settings.filled(), asked.plan, asked.length.tokens, name == "masked_lm")
    else:
        prepared = module.prepare(asked.settings, asked.length.load())
        work = cost.of_traced(module, *prepared, asked.plan, asked.length)
    print(cost.shown(cost.plan(work, asked.plan), remat=hasattr(asked.settings, "remat")))


def launch_command(arguments):
    from ssl_keras.training import launch

    first = next((i for i, argument in enumerate(arguments) if argument in launch.COMMANDS), len(arguments))
    asked = _parse(launch.Launch, "launch", arguments[:first])
    raise SystemExit(launch.launch(asked, arguments[first:]))


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Finds near duplicates, of images and of texts, on both sides of a data set's split."""

    data: str
    """Of images, captions or text."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""
    similar_text: float = 90.0
    """Percent of their letters that near duplicates share."""
    similar_image: float = 0.95
    """Correlation of their thumbnails from which on images are near duplicates."""
    show: int = 5
    """How many to print of each kind."""


def leaks_command(arguments):
    from ssl_keras.data import near_duplicates
    from ssl_keras.data.sources import load

    asked = _parse(Leaks, "leaks", arguments)
    splits = load(asked.data, asked.image_size)
    count = 0
    for (part, kind), pairs in near_duplicates.leaks(splits, asked.similar_text, asked.similar_image).items():
        held_out = getattr(splits, part)
        found = len(set(pairs[:, 1]))
        count += found
        print(f"{found} of {len(held_out)} {kind} of {part} are near duplicates of training ones")
        column = "caption" if "caption" in held_out.arrays else "text"
        names = [source.column(column) if kind == "texts" else None for source in (splits.train, held_out)]
        for pair in pairs[: asked.show]:
            shown = [str(i) if name is None else f"{i}: {name[i]!r:.60}" for name, i in zip(names, pair)]
            print(f"    train {shown[0]}   {part} {shown[1]}")
    if count:
        raise ValueError(f"{asked.data}: {count} near duplicates of training examples are held out. Take them out.")


@dataclasses.dataclass(frozen=True)
class List:
    """Says what there is: objectives, data, encoders."""


def list_command(arguments):
    """Says what there is."""
    from ssl_keras import encoders
    from ssl_keras.data.sources import NAMES
    from ssl_keras.encoders import card as cards

    _parse(List, "list", arguments)
    print("objectives:", ", ".join(objectives.names()))
    print("data:", NAMES)
    print("encoders:" if encoders.available() else "encoders: none yet")
    for name, folder in sorted(encoders.available().items()):
        try:
            card = cards.read(folder)
        except ValueError as error:
            print(f"  {name:40} broken: {error}")
            continue
        print(f"  {name:40} {card['features']:5} features, {card['parameters']:,} parameters  {folder}")


@dataclasses.dataclass(frozen=True)
class Runs:
    """Compares runs: their outcomes, and the settings in which they differ."""

    folder: Positional[str] = "runs"
    """Folder that holds the runs."""


def runs_command(arguments):
    from ssl_keras.training.compare import compare

    print(compare(pathlib.Path(_parse(Runs, "runs", arguments).folder)))


NAMES = [name.removesuffix("_command") for name in list(globals()) if name.endswith("_command")]
