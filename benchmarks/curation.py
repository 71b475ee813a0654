"""Measures curation: what is found of constructed and real copies, what good text is lost, and how fast it is.

    python benchmarks/curation.py TREE [NAME …]     # such as /usr/share/doc; 20 CPU-minutes in all on one core

Each measurement is written to curation.json, by the name of the tree, when it is done, and is not repeated. NAME
selects some of `MEASUREMENTS`. A peak of memory is that of the process, so measure it alone.
Times are process time of one core. Images are measured with CIFAR10_ZIP=cifar10_jpg_10k.zip and Fashion-MNIST.
"""

import gzip
import io
import json
import os
import pathlib
import resource
import sys
import tempfile
import time
import zipfile

import numpy as np
import scipy.io.wavfile
from scipy.sparse import csr_array

from ssl_keras import files
from ssl_keras.curation import engines, quality, rules
from ssl_keras.curation.curate import curate
from ssl_keras.curation.engines import Local
from ssl_keras.curation.settings import Settings
from ssl_keras.data.near_duplicates import edits as edit_ratio
from ssl_keras.data.near_duplicates import grouping, images, sketching, texts

OUT = pathlib.Path(__file__).with_suffix(".json")
DOCUMENTS, LETTERS = 2_000, 20_000  # of a tree, and of each document
EDITS = ("1% of words", "2% of words", "5% of words", "boilerplate", "cut to 90%", "case and punctuation")


