"""`Report`: the images, audio, texts and numbers that an objective shows; `training/tensorboard.py` writes them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Report:
    """The content that an objective shows at one step. All fields are optional."""

    images: dict = dataclasses.field(default_factory=dict)
    """{name: rows of images, each (N, H, W, C) float in [0, 1]}."""
    audio: dict = dataclasses.field(default_factory=dict)
    """{name: (waveforms (N, L) float in [-1, 1], sampling rate in Hz)}; -1 is padding."""
    texts: dict = dataclasses.field(default_factory=dict)
    """{name: Markdown}."""
    scalars: dict = dataclasses.field(default_factory=dict)
    """{tag: number}; a tag begins with its TensorBoard group, as in "quality/fid"."""
    histograms: dict = dataclasses.field(default_factory=dict)
    """{name: values (N,)}."""
    embeddings: dict = dataclasses.field(default_factory=dict)
    """{name: function that returns (vectors (N, D), N names)}; called once, at the end of a run."""
