"""Curation of a large dataset: the stages in order, and what a killed run resumes from.

1. measure: of each example its values, sketches and hash; those beyond a threshold, in another language or with
   sequences of an evaluation dataset are removed.
2. exact: of equal examples one stays.
3. near: of similar examples one stays; what is removed is similar to one that stays.
4. split: near copies of each other, also indirect ones, are in one split.
5. write: a shard of the input becomes a shard of each split.

Rules come before copies, so that no example is removed in favor of one that a rule removes.
"""

import dataclasses
import functools
import json
import logging
import re
import shutil

import numpy as np

from ssl_keras import files
from ssl_keras.curation import stages
from ssl_keras.curation.decide import Examples
from ssl_keras.curation.engines import partition_count
from ssl_keras.curation.items import NOT_TEXT, UNREADABLE
from ssl_keras.curation.listing import SHARD, listing
from ssl_keras.curation.measure import NAMES, REASONS
from ssl_keras.curation.settings import PARTS
from ssl_keras.curation.writing import DONE, write
from ssl_keras.data.near_duplicates.images import fitted_detail
from ssl_keras.files import locks

PARTIAL = "curation.partial.json"
PASSES = 3  # of `near`: in each, those that are still kept are compared
SAMPLE = 50_000  # images by which the threshold of details is fitted
MAX_UNREADABLE = 0.5  # a larger fraction of an input that is not text or cannot be read is an error
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a curation: the settings as JSON, the funnel {reason: number}, the examples of each split, and
    numbers for the report."""

    settings: dict
    funnel: dict
    splits: dict
    examples: Examples
    group: np.ndarray
    near_detail: float | None
    not_compared: int


def curate(inputs, out, settings, engine, against=(), dry_run=False, shard_bytes=SHARD, look=None):
    """Curates datasets into a folder, or resumes that.

    Args:
        inputs, against: names of datasets, to curate and to decontaminate from.
        out: the folder of the result. dry_run: whether to write nothing but the work that `look` sees.
        engine: `Local` or `Beam`.
        look: function (folder of work, `Result`) that is called before the work is removed, for a report.

    Returns:
        `Result`.

    Raises:
        ValueError: An input or setting is wrong, `out` has other settings, nothing is left, or a file has changed.
        OSError: The disk is full.
    """
    settings.check()
    wanted = json.loads(json.dumps({"inputs": list(inputs), "against": list(against)} | dataclasses.asdict(settings)))
    _check_out(out, wanted)
    files.make_folder(out)
    with locks.alone_in(out, "another --out"):
        if (out / DONE).exists():
            _clear(out)  # a run was killed while it did that
        _check_out(out, wanted)  # another process may have completed it meanwhile
        for left in out.glob(".*.partial"):  # of a run that was killed
            left.unlink()
        files.write_json(out / PARTIAL, wanted)
        work = out / "work"
        work.mkdir(exist_ok=True)
        _plan(work, inputs, against, shard_bytes)
        result = _decide(work, wanted, settings, engine)
        if look is not None:
            look(work, result)
        if not dry_run:
            write(work, out, settings, engine, result)
        _clear(out)
    return result


def _clear(out):
    """Removes what a run resumes from."""
    shutil.rmtree(out / "work", ignore_errors=True)
    (out / PARTIAL).unlink(missing_ok=True)


def _check_out(out, wanted):
    """Raises ValueError if a folder is complete, or is neither empty nor of a curation with these settings."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another --out.")
    known = next((out / name for name in (DONE, PARTIAL) if (out / name).exists()), None)
    if known is None:
        if any(path.name != locks.NAME and not path.match(".*.partial") for path in out.iterdir()):
            raise ValueError(f"{out} is not empty, and is not a curation. Choose another --out.")
        return
    try:
        before = json.loads(known.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{known} is damaged. Choose another --out, or remove the folder.") from error
    before = before.get("settings", before)
    other = sorted(name for name in before.keys() | wanted.keys() if before.get(name) != wanted.get(name))
    if other:
        raise ValueError(f"{out} is a curation with other settings: {', '.join(other)}. Choose another --out.")
    if known.name == DONE and not (out / PARTIAL).exists():
        raise ValueError(f"{out} is complete. Choose another --out, or remove it.")


def _plan(work, inputs, against, shard_bytes):
    """Lists the inputs once; a resumed run keeps the list, so that files which are added meanwhile change nothing."""
    if (work / "plan.json").exists():
        return
    found = listing(inputs, shard_bytes)
    reference = listing(against, shard_bytes) if against else None
    if reference is not None and reference.kind != found.kind:
        raise ValueError(
            f"Expected --against of the kind of the inputs, {found.kind}. Received: {reference.kind}. Leave it out."
        )
    if reference is not None:
        reference = dataclasses.replace(reference, rate=found.rate)
    plan = [each and dataclasses.asdict(each) for each in (reference, found)]
    files.write(work / "plan.json", json.dumps(plan))


def _decide(work, wanted, settings, engine):
    reference, found = stages.read_plan(work)
    paths = []
    for is_reference, each in ((True, reference), (False, found)):
        numbers = range(len(each.shards)) if each else range(0)
        if each:
            log.info("measuring %d shards%s", len(numbers), " of evaluation datasets" if is_reference else "")
        engine.each(functools.partial(stages.measure_shard, work, settings, is_reference), numbers)
        paths += [stages.features_path(work, number, is_reference) for number in numbers]
        if is_reference and each and each.kind == "text":
            _join_grams(work, paths)
    _check_readable(found, paths[len(reference.shards) if reference else 0 :])
    examples, counts = _gather(paths, len(reference.shards) if reference else 0)
    if not len(examples.ids) - examples.references:
        raise ValueError(f"{', '.join(wanted['inputs'])}: no examples. Expected at least one.")
    stages.collect(work, paths, counts)
    examples.order(settings.keep)
    stages.save(work / "rank.npy", array=examples.rank)
    stages.save(work / "by_rank.npy", array=examples.by_rank)
    first = np.cumsum(counts) - counts
    stages.save(work / "first.npy", array=first[len(reference.shards) if reference else 0 :])
    shards = list(zip(paths, first.tolist()))
    detail = settings.near_detail
    if (work / "detail.npy").exists() and detail is None:
        detail = _fitted(work, examples)
        settings = dataclasses.replace(settings, near_detail=detail)
    pairs, left = [], 0
    made, _ = _pairs(work, engine, "exact", "exact", settings, shards, examples)
    examples.remove(made, "exact copy")
    pairs.append(made)
    if settings.near and found.kind != "audio":  # two takes of a word are as alike as two copies
        near, left = _near(work, engine, settings, shards, examples)
        pairs.append(near)
    group = examples.split(np.concatenate(pairs), settings.parts)
    _warn_of_strict_rules(found.kind, examples.funnel())
    names = PARTS[: len(settings.parts)]
    splits = {name: int((examples.part == number).sum()) for number, name in enumerate(names)}
    return Result(wanted, examples.funnel(), splits, examples, group, detail, left)


def _warn_of_strict_rules(kind, funnel):
    """Logs a warning for each rule that removes more than half of the examples: it may not fit the data."""
    total = sum(funnel.values())
    for rule, count in funnel.items():
        if rule in NAMES[kind] and count > total / 2:
            log.warning(
                "%s removes %d of %d examples. If these are good%s, change --%s, or use --rules off.",
                rule,
                count,
                total,
                " (Gopher's rules are for documents, not for short texts)" if rule == "words" else "",
                re.sub(r"_\d+$", "", rule).replace("_", "-"),
            )


def _join_grams(work, paths):
    """Joins the word sequences of evaluation texts, sorted."""
    if not (work / "grams.npy").exists():
        parts = []
        for path in paths:
            with np.load(path) as features:
                parts.append(features["grams"])
        stages.save(work / "grams.npy", array=np.unique(np.concatenate(parts)))


def _check_readable(found, paths):
    """Raises ValueError if most examples of an input are not text, or cannot be read."""
    bad, total = {}, {}
    codes = [REASONS.index(reason) for reason in (NOT_TEXT, UNREADABLE)]
    for shard, path in zip(found.shards, paths):
        with np.load(path) as features:
            wrong = np.isin(features["reason"], codes)
            bad.setdefault(shard["input"], []).extend(
                stages.names_of(features)[row] for row in np.flatnonzero(wrong)[:3]
            )
            total[shard["input"]] = total.get(shard["input"], np.zeros(2, int)) + (wrong.sum(), len(wrong))
    for name, (wrong, count) in total.items():
        if wrong > MAX_UNREADABLE * count:
            shown = ", ".join(map(files.printable, bad[name][:3]))
            raise ValueError(
                f"{name}: {wrong} of {count} examples cannot be read or are not text: {shown}. Expected UTF-8 text, "
                "images or audio. Leave out, repair or convert these files."
            )


def _gather(paths, references):
    """Returns (`Examples`, the number of examples of each shard)."""
    found = {name: [] for name in ("id", "size", "reason", "value")}
    for path in paths:
        with np.load(path) as features:
            for name, parts in found.items():
                parts.append(features[name])
    counts = np.array([len(each) for each in found["id"]])
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return Examples(*joined.values(), int(counts[:references].sum())), counts


def _fitted(work, examples):
    """Returns the threshold of details that the inputs' own images decide."""
    rows = np.flatnonzero(examples.alive & (np.arange(len(examples.ids)) >= examples.references))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int))] if len(rows) else rows
    return fitted_detail(np.load(work / "detail.npy", mmap_mode="r")[rows])


