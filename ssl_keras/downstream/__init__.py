"""Labels on a saved encoder: fine-tuning, and the table of what it is worth."""
