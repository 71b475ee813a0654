"""Training: strategies, checkpoints, and the pretraining and fine-tuning flows."""
