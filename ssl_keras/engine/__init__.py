"""The engine: how a batch becomes an update, on one device or many."""
