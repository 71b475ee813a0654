"""The choice of a self-supervised task for a dataset, by measuring all that apply under one budget of time."""
