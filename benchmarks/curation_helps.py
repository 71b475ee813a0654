"""Measures whether curation helps: the same network and steps on raw text, on each stage alone, and on all together.

    python benchmarks/curation_helps.py texts TREE PROSE MIXTURE    # about 8 hours on 2 cores
    python benchmarks/curation_helps.py epochs TREE                 # about 5 hours
    python benchmarks/curation_helps.py images CIFAR10_ZIP          # about 9 hours

Each run is written to curation_helps.json when it ends, and is not repeated, so a killed measurement resumes.
Estimates: a run of `causal_lm` takes 4 to 5 minutes, one of `contrastive` 30 to 40.

texts: TREE is a folder of documents, such as /usr/share/doc; PROSE and MIXTURE are two folders of test documents, named
before any loss is seen, which are decontaminated from TREE in every arm and never filtered. The measure is bits per
byte. Every arm trains on the same number of characters, drawn by the seed, with one tokenizer.

epochs: 5 MB with the tree's own copies and without, trained for several epochs. The measures are the held-out loss and
the fraction of generated sequences of 50 tokens that are verbatim in the training text.

images: CIFAR-10 files of which two classes are copied until they are 30% more, and 5% are blank; dirty, curated, and
clean. The measures are kNN accuracy and a linear probe.
"""

import argparse
import dataclasses
import gzip
import json
import pathlib
import shutil
import sys
import zipfile

import numpy as np

from ssl_keras.startup import start_tensorflow

start_tensorflow()

from ssl_keras import files
from ssl_keras.curation.curate import curate
from ssl_keras.curation.engines import Local
from ssl_keras.curation.items import read
from ssl_keras.curation.listing import listing
from ssl_keras.curation.settings import Settings
from ssl_keras.data import tokenizer
from ssl_keras.data.readers.text import documents
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.encoders import load_encoder, load_tokenizer
from ssl_keras.evaluation import features, probes
from ssl_keras.inference import generation
from ssl_keras.objectives import causal_lm, contrastive
from ssl_keras.training.pretrain import pretrain

OUT, WORK = pathlib.Path(__file__).with_suffix(".json"), pathlib.Path("results/curation_helps")
SEEDS = range(5)
LETTERS, CHARACTERS, SMALL = 20_000, 10_000_000, 5_000_000  # of a document, of an arm, of `epochs`
STEPS, EPOCH_STEPS, VERBATIM, GENERATED = 2_000, 8_000, 50, 64  # steps; tokens of a sequence; texts that are generated
NONE = {"rules": ("off",), "parts": (1.0,), "near": 0.0}
ARMS = {
    "exact": Settings(**NONE),
    "exact + near": Settings(**NONE | {"near": 0.8}),
    "exact + rules": Settings(**NONE | {"rules": ("gopher", "markup")}),
    "exact + near + rules": Settings(parts=(1.0,)),
}


def measured(key, smoke, measure, *arguments):
    """Measures a run, unless the file has it already; adds it to the file."""
    path = OUT.with_name("curation_helps-smoke.json") if smoke else OUT
    done = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if key not in done:
        result = measure(*arguments)
        files.write_json(path, done | {key: result})
        done[key] = result
    print(key, done[key], flush=True)


def read_tree(tree):
    """Returns {relative path: text} of the text files of a tree, their first `LETTERS` characters."""
    items = (item for shard in listing([f"text:{tree}"]).shards for item in read(shard, "text"))
    return {item.name: item.content[:LETTERS] for item in items if not item.problem}


