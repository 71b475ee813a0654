"""Writes the tables of results and benchmarks into the pages, from what the measurements left.

    python docs/tables.py            rewrites every table
    python docs/tables.py --check    changes nothing; exits with 1 and names the tables that differ

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. Its numbers come from the encoders' cards
(saved_models/*/card.json), from the benchmarks (benchmarks/*.json) and, for runs that leave neither, from
benchmarks/measured.json, which is kept by hand.
"""

import json
import math
import pathlib
import re
import sys
from statistics import mean, stdev

from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ("README.md", *(f"docs/{page}.md" for page in ("results", "benchmarks", "cost", "interpretation", "curation")))
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

CARDS = {path.parent.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("saved_models/*/card.json"))}
BENCH = {path.stem: json.loads(path.read_text()) for path in ROOT.glob("benchmarks/*.json")}
MEASURED = BENCH["measured"]


# ----- From {row: {column: value}} to Markdown


def cell(value, form):
    """(number, text) of a number, of [mean, standard deviation], of {"median", "low", "high"}, or of a text."""
    if value is None or isinstance(value, str):
        return None, value or "–"
    scale, form = (100, ".1f") if form == "%" else (1, form)
    if isinstance(value, dict):
        value = [value[key] for key in ("median", "low", "high")]
    numbers = value if isinstance(value, list) else [value]
    first, *more = (f"{scale * each:{form}}" for each in numbers)
    if len(more) == 2:
        return numbers[0], f"{first} ({more[0]} to {more[1]})"
    return numbers[0], f"{first} ± {more[0]}" if more and numbers[1] else first


def grid(table, columns=None, forms="%", best=None, corner=""):
    """A table in Markdown.

    Args:
        table: {row: {column: value}}; a missing value is shown as "–".
        columns: {column: heading} of those to show, by default all.
        forms: the format of each column, or one for all; "%" shows a fraction in percent.
        best: min or max; the best number of each column is bold, and so are those that read the same.
        corner: the heading of the rows.
    """
    columns = columns or {column: column for found in table.values() for column in found}
    lines = [[corner, *columns.values()], ["---", *["---:"] * len(columns)], *([row] for row in table)]
    forms = forms.split() if " " in forms else [forms] * len(columns)
    for column, form in zip(columns, forms, strict=True):
        cells = [cell(found.get(column), form) for found in table.values()]
        numbers = [each for each in cells if each[0] is not None]
        winner = best(numbers)[1].split()[0] if best and numbers else None
        for line, (_, text) in zip(lines[2:], cells):
            line.append(f"**{text}**" if text.split()[0] == winner else text)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def accuracies(table, *columns):
    """A table that `ssl-keras evaluate` left: {row: {column: [mean, standard deviation]}}.

    Args:
        columns: further ones than of all labels; a number is one of labels per class.
    """
    rows = {}
    for row, found in table.items():
        name, _, how = row.partition(", ")
        kind = how.replace("frozen", "linear probe") or {"TF-IDF": "logistic regression"}.get(row, "linear probe")
        title = f"{name.partition('-')[0] if how else row}, {kind}"
        rows["the same network from scratch" if row == "scratch" else title] = found
    headings = {"kNN": "kNN, all labels", "all": "all labels"}
    for column in columns:
        key = f"{column} per class" if isinstance(column, int) else column
        headings[key] = key
    return grid(rows, headings, "%", max, "test accuracy, %")


def spread(values):
    """[mean, standard deviation] of numbers; one number alone is itself."""
    values = list(values)
    return [mean(values), stdev(values)] if len(values) > 1 else values[0]


def few_labels(budgets, baseline):
    """The rows and columns of a table of few labels; differences to the baseline are paired by label seed.

    The rows also have "…, label seeds", for tables whose rows differ in their seeds.

    Args:
        budgets: {labels per class: {row: {label seed: {"accuracy"}}}}; 0 labels per class are all labels.
        baseline: its row.
    """
    rows, columns = {}, {}
    for per_class, found in sorted(budgets.items(), key=lambda each: int(each[0]) or math.inf):
        column = f"{per_class} per class" if int(per_class) else "all labels"
        gain, first = f"{column}, minus {baseline}", found.get(baseline, {})
        columns |= {column: column, gain: gain}
        for row, runs in found.items():
            cells = rows.setdefault(row, {})
            cells[column] = spread(run["accuracy"] for run in runs.values())
            cells[f"{column}, label seeds"] = str(len(runs))
            gains = [run["accuracy"] - first[seed]["accuracy"] for seed, run in runs.items() if seed in first]
            if row != baseline and gains:
                cells[gain] = spread(gains)
    return rows, columns


