"""A training run on disk: its config, its data and its folder."""
