"""Self-supervised learning for Keras: pretrain, load the encoder, fine-tune, at any scale."""

import logging
import os
import sys

# Keras reads this as it is imported; another project's choice, or that of keras.json, is not for our networks.
if "keras" in sys.modules and sys.modules["keras"].config.backend() != "tensorflow":
    raise ImportError(
        f"ssl_keras needs Keras' TensorFlow backend. Received: {sys.modules['keras'].config.backend()}, as "
        "KERAS_BACKEND or keras.json says. Import ssl_keras before keras, or set KERAS_BACKEND=tensorflow."
    )
if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    logging.getLogger(__name__).warning(
        "KERAS_BACKEND=%s is set aside: ssl_keras takes Keras' TensorFlow backend.", os.environ["KERAS_BACKEND"]
    )
os.environ["KERAS_BACKEND"] = "tensorflow"
# TensorFlow takes its oneDNN kernels by itself only on the newest CPUs. Where there is AVX2 and no AVX-512 they make
# convolutions two to five times as fast. (It reads this as it is imported; 0 turns them off.)
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"