def step_times(part, ours):
    """The rows of a table of training steps, from a part of benchmarks/causal_lm.json."""
    sizes, rows = dict(part), {}
    large = sizes.pop("GFLOP/s of 2048³ products")
    for size, found in sizes.items():
        rows[size] = {"ours, tokens/s": found["tokens/s"][ours], "ours, GFLOP/s": found["GFLOP/s of ours"]}
        rows[size] |= {f"{peer}: time over ours": times for peer, times in found["their time / ours"].items()}
    return rows | {"products of 2048 × 2048 matrices": {"ours, GFLOP/s": large}}


def change(values, baseline):
    """The mean change of numbers relative to those of a baseline, paired, in percent, with its 95% t-interval."""
    differences = [100 * (a - b) / mean(baseline) for a, b in zip(values, baseline, strict=True)]
    half = stats.t.ppf(0.975, len(differences) - 1) * stdev(differences) / len(differences) ** 0.5
    return f"{mean(differences):+.1f}% [{mean(differences) - half:+.1f}, {mean(differences) + half:+.1f}]"


def by_hand(name, best=None, **more):
    """A table of benchmarks/measured.json, with `more` rows."""
    entry = MEASURED[name]
    rows = {row: dict(zip(entry["columns"], cells)) for row, cells in (entry["rows"] | more).items()}
    forms = " ".join(f".{digits}f" for digits in entry["columns"].values())
    return grid(rows, None, forms, best, entry["corner"])


# ----- docs/results.md

TABLES = {}
FASHION = "tfds:fashion_mnist"
SPEAKERS = ("george", "jackson", "nicolas", "theo", "yweweler")
fashion = {name.partition("-")[0]: card["results"].get(FASHION) for name, card in CARDS.items()}
trec, sms = CARDS["masked_lm-trec"]["results"]["tfds:trec"], MEASURED["SMS spam"]["table"]

# Pretrained is the better of probe and fine-tuned.
rows = {
    "`contrastive`, Fashion-MNIST": fashion["contrastive"],
    "`autoencoder`, Fashion-MNIST": fashion["autoencoder"],
    "`masked_lm`, SMS spam": sms,
    "`masked_lm`, TREC": trec,
}
for name, table in rows.items():
    pretrained = [found for row, found in table.items() if row.endswith((", frozen", ", fine-tuned"))]
    rows[name] = {}
    for column, heading in {"10 per class": "10 labels per class", "all": "all labels"}.items():
        rows[name][f"{heading}: pretrained"] = max(found[column] for found in pretrained)
        rows[name][f"{heading}: scratch"] = table["scratch"][column]
TABLES["headline"] = grid(rows, corner="test accuracy, %")

rows = {}
for name, card in CARDS.items():
    settings, outcome = card["trained_by"]["settings"], card["trained_by"]["outcome"]
    metric = next(each for each in ("test_accuracy", "test_top1", "test_loss") if each in outcome)
    rows[f"`{name}`"] = {
        "parameters": card["parameters"],
        "features": card["features"],
        "steps × batch": f"{outcome['step']:,} × {settings['batch_size']}",
        "minutes": outcome["seconds"] / 60,
        "pretext task, test split": f"`{metric}` {outcome[metric]:.3f}",
    }
TABLES["encoders"] = grid(rows, forms=",d ,d s .1f s", corner="encoder")

TABLES["autoencoder"] = accuracies(fashion["autoencoder"], 60, 10, "10 per class, whole validation")
TABLES["autoencoder-seeds"] = by_hand("autoencoder, seeds")
TABLES["contrastive"] = accuracies(
    fashion["contrastive"], 60, 10, 1, "10 per class, whole validation", "noise", "shift"
)
TABLES["rotation-jigsaw"] = accuracies(fashion["rotation"], 60, 10, 1, "noise", "shift")
TABLES["jigsaw-gaps"] = by_hand("jigsaw, gaps", max)

