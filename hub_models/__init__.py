"""Rooms of the project: pixels, phantoms, data, tasks, training, evaluation; see the file tree in README.md."""
