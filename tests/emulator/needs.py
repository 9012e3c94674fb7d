"""What tests of the emulator need of the machine."""

import pytest
from pylayers.emulator import toolkit


def _has_nvcc() -> bool:
    try:
        return bool(toolkit.find())
    except RuntimeError:
        return False


nvcc = pytest.mark.skipif(not _has_nvcc(), reason="no nvcc: pip install torch-pylayers[emulator]")
