"""What `make figures` runs beside the commands, and what writes the bundled models. See ../../figures.mk."""
