"""Self-supervised learning for Keras: pretrain, load the encoder, fine-tune, at any scale."""

__version__ = "0.1.0"
