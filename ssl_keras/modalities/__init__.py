"""Modalities: what the objectives of one kind of data share."""