# {row: {column: the accuracies of the pretraining seeds}}, with what fine-tuning gains over scratch in each of them.
seeds = {}
for table in BENCH["cifar10"]["tables"].values():
    for row, found in table.items():
        columns = seeds.setdefault(re.sub(r"cifar10-(\w+)-\d", r"\1", row), {})
        for column, (accuracy, _) in found.items():
            columns.setdefault(column, []).append(accuracy)
order = sorted(seeds, key=lambda row: (row == "scratch", row.endswith("fine-tuned")))
for row in [row for row in order if row.endswith("fine-tuned")]:
    order.append(f"{row} minus scratch")
    seeds[order[-1]] = {c: [a - b for a, b in zip(v, seeds["scratch"][c])] for c, v in seeds[row].items()}
rows = {row: {column: [mean(v), stdev(v)] for column, v in seeds[row].items()} for row in order}
TABLES["cifar10"] = accuracies(rows, 90)

for key, budgets in BENCH["few_labels"].items():
    rows, columns = few_labels(budgets, "scratch")
    order = ("scratch", "scratch, semi-supervised", "fine-tuned")  # and the switches, as they are in the file
    arms = sorted(rows, key=lambda arm: order.index(arm) if arm in order else 3 + (arm == "semi-supervised"))
    rows = {arm: rows[arm] for arm in arms}
    TABLES[f"few-labels-{key.split(',')[0]}"] = grid(rows, columns, "%", max, "test accuracy, %")

budgets = {each: arms for each, arms in BENCH["mae"][FASHION].items() if each.isdigit()}
rows, columns = few_labels(budgets, "ViT from scratch")
TABLES["mae"] = grid(rows, columns | {"60 per class, label seeds": "label seeds"}, "%", max, "test accuracy, %")

found = BENCH["distillation"]
rows = {"teacher": found["teacher"], "student at random init": found["random init"]}
for key, run in found.items():
    name, seeded, _ = key.rpartition(", seed ")
    if seeded:
        row = rows.setdefault(name, {"kNN": [], "steps": run["steps"]})
        row["kNN"].append(run["kNN"])
for name, row in rows.items():
    row["parameters"] = found["parameters"]["teacher" if name == "teacher" else "student"]
    if "steps" in row:
        row |= {"seeds": str(len(row["kNN"])), "kNN": spread(row["kNN"])}
columns = {"parameters": "parameters", "steps": "steps", "kNN": "kNN", "seeds": "seeds"}
TABLES["distillation"] = grid(rows, columns, ",d ,d % s", corner="test accuracy, %")

found = CARDS["dcgan-fashion_mnist"]["results"][f"fidelity, {FASHION}"]["table"]
columns = {column: column for column in ("FID", "KID", "precision", "recall", "classes covered")}
columns["distance to the nearest learned"] = "median distance to the nearest training image"
rows = {"samples": found["made"], "real images": found["real"]}
TABLES["dcgan-fidelity"] = grid(rows, columns, ".2f .4f .2f .2f d .2f", corner="10,000 each")
TABLES["dcgan"] = accuracies(fashion["dcgan"], 60, 10, "noise", "shift")

TABLES["causal_lm"] = by_hand("causal_lm", min)
TABLES["trec"] = accuracies(trec, 50, 10, "10 per class, whole validation")
TABLES["sms"] = accuracies(sms, 50, 10, "10 per class, whole validation")
for data, budgets in BENCH["few_texts"].items():
    rows, columns = few_labels(budgets, "TF-IDF")
    shown = {name: name for name in ("10 per class", "10 per class, label seeds")}
    shown |= {name: name for name in columns if name.startswith("10 ") or "minus" not in name}
    TABLES[f"few-texts-{data}"] = grid(rows, shown, "%", corner="test accuracy, %")  # rows differ in their seeds
