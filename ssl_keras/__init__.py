"""Self-supervised learning with Keras: pretrain an encoder, load it, fine-tune it, at any scale."""

import logging
import os
import sys

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
