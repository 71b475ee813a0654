"""The pictures and tables of reports: parts of an HTML page, and images for TensorBoard."""

import numpy as np

from ssl_keras.data.audio import PADDING
from ssl_keras.interpretation import questions
from ssl_keras.interpretation.faithfulness import CURVES
from ssl_keras.interpretation.methods import INTEGRATED
from ssl_keras.interpretation.report import RANDOM, last_correlation
from ssl_keras.pictures import enlarged, heat, page, png, waveform_picture

SIDE = 112  # pixels of a small picture, at least
MAX_CHARACTERS = 200  # of an example in a list
NOTES = (
    "Red raises the score that is explained, blue lowers it; the color is full at the 99th percentile of a map.",
    "Sum: by how much the attributions' sum differs from the difference of the scores of the example and of its "
    "baseline (black, [MASK] or silence), at most. Only integrated gradients promise that they are equal.",
    "Deletion and insertion: the mean score, a probability where the scores are logits, while the highest units are "
    "removed, or put into the baseline. A faithful map has a lower deletion and a higher insertion than random order.",
    "Grad-CAM and rollout are coarse: they show places of a map, or the flow of attention, and no sign.",
    "Randomized: rank correlation of the maps before and after all weights were permuted. Near 0, the map depends on "
    "what was learned.",
)


def parts(reports, split, rows):
    """Yields the parts of the page for one or more reports on the same examples.

    Args:
        reports: `Report`s.
        split, rows: the split and the rows of the examples.
    """
    yield page.listing(NOTES)
    for report in reports:
        yield page.heading(f"{report.loaded.card['name']}: is it faithful?")
        yield page.table(checks(report))
        yield from (page.paragraph(line) for line in failures(report))
    yield page.heading("Examples")
    drawn, scores = [pictures(report) for report in reports], [chosen_scores(report) for report in reports]
    for number, row in enumerate(rows):
        yield page.subheading(f"E{_title(reports[0], split, row)[1:]}")
        for report, images, score in zip(reports, drawn, scores):
            title = f"{report.loaded.card['name']}: {report.question.words[number]}"
            yield page.paragraph(f"{title}, score {score[number]:.3g}")
            yield _texts(report, number) if report.texts is not None else _images(report, images, number)
    for report, images in zip(reports, drawn):
        yield from _places(report, images.get("input"), rows)
        yield from _layers(report, split)


def checks(report):
    """Returns the faithfulness of each method as rows of cells, the header first."""
    random = report.areas[RANDOM]
    lines = [["method", "sum", "deletion", "below random", "insertion", "above random", "randomized"]]
    lines.append([RANDOM, "–", f"{random['deletion'].mean():.2f}", "–", f"{random['insertion'].mean():.2f}", "–", "–"])
    for name, areas in report.areas.items():
        if name == RANDOM:
            continue
        cells = ["–" if name != INTEGRATED else f"{report.errors.max():.1%}"]
        for curve, (mean, low, high) in report.gains[name].items():
            cells += [f"{areas[curve].mean():.2f}", f"{mean:.2f} ({low:.2f} to {high:.2f})"]
        lines.append([name, *cells, f"{last_correlation(report.sanity[name]):.2f}"])
    return lines


def failures(report):
    """Returns a sentence for each method that fails a check on this encoder."""
    found = {name: report.failures(name) for name in report.maps}
    return [f"{name} fails here: {'; '.join(why)}." for name, why in found.items() if why]


def caption(report, method, number):
    """Returns the checks of one map as a caption."""
    deletion, insertion = (
        f"{curve} {report.areas[method][curve][number]:.2f} (random {report.areas[RANDOM][curve][number]:.2f})"
        for curve in CURVES
    )
    error = f", sum within {report.errors[number]:.1%}" if method == INTEGRATED else ""
    return f"{method}: {deletion}, {insertion}{error}"


def chosen_scores(report):
    """Returns the scores that are explained, (B,)."""
    index = report.question.index
    return report.explained.scores(report.question.inputs)[np.arange(len(index)), index]


def label_of(loaded, split, row):
    """Returns the name of an example's class, or ""."""
    source = getattr(loaded.splits, split)
    if "label" not in source.arrays:
        return ""
    return source.classes[int(source.take(np.array([row])).column("label")[0])]


