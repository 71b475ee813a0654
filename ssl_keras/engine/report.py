"""`Report`: what an objective shows of a run; `training/tensorboard.py` writes it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Report:
    """Pictures, sounds, texts and numbers of an objective at one step; what is left out is not shown."""

    images: dict = dataclasses.field(default_factory=dict)
    """{name: rows of images, each (N, H, W, C) float in [0, 1]}."""
    audio: dict = dataclasses.field(default_factory=dict)
    """{name: (waveforms (N, L) float in [-1, 1], Hz)}; -1 is padding."""
    texts: dict = dataclasses.field(default_factory=dict)
    """{name: Markdown}."""
    scalars: dict = dataclasses.field(default_factory=dict)
    """{tag: number}, the tag with its group: "quality/fid"."""
    histograms: dict = dataclasses.field(default_factory=dict)
    """{name: values (N,)}."""
    embeddings: dict = dataclasses.field(default_factory=dict)
    """{name: function without arguments to (vectors (N, D), N names)}, called once, at the end of a run."""
