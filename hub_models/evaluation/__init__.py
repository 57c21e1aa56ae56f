"""Test a model: metrics of each image, intervals, charts and pictures."""
