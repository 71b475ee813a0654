"""Confusion matrix as a picture: rows are true classes, columns are predicted ones."""

import collections

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import PowerNorm

from ssl_keras.files import printable

NUM_WRITTEN = 15  # classes up to which percentages are written into the cells
NUM_NAMED = 100  # classes up to which each row has its name
MAX_NAME = 24  # characters of a name; of a longer one, the beginning and the end
END = 8  # characters at the end of a shortened name
CELL = {NUM_WRITTEN: 0.45, 40: 0.25, NUM_NAMED: 0.16}  # inches, by the largest number of classes
LARGEST, MARGIN = 16, 0.8  # inches: the side with more classes; what is to the right, for the color bar
DARK = 40  # percent from which the color of a cell is dark


def confusion_figure(matrix, classes, title=""):
    """Draws a confusion matrix, in percent of each true class. Rows of classes without examples are gray.

    The color scale is that of the square root, so that rare confusions can be seen.

    Args:
        matrix: number of examples of class i that were predicted as class j, int (Y, Y).
        classes: Y names. One that the fonts of Matplotlib's setting `font.family` cannot draw is replaced by its label.
        title: a line above the title, such as the classifier's name.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    count, totals = len(matrix), matrix.sum(1, keepdims=True)
    percent = np.divide(100 * matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    side = max(2.0, next((size * count for most, size in CELL.items() if count <= most), LARGEST))
    figure = matplotlib.figure.Figure(figsize=(side + MARGIN, side))
    axes = figure.add_axes((0, 0, side / (side + MARGIN), 1))  # saving with `bbox_inches="tight"` adds room for names
    colors = matplotlib.colormaps["Blues"].with_extremes(bad="lightgray")
    image = axes.imshow(percent, cmap=colors, norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    if count <= NUM_NAMED:
        names, size = class_labels(classes), 9 if count <= NUM_WRITTEN else 7
        axes.set_xticks(range(count), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    if count <= NUM_WRITTEN:
        for row, column in np.argwhere(matrix > 0):
            value = percent[row, column]
            color = "white" if value > DARK else "black"
            axes.text(column, row, _rounded(value), ha="center", va="center", fontsize=8, color=color)
    else:
        place = (side + MARGIN / 4) / (side + MARGIN), 0, MARGIN / 4 / (side + MARGIN), 1
        figure.colorbar(image, cax=figure.add_axes(place), ticks=[0, 1, 5, 20, 50, 100])
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title("\n".join(filter(None, (title, "Confusion matrix, % of each true class"))))
    return figure


def _rounded(percent):
    """Returns a percentage as a whole number, except that only all is 100 and only nothing is 0."""
    if 0 < percent < 0.5:
        return "<1"
    return ">99" if 99.5 <= percent < 100 else f"{percent:.0f}"


def class_labels(classes):
    """Returns a short name for each class, which can be drawn and differs from the others; else "class LABEL"."""
    names = [shorten(printable(name)) for name in classes]
    fonts = [
        font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=[family])))
        for family in matplotlib.rcParams["font.family"]
    ]
    repeated = {name for name, times in collections.Counter(names).items() if times > 1}

    def is_drawable(name):
        return all(any(font.get_char_index(ord(c)) for font in fonts) for c in name)

    return [
        name if name and name not in repeated and is_drawable(name) else f"class {label}"
        for label, name in enumerate(names)
    ]


def shorten(name):
    """Shortens a name of more than MAX_NAME characters to its beginning and its end, since many begin alike."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - END - 1]}…{name[-END:]}"
