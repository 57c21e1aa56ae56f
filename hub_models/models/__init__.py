"""Architectures, the table of tasks, trained models, and what is computed with them."""
