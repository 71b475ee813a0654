"""Data: sources addressable by index, and batches that are pure functions of (seed, step)."""
