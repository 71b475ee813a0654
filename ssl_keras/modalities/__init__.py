"""Settings, data preparation and pictures that objectives for one kind of data share."""
