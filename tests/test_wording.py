import pytest

from hub_models.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(1, "image", "1 image"), (0, "image", "0 images"), (2, "process", "2 processes"), (1, "process", "1 process")],
)
def test_counted(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said
