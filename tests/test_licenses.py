"""Licences by the Hub's names."""

import pytest
from loopback_hub.cards import LICENSES as THEIRS

from hub_models.licenses import COMMON, LICENSES, known_license


def test_licenses_are_those_that_the_hub_takes() -> None:
    assert THEIRS - {"other", "unknown"} == LICENSES
    assert set(COMMON) <= LICENSES


def test_spdx_names_are_taken() -> None:
    assert [known_license(name) for name in ("mit", "Apache-2.0", "CC-BY-NC-SA-4.0")] == [
        "mit",
        "apache-2.0",
        "cc-by-nc-sa-4.0",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [(None, "no licence is chosen"), ("", "no licence is chosen"), ("apache2", "no licence 'apache2'")],
)
def test_other_names_are_refused_with_some_that_would_do(name: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=f"{said}.*apache-2.0, mit, cc-by-4.0"):
        known_license(name)
