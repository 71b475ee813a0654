"""Commands that generate: `sample`, `fidelity`, `fill`."""

import dataclasses
import io
import pathlib
from typing import Annotated, Literal

import numpy as np
import tensorflow as tf

from ssl_keras import encoders, files
from ssl_keras.cli.flags import DataFlags, OverwriteFlag, Positional, RecordFlag, parse
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation import generative
from ssl_keras.inference import generation, sampling
from ssl_keras.pictures import as_uint8, grid_of, png


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(OverwriteFlag):
    """Writes text with a causal language model, or makes images with a DCGAN."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    count: Annotated[int, Range(0)] = 0
    """Texts to write, 0 is 1; or images to make, 0 is 64 (with --steps, rows)."""
    seed: int = 0
    """Which draws; image i depends on the seed and i alone."""
    out: str = ""
    """Of text, a JSON file to write as well. Of images, the picture to write, default samples.png; or NAME.npy, uint8
    (N, H, W, C)."""
    prompt: str = ""
    """Text: how it begins; nothing: where a document begins."""
    length: int = 200
    """Text: tokens to write."""
    temperature: float = 1.0
    """Text: divides the logits: lower is surer; 0 takes the likeliest token every time."""
    top_k: int = 0
    """Text: draw from the k likeliest tokens; 0 is all."""
    top_p: float = 1.0
    """Text: draw from the likeliest tokens that have this probability together."""
    stop: str = ""
    """Text: end it where this comes up."""
    jit: bool = False
    """Text: compile with XLA: worth it for long texts; the draws are others."""
    steps: Annotated[int, Range(2)] | Literal[0] = 0
    """Images: go from one image to another in so many steps, a row each; 0 makes images that have nothing in common."""


KINDS = {"causal_lm": ("prompt", "length", "temperature", "top_k", "top_p", "stop", "jit"), "dcgan": ("steps",)}


def _kind(card):
    """Which of KINDS a saved encoder can be sampled as, or None."""
    if cards.is_a(card, "generator"):
        return "dcgan"
    return "causal_lm" if cards.is_a(card, "transformer") and card["network"]["causal"] else None


def sample_command(arguments):
    asked = parse(Sample, "sample", arguments)
    kind = _kind(cards.read(encoders.find(asked.encoder)))
    if kind is None:
        raise ValueError(f"sample is for encoders of {', '.join(KINDS)}. {asked.encoder} is none of these.")
    foreign = [name for other, names in KINDS.items() if other != kind for name in names]
    given = [name for name in foreign if getattr(asked, name) != getattr(Sample, name)]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{asked.encoder} is of {kind}, which does not take {flags}. Leave out {flags}.")
    (_sample_text if kind == "causal_lm" else _sample_images)(asked)


def _sample_text(asked):
    if asked.out:
        files.check_output(asked.out, asked.overwrite)
    texts = generation.write(
        encoders.load_encoder(asked.encoder),
        encoders.load_tokenizer(asked.encoder),
        asked.prompt,
        asked.length,
        count=asked.count or 1,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=asked.stop,
        jit=asked.jit,
    )
    print(files.printable("\n\n".join(texts), keep="\n\t"))
    if asked.out:
        files.write_json(pathlib.Path(asked.out), texts)


def _sample_images(asked):
    out, count = pathlib.Path(asked.out or "samples.png"), asked.count or 64
    sampling.check_seed(asked.seed)
    if out.suffix not in (".png", ".npy"):
        raise ValueError(f"out must end in .png or .npy. Received: {asked.out!r}")
    files.check_output(out, asked.overwrite)
    generator = sampling.load_generator(asked.encoder)
    if asked.steps:
        rows = sampling.between(generator, count, asked.steps, asked.seed)
    else:
        rows = grid_of(sampling.sample(generator, count, asked.seed))
    if out.suffix == ".png":
        files.write(out, png(rows))
    else:
        content = io.BytesIO()
        np.save(content, as_uint8(tf.concat(rows, 0)[: count * max(asked.steps, 1)]))
        files.write(out, content.getvalue())
    print(out)


FIDELITY_FILES = ("table.md", "table.json", "samples.png", "neighbors.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fidelity(DataFlags, RecordFlag, OverwriteFlag):
    """Measures the images of a saved DCGAN beside real ones, as a saved classifier sees them."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    classifier: str
    """A saved classifier's name or path: ssl-keras pretrain classifier makes one."""
    count: int = 10_000
    """Images to make."""
    seed: int = 0
    """Which latents."""
    out: str = ""
    """Folder for the table and pictures; default results/ENCODER-fidelity."""


def fidelity_command(arguments):
    """Prints and saves FID, KID, precision and recall, coverage, and the nearest training images."""
    asked = parse(Fidelity, "fidelity", arguments)
    sampling.check_seed(asked.seed)
    generator, judge = sampling.load_generator(asked.encoder), generative.FeatureClassifier(asked.classifier)
    card = cards.read(encoders.find(asked.encoder))
    splits = load(asked.data, asked.image_size)
    for each in (card, judge.card):
        cards.check_image_shape(each, splits.train)
    generative.check(asked.count, splits)
    folder = pathlib.Path(asked.out or f"results/{card['name']}-fidelity")
    for name in FIDELITY_FILES:
        files.check_output(folder / name, asked.overwrite)
    files.make_folder(folder)
    made = as_uint8(sampling.sample(generator, asked.count, asked.seed))
    table = generative.measure(judge, made, splits)
    about = judge.about | {"beside": splits.test.name, "images": len(splits.test), "seed": asked.seed}
    text = ", ".join(f"{key}: {value}" for key, value in about.items()) + f"\n\n{generative.markdown(table)}"
    print(text)
    files.write(folder / "table.md", f"{card['name']}; {text}")
    result = {"measured with": about, "table": table}
    files.write_json(folder / "table.json", result)
    files.write(folder / "samples.png", png(grid_of(made[:100] / np.float32(255))))
    files.write(folder / "neighbors.png", png(generative.neighbors(judge, made, splits.train.column("image"))))
    print(f"Saved in {folder}: {', '.join(FIDELITY_FILES)}")
    if asked.record:
        encoders.record(asked.encoder, f"fidelity, {asked.data}", result)


@dataclasses.dataclass(frozen=True)
class Fill:
    """Guesses the [MASK]s of a text."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    text: Positional[str]
    """With [MASK] in the place of each hidden token."""
    top: int = 5
    """Guesses for each."""


def fill_command(arguments):
    asked = parse(Fill, "fill", arguments)
    network, output, card = encoders.load_with_head(asked.encoder)
    if not cards.is_a(card, "masked_head"):
        raise ValueError(f"{card['name']} has no head for masked tokens. Pretrain it: --init {asked.encoder}")
    tokenizer = encoders.load_tokenizer(asked.encoder)
    for number, guesses in enumerate(generation.fill(network, output, tokenizer, asked.text, asked.top), 1):
        print(f"[MASK] {number}: " + ", ".join(f"{text!r} {share:.1%}" for text, share in guesses))
