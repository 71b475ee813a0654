"""The training engine: the gradient update, the loop over steps, and the base class `Objective`."""