def documents(tree, count=DOCUMENTS):
    """Returns texts of a tree, at most `count`, evenly spaced among its files."""
    paths = sorted(path for path in pathlib.Path(tree).rglob("*") if path.is_file() and not path.is_symlink())
    paths = [path for path in paths if path.suffix in ("", ".txt", ".md", ".rst", ".gz", ".html")]
    found = []
    for path in paths[:: max(1, len(paths) // (2 * count))]:
        try:
            content = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read(LETTERS)
            text = content.decode()
        except (OSError, EOFError, UnicodeDecodeError):
            continue
        if len(text.split()) >= 100 and "\0" not in text:
            found.append(text)
    return found[:count]


def sketched(some):
    made = [sketching.sketches(*texts.token_shingles(*texts.tokens([texts.fold(each)])), 1) for each in some]
    made = np.concatenate(made)
    return sketching.compact(made), sketching.keys(made, *texts.DOCUMENT_BANDS)


def shingle_sets(some):
    """Returns a sparse matrix (N, S) of which text has which shingle, and the sizes of the sets."""
    rows = [np.unique(texts.token_shingles(*texts.tokens([texts.fold(each)]))[0]) for each in some]
    _, columns = np.unique(np.concatenate(rows), return_inverse=True)
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return csr_array((np.ones(len(owners), np.int32), (owners, columns))), np.array([len(row) for row in rows])


def edited(text, kind, random, vocabulary):
    words = text.split()
    if kind.endswith("words"):
        for place in np.flatnonzero(random.random(len(words)) < float(kind.partition("%")[0]) / 100):
            words[place] = vocabulary[random.integers(len(vocabulary))]
        return " ".join(words)
    if kind == "boilerplate":
        return " ".join([*vocabulary[:60], *words, *vocabulary[60:120]])
    return " ".join(words[: int(0.9 * len(words))]) if kind == "cut to 90%" else text.upper().replace(",", " ;")


def constructed(tree):
    """Recall of one edit of each document, by its true Jaccard similarity."""
    some, random = documents(tree), np.random.default_rng(0)
    vocabulary = sorted({word for text in some[:100] for word in text.split()})
    kinds = [EDITS[number % len(EDITS)] for number in range(len(some))]
    others = [edited(text, kind, random, vocabulary) for text, kind in zip(some, kinds)]
    both, sizes = shingle_sets(some + others)
    count = len(some)
    common = np.asarray(both[:count].multiply(both[count:]).sum(1)).ravel()
    true = common / (sizes[:count] + sizes[count:] - common)
    (a, a_keys), (b, b_keys) = sketched(some), sketched(others)
    candidate, estimate = (a_keys == b_keys).any(1), sketching.agreement(a, b)
    found = candidate & sketching.similar(a, b, 0.8)
    shares = {
        f"J ≥ {least}": {
            "documents": int((true >= least).sum()),
            "candidates": float(candidate[true >= least].mean()),
            "removed at 0.8": float(found[true >= least].mean()),
        }
        for least in (0.8, 0.85, 0.9)
    }
    return {"documents": count, "error of the estimate (sd)": float((estimate - true).std())} | shares


def real(tree):
    """Recall and precision on a tree, with all pairs as the truth."""
    some = list({texts.normalize_text(text): text for text in documents(tree, 4_000)}.values())
    both, sizes = shingle_sets(some)
    products = (both @ both.T).tocoo()
    i, j = products.coords
    true = products.data / (sizes[i] + sizes[j] - products.data)
    pairs = {least: {(a, b) for a, b in zip(i[true >= least], j[true >= least]) if a < b} for least in (0.7, 0.8, 0.9)}
    small, keys = sketched(some)
    flat, members = keys.ravel(), np.repeat(np.arange(len(some)), keys.shape[1])
    found, left = grouping.bucket_pairs(flat, members, lambda a, b: np.ones(len(a), bool))
    shared = lambda a, b: bool((keys[a] == keys[b]).any())  # noqa: E731
    kept, _ = grouping.bucket_pairs(flat, members, lambda a, b: sketching.similar(small[a], small[b], 0.8))
    keeper = grouping.keepers(len(some), np.unique(kept, axis=0))
    gone = np.flatnonzero(keeper >= 0)
    greedy = grouping.keepers(len(some), np.array(sorted(pairs[0.8]), np.int64).reshape(-1, 2))
    near = {(min(a, b), max(a, b)) for a, b in zip(keeper[gone].tolist(), gone.tolist())}
    return {
        "documents": len(some),
        "pairs with J ≥ 0.8": len(pairs[0.8]),
        "candidates among pairs with J ≥ 0.8": sum(shared(a, b) for a, b in pairs[0.8]) / max(len(pairs[0.8]), 1),
        "candidates among pairs with J ≥ 0.9": sum(shared(a, b) for a, b in pairs[0.9]) / max(len(pairs[0.9]), 1),
        "removed": len(gone),
        "removed by the truth": int((greedy >= 0).sum()),
        "removed with J ≥ 0.7 to the kept one": len(near & pairs[0.7]) / max(len(near), 1),
        "removed with J ≥ 0.8 to the kept one": len(near & pairs[0.8]) / max(len(near), 1),
        "unverified candidates": len(np.unique(found, axis=0)),
        "not compared": left,
    }


def short(tree):
    """Recall and precision of short texts (lines of the tree), with all pairs of one edit each as the truth."""
    lines = [line.strip() for text in documents(tree, 500) for line in text.split("\n")]
    some = sorted({texts.normalize_text(line) for line in lines if 20 <= len(line) <= 100})[:3_000]
    random, others = np.random.default_rng(0), []
    for text in some:
        letters = list(text)
        for place in random.integers(0, len(letters), max(1, int(0.04 * len(letters)))):
            letters[place] = "abcdefghij"[random.integers(10)]
        others.append("".join(letters))
    similar, rows = edit_ratio(some, others, 90), np.arange(len(some))
    true = similar(rows, rows)
    keys = [
        sketching.keys(sketching.sketches(*texts.letter_shingles(each), len(each)), *texts.SHORT_BANDS)
        for each in (some, others)
    ]
    candidate = (keys[0] == keys[1]).any(1)
    return {"texts": len(some), "pairs with a ratio ≥ 90": int(true.sum()), "recall": float(candidate[true].mean())}


def pictures(_):
    """Found copies of CIFAR-10 images, originals lost, and what Fashion-MNIST loses."""
    from PIL import Image

    from ssl_keras.data.sources import load

    archive, random = zipfile.ZipFile(os.environ["CIFAR10_ZIP"]), np.random.default_rng(0)
    names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
    chosen = [names[row] for row in random.permutation(len(names))[:4_000]]
    some = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen]

    def jpeg(image, quality):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "jpeg", quality=quality)
        return np.asarray(Image.open(content))

    def resized(image):
        large = Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC)
        return np.asarray(large.resize((32, 32), Image.Resampling.BICUBIC))

    changes = {
        "JPEG quality 75": lambda image: jpeg(image, 75),
        "JPEG quality 30": lambda image: jpeg(image, 30),
        "resized": resized,
        "brightness +25": lambda image: np.clip(image.astype(int) + 25, 0, 255).astype(np.uint8),
        "noise, sd 8": lambda image: np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8),
    }
    start = time.process_time()
    ours = images.sketches(some)
    rate, found = len(some) / (time.process_time() - start), {}
    for name, change in changes.items():
        theirs = images.sketches([change(image) for image in some[:1_000]])
        rows = np.arange(1_000)
        shared = (ours[2][:1_000] == theirs[2]).any(1)
        found[name] = float((shared & images.alike(ours, theirs)(rows, rows)).mean())
    pairs, _ = grouping.bucket_pairs(ours[2].ravel(), np.repeat(np.arange(len(some)), 48), images.alike(ours, ours))
    lost = float((grouping.keepers(len(some), pairs) >= 0).mean())
    fashion = images.sketches(load("tfds:fashion_mnist").train.column("image")[:20_000])
    detail = images.fitted_detail(fashion[1])
    similar = images.alike(fashion, fashion, detail=detail)
    pairs, _ = grouping.bucket_pairs(fashion[2].ravel(), np.repeat(np.arange(20_000), 48), similar)
    gone = float((grouping.keepers(20_000, pairs) >= 0).mean())
    about = {"threshold of details": detail, "lost of 20,000 Fashion-MNIST": gone}
    return {"found": found, "CIFAR-10 lost": lost, "images/s": rate} | about


