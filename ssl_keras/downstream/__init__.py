"""Downstream tasks on a saved encoder: fine-tuning, and the evaluation table."""
