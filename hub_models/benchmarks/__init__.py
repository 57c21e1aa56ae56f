"""Ratios that tell whether the data, training, prediction and start-up are fast."""
