import pytest

from hub_models.benchmarks import start


@pytest.mark.slow
def test_all_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "PAIRS", 1)
    found = start.start_ratios()
    assert list(found) == ["start_time", "start_more_seconds", "help_time", "ready_time", "page_time"]
    assert all(value > 0 for name, value in found.items() if name != "start_more_seconds")


def test_page_that_ends_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="cxm app says why"):
        start.first_answer()
