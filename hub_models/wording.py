"""Counts in sentences."""


def counted(number: int, noun: str) -> str:
    """Return `number` with its noun, in the plural unless there is one: "1 image", "2 images", "2 processes"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"
