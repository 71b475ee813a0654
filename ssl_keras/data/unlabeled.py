"""Labeled and unlabeled images in one source, for semi-supervised training.

Each row has one labeled image and `ratio` unlabeled ones, so that a batch has `ratio` times as many unlabeled images
as labeled ones. An epoch is a pass over the unlabeled images, in which all labeled images come equally often.
"""

import dataclasses

import numpy as np

from ssl_keras.data.batches import epoch_order
from ssl_keras.data.splits import Source
from ssl_keras.data.summary import image_hashes


def undivided(splits):
    """Returns the splits with all images that were held out from the training images back among them.

    No scores are computed on unlabeled images, so none of them need to be held out. Splits that came with the data stay
    as they are.
    """
    own = [part for part in splits if part.arrays is splits.train.arrays and part.rows is not None]
    if len(own) < 2:
        return splits
    rows = np.sort(np.concatenate([part.rows for part in own]))
    return splits._replace(train=dataclasses.replace(splits.train, rows=rows))


def without_copies(unlabeled, held_out):
    """Returns the images of a source without exact copies of held-out ones, so that none of these is learned from.

    Args:
        unlabeled: source of images.
        held_out: sources of images of the same shape.
    """
    known = np.concatenate([image_hashes(source) for source in held_out])
    return unlabeled.take(np.flatnonzero(~np.isin(image_hashes(unlabeled), known)))


@dataclasses.dataclass(frozen=True)
class Rows:
    """A column (N, …) seen through an array of indices (M, …): row i is `column[index[i]]`."""

    column: np.ndarray
    index: np.ndarray

    def __len__(self):
        return len(self.index)

    def __getitem__(self, rows):
        return np.asarray(self.column[self.index[rows]])

    @property
    def shape(self):
        """The shape of all rows together."""
        return (*self.index.shape, *self.column.shape[1:])

    @property
    def dtype(self):
        """The dtype of the column."""
        return self.column.dtype


def with_unlabeled(labeled, unlabeled, ratio, seed):
    """Returns a `Source` with the columns `image`, `label` and `unlabeled` (ratio, H, W, C).

    Args:
        labeled: source of images with labels.
        unlabeled: source of images of the same shape; its labels, if any, are not used.
        ratio: number of unlabeled images in a row. The last row is filled up with those of the first ones.
        seed: seed of the order in which unlabeled images are put together, and labeled ones joined to them.

    Raises:
        ValueError: `unlabeled` has no images, images of another shape or dtype, or fewer than `ratio`.
    """
    expected, received = labeled.column_spec("image"), unlabeled.column_spec("image")
    if expected != received:
        (shape, dtype), (other, other_dtype) = expected, received
        raise ValueError(
            f"{unlabeled.name} does not match {labeled.name}. Expected unlabeled images {shape} {dtype.name}. "
            f"Received: {other} {other_dtype.name}. Resize them, for example with --image-size."
        )
    count = -(-len(unlabeled) // ratio)
    if len(unlabeled) < ratio:
        raise ValueError(
            f"{unlabeled.name} has too few images. Expected at least {ratio}, the number of unlabeled images for each "
            f"labeled one. Received: {len(unlabeled)}"
        )
    groups = np.resize(epoch_order(len(unlabeled), seed, 0), (count, ratio))
    partners = epoch_order(count, seed, 1) % len(labeled)
    columns = {"image": (labeled, partners), "label": (labeled, partners), "unlabeled": (unlabeled, groups)}
    arrays = {}
    for name, (source, index) in columns.items():
        index = index if source.rows is None else source.rows[index]
        arrays[name] = Rows(source.arrays["image" if name == "unlabeled" else name], index)
    return Source(labeled.name, arrays, labeled.classes, notes=labeled.notes, converted=labeled.converted)
