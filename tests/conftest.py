"""What every test may use."""

from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# Time per example says more about a busy machine than about the code.
settings.register_profile("addm", deadline=None)
settings.load_profile("addm")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans beside the checkout; a test that needs it is skipped without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real scans in ../shared/data, which are not here")
    return folder
