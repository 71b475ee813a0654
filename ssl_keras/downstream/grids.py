"""What fine-tuning and scratch choose among, for each kind of network."""

import dataclasses

import keras

from ssl_keras.data.augment_audio import AudioAugmentation
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.networks import description


@dataclasses.dataclass(frozen=True)
class Grid:
    """What fine-tuning and scratch, both alike, choose among by validation accuracy: all combinations."""

    rates: tuple[float, ...]  # Adam's learning rate, encoder and head alike
    few_label_steps: tuple[int, ...]
    all_label_epochs: tuple[int, ...]
    few_label_batch: int
    all_label_batch: int
    augmentations: tuple[Augmentation | AudioAugmentation, ...] = (Augmentation(),)


GRIDS = {
    "dense": Grid((1e-4, 3e-4, 1e-3, 3e-3), (100, 300, 1000), (2, 6, 18), 64, 256),
    # A step takes longer, and fewer are enough; with few labels augmentation may help as much as pretraining.
    "convolution": Grid(
        (1e-3, 3e-3), (50, 150, 400), (2, 6), 64, 256, (Augmentation(), Augmentation(shift=0.1, color=0.8, cutout=0.4))
    ),
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
    """The kind of an encoder, which chooses its grid: as its builder declares it or, of another architecture, by its
    layers and the column that it takes: image, tokens or waveform."""
    network = description(encoder)
    if network is not None:
        return network.kind
    if column != "image":
        return {"tokens": "transformer", "waveform": "sound"}[column]
    return "convolution" if any(isinstance(layer, keras.layers.Conv2D) for layer in encoder.layers) else "dense"
