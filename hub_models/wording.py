"""Counts in sentences."""


def counted(number: int, noun: str) -> str:
    """Return `number` with its noun, which takes an s unless there is one: "1 image", "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
