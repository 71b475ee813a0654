"""Hyperparameter grids for fine-tuning and training from scratch, for each kind of network."""

import dataclasses

import keras

from ssl_keras.data.augment_audio import AudioAugmentation
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.networks import description


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid for fine-tuning and training from scratch; validation accuracy selects one of all combinations."""

    rates: tuple[float, ...]  # Adam's learning rate, the same for encoder and head
    few_label_steps: tuple[int, ...]
    all_label_epochs: tuple[int, ...]
    few_label_batch: int
    all_label_batch: int
    augmentations: tuple[Augmentation | AudioAugmentation, ...] = (Augmentation(),)


IMAGE_AUGMENTATIONS = (Augmentation(), Augmentation(shift=0.1, color=0.8, cutout=0.4))
GRIDS = {
    "dense": Grid((1e-4, 3e-4, 1e-3, 3e-3), (100, 300, 1000), (2, 6, 18), 64, 256),
    # Steps are slower and fewer suffice. With few labels, augmentation may help as much as pretraining.
    "convolution": Grid((1e-3, 3e-3), (50, 150, 400), (2, 6), 64, 256, IMAGE_AUGMENTATIONS),
    "vision_transformer": Grid((3e-4, 1e-3), (50, 150, 400), (2, 6), 64, 256, IMAGE_AUGMENTATIONS),
    "recurrent": Grid((1e-3, 3e-3), (50, 150, 400), (2, 6), 64, 128),
    "transformer": Grid((3e-4, 1e-3, 3e-3), (50, 150, 400), (1, 2, 6), 64, 64),
    "sound": Grid(
        (3e-4, 1e-3, 3e-3),
        (50, 150, 400),
        (2, 6, 20),
        64,
        64,
        (AudioAugmentation(), AudioAugmentation(speed=0.15, shift=0.05, noise=0.1)),
    ),
}


def kind_of(encoder, column):
    """Returns the kind of an encoder, which selects its grid.

    The builder declares it. For other architectures it follows from the input column (image, tokens or waveform) and
    the layers.
    """
    network = description(encoder)
    if network is not None:
        return network.kind
    if column != "image":
        return {"tokens": "transformer", "waveform": "sound"}[column]
    return "convolution" if any(isinstance(layer, keras.layers.Conv2D) for layer in encoder.layers) else "dense"
