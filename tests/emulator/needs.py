"""What tests of the emulator need of the machine."""

from importlib.util import find_spec

import pytest
from pylayers.emulator import toolkit


def _has_nvcc() -> bool:
    try:
        return bool(toolkit.find())
    except RuntimeError:
        return False


nvcc = pytest.mark.skipif(not _has_nvcc(), reason="no nvcc: pip install torch-pylayers[emulator]")
triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
