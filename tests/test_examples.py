"""Every example runs, and says what it is there to say."""

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def same_state():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def output_of(name, capsys):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out
