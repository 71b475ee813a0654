"""Inference: what trained networks are used for."""
