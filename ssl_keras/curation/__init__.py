"""Data curation: which examples of a large collection are worth pretraining on, and why the others are not."""