agreement = BENCH["english"]["agreement"]
TABLES["english-agreement"] = grid(agreement, best=max, forms=".2f", corner="Spearman's correlation with the teacher")
found = BENCH["tags"]
rows = {"most common tag of each word": found["table"], "`masked_lm-trec`, fine-tuned": found["fine-tuned"]}
columns = {"span_f1": "F1", "span_precision": "precision", "span_recall": "recall"}
TABLES["tags"] = grid(rows, columns, best=max, corner="spans of the test split, %")
TABLES["recurrent_lm"] = by_hand("recurrent_lm")

found = BENCH["seq2seq"]["pronunciation"]["test"]
errors = [100 * found[f"{unit} error rate"] for unit in ("symbol", "sequence")]
TABLES["pronunciation"] = by_hand("pronunciation", **{"`seq2seq-cmudict`": errors})

found, rows = BENCH["seq2seq"]["pretraining"], {"pretrained": {}, "scratch": {}}
for start, pairs in ((start, pairs) for start in rows for pairs in (1_000, 10_000)):
    for what, unit in {"phonemes": "symbol", "words": "sequence"}.items():
        errors = found[f"{pairs} pairs, {start}, {unit} error rate"]
        rows[start][f"{pairs:,} pairs: {what} wrong"] = [errors["mean"], errors["sd"]]
TABLES["word-pretraining"] = grid(rows, best=min, corner="% of test words")

part, rows = BENCH["speech"]["digits"], {}
for row, means in part["mean over speakers"].items():
    name = f"wav2vec2, {row}" if row in ("frozen", "fine-tuned") else row
    rows[name] = means | {speaker: part["folds"][speaker][row]["10 per class"] for speaker in SPEAKERS}
TABLES["digits"] = accuracies(rows, 10, 1, *SPEAKERS)

found, rows = BENCH["speech"]["recognition"], {}
for start in ("pretrained", "scratch"):
    rows[start] = {speaker: found[f"{speaker}, 100 clips, {start}"]["word error rate"] for speaker in SPEAKERS}
    rows[start]["mean"] = found[f"100 clips, {start}, mean word error rate"]
TABLES["connected"] = grid(rows, best=min, corner="words wrong, %")
TABLES["connected-steps"] = by_hand("ctc, steps", min)
TABLES["speakers"] = accuracies(CARDS["speech-spoken_digit"]["results"]["tfds:spoken_digit, who speaks"], 10, 1)

part, rows = BENCH["image_text"]["retrieval"], {}
for row, means in part["mean over folds"].items():
    folds = [part[f"{row}, fold {fold}"] for fold in range(5)]
    both = [mean((each["text to image"]["10"], each["image to text"]["10"])) for each in folds]
    rows[row] = means | {"both, R@10": mean(both), "folds 0 to 4": ", ".join(f"{100 * each:.1f}" for each in both)}
TABLES["emoji"] = grid(rows, best=max, corner="%")

found = BENCH["image_text"]["classification"]
rows = {row: {"test accuracy, %": found[f"{row}, mean and sd"]} for row in ("captions", "classifier")}
TABLES["captions"] = grid(rows)


# ----- docs/benchmarks.md

found, rows = BENCH["autoencoder"], {}
for name, seconds in found["seconds per epoch"].items():
    rows[name] = {"seconds per epoch": seconds, "stock over it": found.get(f"stock / {name}")}
    rows[name]["GFLOP/s"] = found["GFLOP/s"][name]
    rows[name]["loss after 8 epochs"] = found["loss after the last epoch"][name]
rows["the network's matrix products alone"] = {"GFLOP/s": found["GFLOP/s"]["network's products"]}
TABLES["autoencoder-speed"] = grid(rows, forms=".2f .2f .0f .4f")
TABLES["autoencoder-processes"] = grid(found["processes"], forms=".2f .4f ,.0f")

corner = "layers×heads×width, batch×length"
rows = step_times(BENCH["causal_lm"]["steps"], "ours")
TABLES["causal_lm-steps"] = grid(rows, forms=",.0f .0f .2f .2f .2f", corner=corner)
rows = step_times(BENCH["causal_lm"]["llama"], "ours, llama")
TABLES["llama-steps"] = grid(rows, forms=",.0f .0f .2f", corner=corner)

runs = BENCH["causal_lm"]["llama-quality"]["runs"]
rows = {f"{name}, seed {seed}": run for name, found in runs.items() for seed, run in enumerate(found)}
columns = {"steps": "steps", "parameters": "parameters", "loss": "validation loss", "seconds": "seconds"}
TABLES["llama-quality"] = grid(rows, columns, ",d ,d .4f .1f")

