"""Self-supervised learning for Keras: pretrain, load the encoder, fine-tune, at any scale."""

import os

# TensorFlow takes its oneDNN kernels by itself only on the newest CPUs. Where there is AVX2 and no AVX-512 they make
# convolutions two to five times as fast. (It reads this as it is imported; 0 turns them off.)
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"
