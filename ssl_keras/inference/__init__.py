"""Inference with trained networks: generation, beam search, CTC decoding, image-text retrieval."""
