import os
from pathlib import Path

import gpu
import pytest


@pytest.fixture(scope="session", autouse=True)
def comparison_with_a_gpu():
    """Written to the file that PYLAYERS_COMPARISON names, where there is a GPU."""
    yield
    if gpu.compared and "PYLAYERS_COMPARISON" in os.environ:
        gpu.write(Path(os.environ["PYLAYERS_COMPARISON"]))
