"""Training: distribution strategies, checkpoints, run folders, and the pretraining loop."""