quality, longer = BENCH["causal_lm"]["quality"], BENCH["causal_lm"]["minutes"]
rows = {f"baseline, learning rate {rate}": run for rate, run in quality["baselines"].items()}
rows |= {f"ours, seed {seed}": run for seed, run in enumerate(quality["ours"])}
rows["ours, for longer"] = longer | {"loss": longer["best loss"], "seconds": longer["at second"]}
TABLES["causal_lm-quality"] = grid(rows, columns, ",d ,d .4f .1f")

generation, gpt2 = BENCH["causal_lm"]["generation"], BENCH["causal_lm"]["gpt2"]
rows = {f"generation, {how}, ms per token": ms for how, ms in generation["milliseconds a token"].items()}
rows["generation, uncached over cached"] = generation["uncached / cached"]
rows[f"`gpt2`, {gpt2['replicas']} replicas, seconds per step"] = mean(gpt2["seconds a step, compiled"])
rows[f"`gpt2`, {gpt2['replicas']} replicas, peak GiB"] = gpt2["peak GiB"]
TABLES["causal_lm-more"] = grid({row: {"measured": value} for row, value in rows.items()}, forms=".2f")

rows = {}
for name in ("contrastive", "dcgan", "seq2seq", "speech", "image_text"):
    part = BENCH[name]["speed"]
    unit = next(key for key in part if key.endswith(", median"))
    rates = {contender.partition(" at ")[0]: rate for contender, rate in part[unit].items()}
    for key in (key for key in part if key.startswith("ours / ")):
        peer = part.get("theirs") or key.removeprefix("ours / ")
        row = rows[f"`{name}`, {peer}"] = {"unit": unit.removesuffix(", median")}
        row |= {"ours": rates["ours"], "theirs": rates[peer], "ours over theirs": part[key]}
part = BENCH["mae_speed"]["speed"]
ours, theirs = part["fastest"]
row = rows[f"`masked_autoencoder`, {theirs}"] = {"unit": "images/s", "ours over theirs": part["ours / theirs"]}
row |= {"ours": part["images/s, median"][ours], "theirs": part["images/s, median"][theirs]}
TABLES["peers"] = grid(rows, forms="s ,.0f ,.0f .2f", corner="benchmark, peer")

found = BENCH["contrastive"]["quality"]
rows = found["kNN accuracy"] | {"ours − theirs": found["ours − theirs"], "pixels": found["kNN accuracy of pixels"]}
rows = {row: {"kNN accuracy after 120 s, %": accuracy} for row, accuracy in rows.items()}
TABLES["contrastive-quality"] = grid(rows)

found = BENCH["contrastive"]["pipeline"]
rows = {"images/s": found["images/s, median"] | {"pipeline over step": found["pipeline / step"]}}
TABLES["contrastive-pipeline"] = grid(rows, forms=",.0f ,.0f .0f")

found, rows = BENCH["dcgan"]["quality"], {}
for run in found["runs"]:
    row = rows.setdefault(run["name"], {"mean FID": found[f"FID, {run['name']}"]["mean"]})
    row |= {f"seed {run['seed']}: FID": run["FID"], f"seed {run['seed']}: steps": run["steps"]}
rows["10,000 training images"] = {"mean FID": found["FID of 10,000 training images"]}
TABLES["dcgan-quality"] = grid(rows, forms=".2f .1f d .1f d .1f d")


# ----- docs/cost.md

MEGABYTE = 1e6
rows, estimates = {}, {}
for objective, switches in BENCH["cost"]["switches"].items():
    if not isinstance(switches, dict):
        continue  # the machine and the versions
    for switch, found in switches.items():
        row = rows[f"{objective}, {switch.replace(' a call', ' per call')}"] = {"time": found.get("time", "1")}
        if "refused" in found:
            row["time"] = "refused"
        else:
            row |= {"memory, MB": found["memory"] / MEGABYTE, "loss": found["loss"]}
    found = switches["plain"]
    work = found["planned"]["operations"]
    estimates[objective] = {
        "batch": found["batch"],
        "parameters": found["parameters"],
        "MFLOP per example": work / 1e6,
        "examples/s": found["examples/s"],
        "MFU, %": work * found["examples/s"] / found["peak"],
        "memory: estimate, MB": found["planned"]["memory"] / MEGABYTE,
        "measured, MB": found["memory"] / MEGABYTE,
        "CPU": found["processor"],
    }