def write_tree(folder, texts):
    """Writes texts as JSON lines, which are curated faster than files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}) + "\n" for _, text in sorted(texts.items())]
    files.write(folder / "documents.jsonl", "".join(lines))


def curated(name, settings, against):
    """Returns (the texts that a curation of WORK/raw keeps, the texts that only decontamination would keep)."""
    out = WORK / name.replace(" ", "")
    if not (out / "curation.json").exists():
        curate([f"text:{WORK}/raw"], out, settings, Local(), against)
    splits = load(f"curated:{out}")
    kept = [text for source in splits for text in source.column("text")]
    with gzip.open(out / "removed.jsonl.gz") as file:
        gone = {row["name"] for row in map(json.loads, file) if row["reason"].startswith("evaluation")}
    items = (item for shard in listing([f"text:{WORK}/raw"]).shards for item in read(shard, "text"))
    return kept, [item.content for item in items if not item.problem and item.name not in gone]


def drawn(texts, seed, characters):
    """Returns texts in an order of the seed, `characters` together or all."""
    chosen, size = [], 0
    for row in np.random.default_rng(seed).permutation(len(texts)):
        if size >= characters:
            break
        chosen.append(texts[row][: characters - size])
        size += len(chosen[-1])
    return chosen


def train_language_model(name, texts, validation, test, seed, steps):
    """Returns the outcome of a run of `causal_lm`; validation is measured once, at the end, so that it chooses nothing.

    All arms use one tokenizer, trained on the raw text.
    """
    splits = Splits(
        *(
            documents(f"{name}-{part}", each)
            for part, each in (("train", texts), ("validation", validation), ("test", test))
        )
    )
    training = dataclasses.replace(
        causal_lm.DEFAULTS, steps=steps, eval_every=steps, seed=seed, tensorboard=False, run=f"curation-{name}-{seed}"
    )
    shutil.rmtree(pathlib.Path("runs") / training.run, ignore_errors=True)
    settings = causal_lm.Settings(layers=2, tokenizer=str(WORK / "tokenizer.json"))
    outcome = pretrain("causal_lm", settings, training, splits)
    return {key: value for key, value in outcome.items() if isinstance(value, int | float)} | {
        "folder": outcome["folder"]
    }


def make_tokenizer(texts):
    if not (WORK / "tokenizer.json").exists():
        files.write(WORK / "tokenizer.json", tokenizer.train("bpe", texts, 2_048, "curation_helps").json)


def measure_texts(tree, prose, mixture, smoke):
    """Bits per byte on two test sets: as validation the prose, as test the mixture."""
    tests = [list(read_tree(path).values())[: 20 if smoke else None] for path in (prose, mixture)]
    raw = read_tree(tree)
    write_tree(WORK / "raw", dict(list(raw.items())[:300]) if smoke else raw)
    against, arms = [f"text:{prose}", f"text:{mixture}"], {}
    for name, settings in ARMS.items():
        arms[name], arms["raw"] = curated(name, settings, against)
    make_tokenizer(drawn(arms["raw"], 0, CHARACTERS))
    for seed in [0] if smoke else SEEDS:
        for name, texts in arms.items():
            chosen = drawn(texts, seed, 200_000 if smoke else CHARACTERS)
            run = name.replace(" + ", "-")
            arguments = run, chosen, *tests, seed, 10 if smoke else STEPS
            measured(f"texts, {name}, seed {seed}", smoke, train_language_model, *arguments)


def measure_epochs(tree, smoke):
    """Held-out loss, and how much of generated text is verbatim in the training text, after several epochs."""
    raw = read_tree(tree)
    names = sorted(raw)
    held_out = [raw[name] for name in names[::10]][: 20 if smoke else 400]
    write_tree(WORK / "held_out", {str(number): text for number, text in enumerate(held_out)})
    write_tree(WORK / "raw", {name: raw[name] for number, name in enumerate(names) if number % 10})
    against = [f"text:{WORK}/held_out"]
    without, with_copies = curated("epochs", ARMS["exact + near"], against)
    make_tokenizer(drawn(with_copies, 0, CHARACTERS))
    for seed in [0] if smoke else SEEDS:
        for name, texts in (("with copies", with_copies), ("without copies", without)):
            chosen = drawn(texts, seed, 100_000 if smoke else SMALL)
            arguments = name.replace(" ", "-"), chosen, held_out, seed, smoke
            measured(f"epochs, {name}, seed {seed}", smoke, _verbatim, *arguments)


def _verbatim(name, texts, held_out, seed, smoke):
    outcome = train_language_model(name, texts, held_out, held_out, seed, 10 if smoke else EPOCH_STEPS)
    folder = pathlib.Path(outcome.pop("folder")) / "encoder"
    encoder, words = load_encoder(folder), load_tokenizer(folder)
    made = generation.write(encoder, words, "", 100, count=2 if smoke else GENERATED, seed=seed)
    known = set(_sequences(words.encode(texts)))
    grams = list(_sequences(words.encode(made)))
    return outcome | {"verbatim": sum(gram in known for gram in grams) / max(len(grams), 1)}


def _sequences(texts):
    """Yields the bytes of all sequences of `VERBATIM` tokens of texts."""
    for ids in texts:
        ids = np.array(ids, np.int32)
        yield from (ids[start : start + VERBATIM].tobytes() for start in range(len(ids) - VERBATIM + 1))


def measure_images(archive, smoke):
    """kNN and linear-probe accuracy of `contrastive` on clean labeled images, after training on three versions."""
    folders = _image_folders(archive, 200 if smoke else 8_000)
    for seed in [0] if smoke else SEEDS:
        for name, folder in folders.items():
            measured(f"images, {name}, seed {seed}", smoke, _contrastive, name, folder, folders["clean"], seed, smoke)


def _image_folders(archive, count):
    """Writes the clean and the dirty images, and curates the dirty ones; returns {version: dataset}."""
    clean, dirty, random = WORK / "clean", WORK / "dirty", np.random.default_rng(0)
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.endswith(".jpg"))
        names = [names[row] for row in random.permutation(len(names))[:count]]
        classes = sorted({name.split("/")[-2] for name in names})
        for name in names:
            kind, content = name.split("/")[-2], packed.read(name)
            copies = [] if kind not in classes[:2] else range(3 if random.random() < 0.5 else 0)
            for place, suffix in [(clean, ""), (dirty, ""), *((dirty, f"-{n}") for n in copies)]:
                path = place / kind / f"{pathlib.Path(name).stem}{suffix}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content if not suffix else _recompressed(content, 60 + 15 * int(suffix[1:])))
    for number in range(count // 20):
        path = dirty / classes[number % len(classes)] / f"blank{number}.png"
        _blank(path, number)
    if not (WORK / "images" / "curation.json").exists():
        curate([f"folder:{dirty}"], WORK / "images", Settings(), Local())
    return {"clean": f"folder:{clean}", "dirty": f"folder:{dirty}", "curated": f"curated:{WORK}/images"}


def _recompressed(content, quality):
    import io

    from PIL import Image

    made = io.BytesIO()
    Image.open(io.BytesIO(content)).save(made, "jpeg", quality=quality)
    return made.getvalue()


def _blank(path, number):
    from PIL import Image

    Image.new("RGB", (32, 32), (number % 256, 40, 200)).save(path)


def _contrastive(name, data, clean, seed, smoke):
    training = dataclasses.replace(
        contrastive.DEFAULTS,
        epochs=0,
        steps=4 if smoke else 3_000,
        eval_every=4 if smoke else 3_000,
        seed=seed,
        batch_size=32 if smoke else 256,
        tensorboard=False,
        run=f"curation-images-{name}-{seed}",
    )
    shutil.rmtree(pathlib.Path("runs") / training.run, ignore_errors=True)
    outcome = pretrain("contrastive", None, training, load(data, 32))
    splits, encoder = load(clean, 32), load_encoder(pathlib.Path(outcome["folder"]) / "encoder")
    (x, y), (vx, vy), (tx, ty) = [(features.extract_features(encoder, part), part.column("label")) for part in splits]
    return {"kNN": float(probes.knn(x, y, tx, ty)), "linear probe": probes.linear_probe(x, y, vx, vy, tx, ty)[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["texts", "epochs", "images"])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, in a file of its own")
    asked = parser.parse_args()
    WORK = WORK.with_name(f"{WORK.name}-{asked.what}{'-smoke' if asked.smoke else ''}")
    wanted = {"texts": 3, "epochs": 1, "images": 1}[asked.what]
    if len(asked.paths) != wanted:
        sys.exit(f"Expected {wanted} paths. Received: {len(asked.paths)}. See --help.")
    {"texts": measure_texts, "epochs": measure_epochs, "images": measure_images}[asked.what](*asked.paths, asked.smoke)