def decontamination(tree):
    """Planted evaluation texts that are found, and unrelated documents that are lost. The evaluation texts are Python's
    documentation, since documents of a tree quote each other, as licenses are."""
    from pydoc_data.topics import topics

    planted, hosts, random = {}, documents(tree, 1_200), np.random.default_rng(0)
    evaluation = [text for _, text in sorted(topics.items()) if len(text.split()) >= 100]
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        for name in ("in", "eval"):
            (root / name).mkdir()
        for number, text in enumerate(hosts):
            (root / "in" / f"{number:05}.txt").write_text(text)
        for number, text in enumerate(evaluation):
            (root / "eval" / f"{number:05}.txt").write_text(text)
            words = text.split()
            place = int(random.integers(0, len(words) - 30))
            host = hosts[number].split()
            quote = [*host[: len(host) // 2], *map(str.upper, words[place : place + 30]), *host[len(host) // 2 :]]
            for kind, content in (
                ("whole", text.lower()),
                ("half", text[: len(text) // 2]),
                ("quote", " ".join(quote)),
            ):
                (root / "in" / f"{kind}-{number:05}.txt").write_text(content)
        inputs, settings = [f"text:{root}/in"], Settings(rules=("off",), parts=(1.0,), near=0)
        curate(inputs, root / "out", settings, Local(), [f"text:{root}/eval"])
        with gzip.open(root / "out" / "removed.jsonl.gz") as file:
            gone = {row["name"] for row in map(json.loads, file) if row["reason"].startswith("evaluation")}
    for kind in ("whole", "half", "quote"):
        planted[kind] = sum(name.startswith(kind) for name in gone) / len(evaluation)
    return planted | {"unrelated documents lost": sum(name[0].isdigit() for name in gone) / len(hosts)}


def false_alarms(tree):
    """The fraction of texts that each family of rules removes, of good text and of the tree, by the first reason."""
    from pydoc_data.topics import topics

    good = {"pydoc": [text for text in topics.values() if len(text.split()) >= 50], "tree": documents(tree)}
    pods = pathlib.Path("/usr/share/perl").rglob("*.pod")
    good["Perl's pods"] = [path.read_text(errors="replace")[:LETTERS] for path in pods]
    found = {}
    for name, some in good.items():
        reasons = {}
        for text in some:
            values = quality.text_values(text)
            tokens = texts.tokens_and_lengths([texts.fold(text)])
            values |= {key: float(each[0]) for key, each in quality.sequence_values(*tokens).items()}
            for family in ("gopher", "fineweb", "markup"):
                reason = rules.broken(values, rules.text_checks(rules.TextRules(), (family,), True))
                if reason:
                    reasons.setdefault(family, []).append(reason[0])
        found[name] = {"texts": len(some)} | {
            family: {"removed": len(each) / len(some)}
            | {reason: each.count(reason) / len(some) for reason in sorted(set(each), key=each.count)[::-1][:4]}
            for family, each in reasons.items()
        }
    return found


def throughput(tree):
    """Megabytes of text per second of one core in all stages, and the peak of memory."""
    some = documents(tree)
    size = sum(len(text.encode()) for text in some)
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        with open(root / "a.jsonl", "w") as file:
            for text in some:
                file.write(json.dumps({"text": text}) + "\n")
        found = {"megabytes": size / 1e6}
        for name, settings in (("default rules", Settings()), ("no rules", Settings(rules=("off",)))):
            start = time.process_time()
            curate([f"text:{root}/a.jsonl"], root / name.replace(" ", "-"), settings, Local())
            found[f"MB/s, {name}"] = size / 1e6 / (time.process_time() - start)
    return found | {"peak of memory in MiB": peak()}


def memory(_, count=1_000_000):
    """The peak of memory for a million documents of a kilobyte."""
    random = np.random.default_rng(0)
    vocabulary = np.array([f"w{number:04x}" for number in range(30_000)])
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary) / "a.jsonl"
        with open(path, "w") as file:
            for _ in range(count // 1_000):
                rows = vocabulary[random.integers(0, len(vocabulary), (1_000, 170))]
                file.writelines(json.dumps({"text": " ".join(row)}) + "\n" for row in rows)
        start = time.process_time()
        settings = Settings(rules=("off",), parts=(1.0,))
        result = curate([f"text:{path}"], pathlib.Path(temporary) / "out", settings, Local())
    seconds = time.process_time() - start
    found = {"documents": count, "kept": result.funnel[""], "CPU-seconds": seconds}
    return found | {"peak of memory in MiB": peak()}


def grouped(_, count=10_000_000):
    """The peak of memory in grouping ten million band records of a million examples, in keys of ten."""
    random, shards = np.random.default_rng(0), 100
    keys = random.integers(0, 2**63, count // 10, np.uint64)

    def mapping(shard):
        random = np.random.default_rng(shard)
        records = np.empty(count // shards, engines.RECORD)
        records["key"] = random.choice(keys, len(records))
        records["member"] = random.integers(0, count // 10, len(records))
        return records

    pairs = []

    def reducing(_, records):
        def similar(i, j):
            return (i + j) % 8 == 0

        pairs.append(len(grouping.bucket_pairs(records["key"], records["member"], similar)[0]))

    with tempfile.TemporaryDirectory() as temporary:
        start = time.process_time()
        partitions = engines.partition_count(count)
        Local().grouped(mapping, range(shards), reducing, partitions, pathlib.Path(temporary) / "records")
    found = {"records": count, "partitions": partitions, "pairs": sum(pairs)}
    return found | {"CPU-seconds": time.process_time() - start, "peak of memory in MiB": peak()}


def sound(_, clips=200, seconds=10, rate=16_000):
    """Seconds of audio that pass all stages in a second of one core."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        (root / "in").mkdir()
        for number in range(clips):
            samples = (3_000 * random.standard_normal(rate * seconds)).astype(np.int16)
            scipy.io.wavfile.write(root / "in" / f"{number}.wav", rate, samples)
        start = time.process_time()
        result = curate([f"audio:{root}/in"], root / "out", Settings(), Local())
        spent = time.process_time() - start
    return {"clips": clips, "kept": result.funnel[""], "times real time": clips * seconds / spent}


def peak():
    """Returns the peak of this process's memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASUREMENTS = {
    each.__name__: each
    for each in (
        constructed,
        real,
        short,
        decontamination,
        false_alarms,
        pictures,
        throughput,
        memory,
        grouped,
        sound,
    )
}


def main(tree, *names):
    results = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    done = results.setdefault(pathlib.Path(tree).name, {})
    for name in names or MEASUREMENTS:
        if name not in done:
            start = time.process_time()
            found = MEASUREMENTS[name](tree)
            done[name] = {"CPU-seconds of the measurement": time.process_time() - start} | found
            files.write_json(OUT, results)
        print(name, json.dumps(done[name], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
