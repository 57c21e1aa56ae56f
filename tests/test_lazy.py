"""Names that are imported when they are first used."""

import gc
from pathlib import Path

import pytest

from hub_models.lazy import imported, loader


@pytest.fixture
def collecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that hold whether garbage was collected while they were imported; the second one fails."""
    (tmp_path / "collecting_one.py").write_text("import gc\nCOLLECTS = gc.isenabled()\n")
    (tmp_path / "collecting_two.py").write_text("raise ValueError('in it')\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_no_garbage_is_collected_during_an_import(collecting: None) -> None:
    assert imported("collecting_one", "COLLECTS") is False and gc.isenabled()
    with pytest.raises(ValueError, match="in it"):
        imported("collecting_two", "COLLECTS")
    assert gc.isenabled()


def test_collection_stays_off_where_it_was(collecting: None) -> None:
    gc.disable()
    try:
        imported("collecting_one", "COLLECTS")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_names_of_a_package() -> None:
    load = loader("package", {"loader": "hub_models.lazy", "other": "not_there_at_all"})
    assert load("loader") is loader
    with pytest.raises(AttributeError, match="'package' has no attribute 'unknown'"):
        load("unknown")
    with pytest.raises(ImportError, match="package.other needs not_there_at_all: pip install"):
        load("other")