def _pairs(work, engine, stage, name, settings, shards, examples):
    """Returns (pairs of ranks of copies among the examples that are alive, the number that were not compared)."""
    stages.save(work / "alive.npy", array=examples.alive)
    factor = {"exact": 1, "near": 48 if (work / "detail.npy").exists() else 20, "short": 30}[stage]
    count = partition_count(int(examples.alive.sum()) * factor)
    paths = [work / f"{name}-{number:05}.npz" for number in range(count)]
    if not all(path.exists() for path in paths):
        mapping = functools.partial(stages.records_of, work, stage)
        reducing = functools.partial(stages.pair_up, work, stage, name, settings)
        engine.grouped(mapping, shards, reducing, count, work / f"{name}-records")
    made, left = [np.zeros((0, 2), np.int64)], 0
    for path in paths:
        with np.load(path) as found:
            made.append(found["pairs"])
            left += int(found["left"])
    return np.unique(np.concatenate(made), axis=0), left


def _near(work, engine, settings, shards, examples):
    """Removes near copies, and returns (pairs of ranks, the number of records that were not compared).

    In a bucket an example may be compared only with one that is removed itself, so those that are left are compared
    again.
    """
    before, pairs, left = examples.reason.copy(), np.zeros((0, 2), np.int64), 0
    kinds = ("near", "short") if (work / "short.bin").exists() else ("near",)
    for number in range(PASSES):
        found = []
        for kind in kinds:
            made, more = _pairs(work, engine, kind, f"{kind}-pass{number}", settings, shards, examples)
            found.append(made)
            left += more if number == 0 else 0
        if not sum(map(len, found)):
            break
        pairs = np.unique(np.concatenate([pairs, *found]), axis=0)
        examples.near[(before == 0) & (examples.near >= 0)] = -1
        examples.reason[:] = before
        examples.remove(pairs, "near copy")
    return pairs, left