def pictures(report):
    """Returns {"input" or a method: [(H, W, 3) in [0, 1] for each example]}; empty for texts."""
    if report.texts is not None:
        return {}
    shown = report.explained.represent(report.question.inputs)
    ground = [_ground(report, each, 0 * shown[number, ..., 0]) for number, each in enumerate(shown)]
    maps = {
        name: [_ground(report, each, values[number]) for number, each in enumerate(shown)]
        for name, values in report.maps.items()
    }
    if report.explained.at == "pixels":
        ground = [_color(each) for each in shown]
    return {"input": ground} | maps


def _ground(report, x, values):
    """Colors one example, without its padding, by attributions."""
    if report.explained.at == "pixels":
        return heat.over_image(x, values)
    if report.explained.at == "bands":
        return heat.over_bands(x[..., 0], values)
    return heat.over_samples(x[..., 0], values)


def _color(image):
    return np.repeat(image, 3, -1) if image.shape[-1] < 3 else image[..., :3]


def _enlarged(picture):
    """Enlarges a picture (H, W, 3) to at least SIDE pixels along its shorter side."""
    factor = max(1, -(-SIDE // min(picture.shape[:2])))
    return enlarged(np.clip(picture, 0, 1)[None], factor)[0].numpy()


def _png(picture):
    return png([_enlarged(picture)[None]])


def _stretched(places, shape):
    """Stretches colors of places (h, w, 3), or of frames (T, 3), to the width and, for images, height of a picture."""
    lines = places if places.ndim == 3 else places[None]
    return heat.resized(lines, (shape[0] if places.ndim == 3 else SIDE // 4, shape[1]))


def _images(report, images, number):
    captions = ["input", *(caption(report, name, number) for name in report.maps)]
    return page.strip(*(page.picture(_png(each[number]), name) for each, name in zip(images.values(), captions)))


def _texts(report, number):
    lines, units = [], report.units[number]
    for name, values in report.maps.items():
        own = [values[number][units == unit].sum() for unit in range(len(report.texts[number]))]
        lines += [page.words(zip(report.texts[number], heat.scaled(own))), page.small(caption(report, name, number))]
    return page.joined(lines)


def _places(report, images, rows):
    """Yields principal colors, and similarities with one place, of an encoder with places."""
    if report.colors is None:
        return
    name = report.loaded.card["name"]
    yield page.heading(f"{name}: features of places")
    yield page.paragraph(
        "The first three principal components of the features of all places, as red, green and blue, with one basis "
        "for all examples: equal colors are similar features. Then the cosine similarity of all places with the place "
        f"{report.place} of the first example, to which integrated gradients point: red is similar, blue is opposite."
    )
    if report.texts is not None:
        for number, words in enumerate(report.texts):
            weights = [report.alike[number][report.units[number] == unit].mean() for unit in range(len(words))]
            yield page.words(zip(words, weights))
        return
    made = []
    for number, row in enumerate(rows):
        ground = _enlarged(images[number])
        below = [_stretched(each[number], ground.shape) for each in (report.colors, heat.similarity(report.alike))]
        made.append(page.picture(_png(np.concatenate([ground, *below])), f"example {row}"))
    yield page.strip(*made)


def _layers(report, split):
    """Yields the probes of layers, and the examples that excite features most."""
    name = report.loaded.card["name"]
    if report.accuracies:
        yield page.heading(f"{name}: linear probes of its layers")
        yield page.paragraph(
            "Test accuracy of a linear probe on the mean of each layer's output, from input to output."
        )
        cells = [[layer, f"{accuracy:.1%}"] for layer, accuracy in report.accuracies.items()]
        yield page.table([["layer", "accuracy"], *cells])
    yield page.heading(f"{name}: what excites its features")
    source = getattr(report.loaded.splits, split)
    for feature, rows in report.exciting.items():
        yield page.subheading(f"Feature {feature}")
        inputs, labels = questions.inputs_of(source, rows), [_title(report, split, row) for row in rows]
        if inputs.dtype.kind == "i":
            texts = [report.loaded.tokenizer.decode(each)[:MAX_CHARACTERS] for each in inputs]
            yield page.listing(f"{label}: {text}" for label, text in zip(labels, texts))
            continue
        if inputs.ndim == 4:
            shown = [_png(_color(each)) for each in inputs]
        else:
            clips = [np.int16(each[each > -1] * -PADDING) for each in inputs]
            shown = [waveform_picture(clip, source.rate) for clip in clips]
        yield page.strip(*(page.picture(each, label) for each, label in zip(shown, labels)))


def _title(report, split, row):
    """Returns the number of an example and, if known, its class."""
    label = label_of(report.loaded, split, row)
    return f"example {row}{f', labeled {label}' if label else ''}"
