"""A small share of the trials; `make trials` runs all of them."""

from collections.abc import Iterator

import pytest
from trials.table import TRIALS, Trial, Workshop

SHARE = 0.02


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """What the trials share."""
    with Workshop(tmp_path_factory.mktemp("trials"), seed=1) as shop:
        yield shop


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_faults_are_survived(trial: Trial, shop: Workshop) -> None:
    said = list(trial.run(shop, max(1, round(SHARE * trial.n))))
    assert said and not list(filter(None, said))
