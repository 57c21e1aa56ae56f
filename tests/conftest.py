"""What every test needs: no network, a cache of its own, the real X-rays where they are at hand."""

import os
import tempfile
from pathlib import Path

# Read when the libraries are imported, so set before any import of them.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "TOKENIZERS_PARALLELISM": "false"}
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf_home_")
os.environ["ACCELERATE_USE_CPU"] = "true"

import pytest  # noqa: E402

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "chest-xray-masks-and-labels"


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """The real X-rays beside the project; the test is skipped, saying so, where they are not."""
    if not REAL.is_dir():
        pytest.skip(f"no real X-rays at {REAL}")
    return REAL
