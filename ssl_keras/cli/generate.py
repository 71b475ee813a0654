"""Commands that generate: `sample`, `fidelity`, `fill`."""

import dataclasses
import io
import pathlib
from typing import Annotated, Literal

import numpy as np
import tensorflow as tf

from ssl_keras import encoders, files
from ssl_keras.cli.flags import DataFlags, EncoderArgument, OverwriteFlag, Positional, RecordFlag, parse
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation import generative
from ssl_keras.inference import generation, sampling
from ssl_keras.modalities import language
from ssl_keras.pictures import png, square_grid, to_uint8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(EncoderArgument, OverwriteFlag):
    """Text from a causal language model, or images from a DCGAN."""

    count: Annotated[int, Range(0)] = 0
    """Number of texts or images or, with --steps, of rows of images. 0 means 1 text, or 64 images or rows."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Random seed; for text, less than 2147483648. The i-th image depends only on the seed and i."""
    out: str = ""
    """File to write. For text, a JSON list of strings; by default none. For images, a PNG file (.png), or a NumPy file
    (.npy) with a uint8 array (N, H, W, C); by default samples.png."""
    prompt: str = ""
    """Prompt that the text continues. By default, the text begins as a new document. Text only."""
    length: Annotated[int, Range(1)] = 200
    """Maximum number of tokens to generate. Text only."""
    temperature: Annotated[float, Range(0)] = 1.0
    """Sampling temperature, which divides the logits. Lower values are less random; 0 is greedy decoding. Text only."""
    top_k: Annotated[int, Range(0)] = 0
    """Top-k sampling: number of most likely tokens to sample from. 0 means all. Text only."""
    top_p: Annotated[float, Range(0, 1, open="low")] = 1.0
    """Nucleus sampling: total probability of the most likely tokens to sample from. 1 means all. Text only."""
    stop: str = ""
    """String that ends a text. Without it, only the end of a document ends a text early. Text only."""
    jit: bool = False
    """Compile with XLA, which is faster for long texts. The same seed then gives other texts. Text only."""
    steps: Annotated[int, Range(2)] | Literal[0] = 0
    """Number of images in a row that interpolates between two latent vectors. 0 samples independent images. Images
    only."""


KINDS = {"causal_lm": ("prompt", "length", "temperature", "top_k", "top_p", "stop", "jit"), "dcgan": ("steps",)}


def _kind(card):
    """Returns the entry of KINDS that a saved encoder can be sampled as, or None."""
    if cards.is_a(card, "generator"):
        return "dcgan"
    return "causal_lm" if cards.is_a(card, "transformer") and card["network"]["causal"] else None


def sample_command(arguments):
    asked = parse(Sample, "sample", arguments)
    kind = _kind(cards.read(encoders.find(asked.encoder)))
    if kind is None:
        raise ValueError(f"Expected an encoder of {' or '.join(KINDS)}. Received: {asked.encoder}")
    foreign = [name for other, names in KINDS.items() if other != kind for name in names]
    given = [name for name in foreign if getattr(asked, name) != getattr(Sample, name)]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{asked.encoder} is an encoder of {kind}, which does not take {flags}. Remove {flags}.")
    (_sample_text if kind == "causal_lm" else _sample_images)(asked)


def _sample_text(asked):
    if asked.out:
        files.check_output(asked.out, asked.overwrite)
    encoder, head, _ = encoders.load_with_head(asked.encoder)
    texts = generation.write(
        encoder,
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
        head=language.token_head(encoder, head),
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
        rows = sampling.interpolate(generator, count, asked.steps, asked.seed)
    else:
        rows = square_grid(sampling.sample(generator, count, asked.seed))
    if out.suffix == ".png":
        files.write(out, png(rows))
    else:
        content = io.BytesIO()
        np.save(content, to_uint8(tf.concat(rows, 0)[: count * max(asked.steps, 1)]))
        files.write(out, content.getvalue())
    print(out)


FIDELITY_FILES = ("table.md", "table.json", "samples.png", "neighbors.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fidelity(EncoderArgument, DataFlags, RecordFlag, OverwriteFlag):
    """Images of a saved DCGAN, compared with real ones on the features of a saved classifier."""

    classifier: str
    """Name or path of a saved classifier, whose features are compared. Train one with `ssl-keras pretrain
    classifier`."""
    count: Annotated[int, Range(1)] = 10_000
    """Number of images to generate."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of the latent vectors."""
    out: str = ""
    """Folder for the table and the image grids. By default results/ENCODER-fidelity."""


def fidelity_command(arguments):
    asked = parse(Fidelity, "fidelity", arguments)
    sampling.check_seed(asked.seed)
    generator, classifier = sampling.load_generator(asked.encoder), generative.FeatureClassifier(asked.classifier)
    card = cards.read(encoders.find(asked.encoder))
    splits = load(asked.data, asked.image_size)
    for each in (card, classifier.card):
        cards.check_image_shape(each, splits.train)
    generative.check(asked.count, splits)
    folder = pathlib.Path(asked.out or f"results/{card['name']}-fidelity")
    for name in FIDELITY_FILES:
        files.check_output(folder / name, asked.overwrite)
    files.make_folder(folder)
    generated = to_uint8(sampling.sample(generator, asked.count, asked.seed))
    table = generative.measure(classifier, generated, splits)
    about = classifier.about | {"beside": splits.test.name, "images": len(splits.test), "seed": asked.seed}
    text = ", ".join(f"{key}: {value}" for key, value in about.items()) + f"\n\n{generative.markdown(table)}"
    print(text)
    files.write(folder / "table.md", f"{card['name']}; {text}")
    result = {"measured with": about, "table": table}
    files.write_json(folder / "table.json", result)
    files.write(folder / "samples.png", png(square_grid(generated[:100] / np.float32(255))))
    files.write(
        folder / "neighbors.png", png(generative.neighbors(classifier, generated, splits.train.column("image")))
    )
    print(f"Saved in {folder}: {', '.join(FIDELITY_FILES)}")
    if asked.record:
        encoders.record(asked.encoder, f"fidelity, {asked.data}", result)


@dataclasses.dataclass(frozen=True)
class Fill(EncoderArgument):
    """Predictions for the [MASK] tokens of a text."""

    text: Positional[str]
    """Text with [MASK] in place of each token to predict, or the mask token of an imported tokenizer (<mask>)."""
    top: Annotated[int, Range(1)] = 5
    """Number of predictions to print for each [MASK]."""


def fill_command(arguments):
    asked = parse(Fill, "fill", arguments)
    network, output, card = encoders.load_with_head(asked.encoder)
    if not cards.is_a(card, "masked_head"):
        raise ValueError(
            f"{card['name']} has no head for masked tokens. Use: ssl-keras pretrain masked_lm --init {asked.encoder}"
        )
    tokenizer = encoders.load_tokenizer(asked.encoder)
    for number, guesses in enumerate(generation.fill(network, output, tokenizer, asked.text, asked.top), 1):
        print(f"[MASK] {number}: " + ", ".join(f"{text!r} {probability:.1%}" for text, probability in guesses))