columns = {"time": "time, relative to `plain`", "memory, MB": "memory, MB", "loss": "loss"}
TABLES["cost-switches"] = grid(rows, columns, ".2f ,.0f .4f", corner="objective, switch")
TABLES["cost-estimates"] = grid(estimates, None, "d ,d .1f ,.0f % .0f .0f s", corner="objective")

rows = {}
for objective, found in BENCH["cost"]["fit"].items():
    if isinstance(found, dict):
        row = rows[objective] = {"`fit`, examples/s": found["examples/s"]["plain"]}
        row["loop, examples/s"] = found["examples/s"]["bare loop"]
        row["time of `fit`, relative to the loop"] = found["time over the bare loop's"]
TABLES["cost-fit"] = grid(rows, None, ",.0f ,.0f .2f", corner="objective")

rows = {name: found for name, found in BENCH["cost"]["checkpoints"].items() if isinstance(found, dict)}
columns = {"MB": "MB", "seconds": "s", "percent": "fraction of five minutes, %"}
for name, found in rows.items():
    rows[name] = found | {"MB": found["bytes"] / MEGABYTE, "percent": 100 * found["share of five minutes"]}
TABLES["cost-checkpoints"] = grid(rows, columns, ".0f .2f .2f", corner="state")


# ----- docs/interpretation.md

rows = {}
for name, found in BENCH["faithfulness"].items():
    for method, row in found.get("methods", {}).items():  # the entry "plan" has none
        rows[f"`{name.partition('-')[0]}`, {method}"] = row
columns = {"deletion": "deletion", "deletion gain": "below random", "insertion": "insertion"}
columns |= {"insertion gain": "above random", "randomized": "randomized", "complete": "complete"}
TABLES["faithfulness"] = grid(rows, columns, ".3f .3f .3f .3f .2f .2f", corner="encoder, method")


# ----- docs/curation.md

measures = {
    "texts": {"val_bits_per_byte": "prose, bits per byte", "test_bits_per_byte": "HTML manuals, bits per byte"},
    "epochs": {"test_bits_per_byte": "held out, bits per byte", "verbatim": "verbatim sequences of 50 tokens"},
    "images": {"kNN": "kNN accuracy", "linear probe": "linear probe"},
}
forms = {"texts": ".3f s .3f s", "epochs": ".3f s .4f s", "images": "% s % s"}
for what, names in measures.items():
    runs, rows = BENCH["curation_helps"][what]["runs"], {}
    first = next(iter(runs))
    for arm, seeds in runs.items():
        row = rows[arm] = {}
        for key, title in names.items():
            values, baseline = ([runs[each][seed][key] for seed in sorted(seeds)] for each in (arm, first))
            row[title] = spread(values)
            row[f"{title}, change"] = "–" if arm == first else change(values, baseline)
    columns = {column: "change" if column.endswith("change") else column for column in rows[first]}
    TABLES[f"curation-{what}"] = grid(rows, columns, forms[what])


# ----- The pages


def main(check):
    pages = {ROOT / page: (ROOT / page).read_text() for page in PAGES}
    blocks = [(page.name, name, table) for page in pages for _, name, table, _ in BLOCK.findall(pages[page])]
    odd = set(TABLES) ^ {name for _, name, _ in blocks}
    if odd:
        sys.exit(f"Expected each table of docs/tables.py in a page, and no others. Received: {', '.join(sorted(odd))}")
    if check:
        differ = [f"{page}: {name}" for page, name, table in blocks if table != TABLES[name]]
        sys.exit("\n".join(["Run `python docs/tables.py`, since these tables differ:", *differ]) if differ else 0)
    for page, old in pages.items():
        page.write_text(BLOCK.sub(lambda block: block[1] + TABLES[block[2]] + block[4], old))


if __name__ == "__main__":
    main(check=sys.argv[1:] == ["--check"])
