"""Saved encoders: saving, loading, finding by name, and adapting data to them."""

from ssl_keras.encoders.catalog import available, find
from ssl_keras.encoders.initialize import initialize
from ssl_keras.encoders.inputs import adapt, conversion
from ssl_keras.encoders.loading import (
    build,
    load_classifier,
    load_classifier_parts,
    load_encoder,
    load_tokenizer,
    load_with_head,
    named_variables,
)
from ssl_keras.encoders.saving import copy_in_float16, record, save_encoder

__all__ = [
    "adapt",
    "available",
    "build",
    "conversion",
    "copy_in_float16",
    "find",
    "initialize",
    "load_classifier",
    "load_classifier_parts",
    "load_encoder",
    "load_tokenizer",
    "load_with_head",
    "named_variables",
    "record",
    "save_encoder",
]
