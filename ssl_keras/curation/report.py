"""The report of a curation: a page with the funnel, examples of each reason, and values beside their thresholds."""

import io

import numpy as np

from ssl_keras.curation import rules, stages
from ssl_keras.curation.measure import GRAM, NAMES, REASONS
from ssl_keras.data.near_duplicates.images import DETAIL
from ssl_keras.pictures import contact_sheet, page

SHOWN, LETTERS = 3, 400  # examples of a reason, and characters of each
PICTURES = 8  # pairs of images in a contact sheet
SIDE = 64  # pixels of an image in it


def write(path, work, result):
    """Writes the page, from the folder of work and the `Result` of a curation."""
    _, found = stages.read_plan(work)
    inputs = ", ".join(result.settings["inputs"])
    parts = [
        page.paragraph(_summary(result)),
        page.heading("What was removed"),
        page.table(_funnel(result)),
        *_notes(result),
        page.heading("Sizes of groups of copies"),
        page.table(_group_sizes(result)),
        page.heading("Values and thresholds"),
        *_histograms(work, found, result),
        page.heading("Examples of what was removed"),
        *_examples(work, found, result),
    ]
    page.write(path, f"Curation of {inputs}", *parts)


def _summary(result):
    kept, total = result.funnel.get("", 0), sum(result.funnel.values())
    splits = ", ".join(f"{name} {count:,}" for name, count in result.splits.items())
    return f"{kept:,} of {total:,} examples were kept ({kept / total:.1%}): {splits}."


def _funnel(result):
    rows, left = [["reason", "removed", "fraction of what was left", "left"]], sum(result.funnel.values())
    for name, count in result.funnel.items():
        if name:
            rows.append([name, f"{count:,}", f"{count / max(left, 1):.1%}", f"{left - count:,}"])
            left -= count
    return rows


def _notes(result):
    notes = []
    if result.settings["against"]:
        notes.append(f"Evaluation texts of fewer than {GRAM} words are found only where a whole example is like them.")
    if result.not_compared:
        notes.append(
            f"{result.not_compared:,} records of large buckets were not compared with all others of their bucket."
        )
    if result.near_detail is not None and result.near_detail > DETAIL:
        notes.append(
            "Different images are framed alike, so near copies need details with a correlation of "
            f"{result.near_detail}. Copies that are compressed more are kept."
        )
    return [page.paragraph(note) for note in notes]


def _group_sizes(result):
    """Returns the numbers of groups of examples that copies connect, by size."""
    inputs = np.arange(len(result.group)) >= result.examples.references
    sizes = np.bincount(result.group[inputs])
    bounds = [(1, 1), (2, 2), (3, 5), (6, 20), (21, 100), (101, int(sizes.max(initial=1)))]
    rows = [
        [f"{a}" if a == b else f"{a} to {b}", f"{int(((sizes >= a) & (sizes <= b)).sum()):,}"]
        for a, b in bounds
        if a <= b
    ]
    return [["examples in a group", "groups"], *rows]


def _histograms(work, found, result):
    """Returns a picture of each value, with the bounds that were used."""
    import matplotlib.figure

    values = []
    for number in range(len(found.shards)):
        with np.load(stages.features_path(work, number)) as features:
            values.append(features["values"])
    values, checks = np.concatenate(values), _checks(found, result.settings)
    pictures = []
    for column, name in zip(values.T, NAMES[found.kind]):
        column = column[np.isfinite(column)]
        if not len(column):
            continue
        low, high = np.quantile(column, (0.0, 0.99))
        figure = matplotlib.figure.Figure((3, 2))
        axes = figure.subplots()
        axes.hist(np.clip(column, low, high), 40)
        for bound in checks.get(name, (None, None)):
            if bound is not None and low <= bound <= high:
                axes.axvline(bound, color="tab:red")
        axes.set_yticks([])
        content = io.BytesIO()
        figure.savefig(content, format="png", bbox_inches="tight", metadata={"Software": None})
        bounds = checks.get(name)
        shown = " to ".join("…" if bound is None else f"{bound:g}" for bound in bounds) if bounds else "anything"
        about = f"{name}: 1% quantile {np.quantile(column, 0.01):.3g}, median {np.median(column):.3g}"
        pictures.append(page.picture(content.getvalue(), f"{about}; kept: {shown}"))
    return [page.grid(*pictures)]


def _checks(found, settings):
    if "off" in settings["rules"]:
        return {}
    if found.kind == "text":
        english = settings["language"] in ("", "en")
        return rules.text_checks(rules.TextRules(**settings["text"]), settings["rules"], english)
    if found.kind == "image":
        return rules.image_checks(rules.ImageRules(**settings["image"]))
    return rules.sound_checks(rules.SoundRules(**settings["sound"]))


def _examples(work, found, result):
    """Returns some examples of each reason, and for copies what was kept in their place."""
    examples, parts = result.examples, []
    for code, reason in enumerate(REASONS):
        rows = np.flatnonzero(examples.reason == code)
        rows = rows[rows >= examples.references]
        if not code or not len(rows):
            continue
        many = PICTURES if found.kind == "image" else SHOWN
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(many, len(rows))).astype(int))]
        near = [int(examples.near[row]) for row in rows]
        shown = _content(work, {*rows.tolist(), *(row for row in near if row >= 0)}, result)
        parts.append(page.heading(f"{reason}, {int((examples.reason == code).sum()):,}"))
        if found.kind == "image":
            parts.append(_sheet(rows, near, shown))
            continue
        for row, other in zip(rows, near):
            name, content = shown[row]
            instead = f", kept: {shown[other][0]}" if other in shown else ""
            parts.append(page.paragraph(f"{name} (value {examples.value[row]:.3g}){instead}"))
            if isinstance(content, str):
                parts.append(page.quotation(content[:LETTERS]))
    return parts


def _sheet(rows, near, shown):
    """Returns a contact sheet of removed images, beside those that were kept in their place."""
    pictures, captions = [], []
    for row, other in zip(rows, near):
        for one in (int(row), other):
            name, image = shown.get(one, ("", None))
            pictures.append(_thumbnail(image))
            captions.append(name)
    caption = "removed, and what was kept in its place, two by two: " + ", ".join(filter(None, captions))
    return page.picture(contact_sheet(np.stack(pictures), 2 * min(4, len(rows))), caption[:LETTERS])


def _thumbnail(image):
    """Returns uint8 (SIDE, SIDE, 3); gray without an image."""
    from PIL import Image

    if not isinstance(image, np.ndarray) or image.ndim != 3:
        return np.full((SIDE, SIDE, 3), 128, np.uint8)
    picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).convert("RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _content(work, wanted, result):
    """Returns {number of an example: (name, content)}, reading only the shards that have these examples."""
    from ssl_keras.curation import items

    plans, found, first = stages.read_plan(work), {}, 0
    for listing, reference in zip(plans, (True, False)):
        for number, shard in enumerate(listing.shards if listing else []):
            with np.load(stages.features_path(work, number, reference)) as features:
                names = stages.names_of(features)
            if any(first <= row < first + len(names) for row in wanted):
                for row, item in enumerate(items.read(shard, listing.kind, listing.rate, 1 << 25, 60.0)):
                    if first + row in wanted:
                        found[first + row] = (item.name, item.content if item.content is not None else item.problem)
            first += len(names)
    return found
