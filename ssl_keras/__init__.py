"""Self-supervised learning for Keras: pretrain, load the encoder, fine-tune, on one device or many.

The names in `__all__` are imported when they are first used, so that `import ssl_keras` is quick and TensorFlow starts
only when it is needed.
"""

import importlib
import logging
import os
import sys
import typing

if typing.TYPE_CHECKING:
    from ssl_keras.data.readers.text import from_texts
    from ssl_keras.data.splits import from_arrays
    from ssl_keras.downstream.finetune import finetune
    from ssl_keras.downstream.table import evaluate
    from ssl_keras.encoders import load_classifier, load_encoder, load_tokenizer
    from ssl_keras.engine.config import Training
    from ssl_keras.training.pretrain import pretrain

# Keras reads KERAS_BACKEND once, when it is imported. The networks here need its TensorFlow backend.
if "keras" in sys.modules and sys.modules["keras"].config.backend() != "tensorflow":
    raise ImportError(
        f"ssl_keras needs Keras' TensorFlow backend. Received: {sys.modules['keras'].config.backend()}, from "
        "KERAS_BACKEND or keras.json. Import ssl_keras before keras, or set KERAS_BACKEND=tensorflow."
    )
if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    logging.getLogger(__name__).warning(
        "Ignoring KERAS_BACKEND=%s: ssl_keras uses Keras' TensorFlow backend.", os.environ["KERAS_BACKEND"]
    )
os.environ["KERAS_BACKEND"] = "tensorflow"
# TensorFlow uses oneDNN kernels by default only on the newest CPUs. On CPUs with AVX2 and without AVX-512 they make
# convolutions two to five times as fast. TensorFlow reads this when it is imported; 0 turns them off.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"
__all__ = [
    "Training",
    "evaluate",
    "finetune",
    "from_arrays",
    "from_texts",
    "load_classifier",
    "load_encoder",
    "load_tokenizer",
    "pretrain",
]
_MODULES = {
    "Training": "engine.config",
    "evaluate": "downstream.table",
    "finetune": "downstream.finetune",
    "from_arrays": "data.splits",
    "from_texts": "data.readers.text",
    "load_classifier": "encoders",
    "load_encoder": "encoders",
    "load_tokenizer": "encoders",
    "pretrain": "training.pretrain",
}


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
