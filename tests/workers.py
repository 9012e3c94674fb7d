"""Runs every layer in workers of a DataLoader, after this process used its threads, and prints what came of it as JSON.

A program of its own: the state of the process that forks is a part of what is tested.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent))

from settings import EXAMPLES, eager, same_bits

import pylayers

SECONDS = 40  # for a layer; a worker that hangs is a failure then


class Calls(Dataset):
    """Outputs and gradients of each layer."""

    def __len__(self):
        return len(EXAMPLES)

    def __getitem__(self, index):
        name = list(EXAMPLES)[index]
        try:
            return name, {key: one.numpy() for key, one in eager(name).items()}
        except Exception as error:
            return name, f"{type(error).__name__}: {error}"


def use_threads() -> None:
    """So that OpenMP has threads of its own, which do not outlive a fork: those of torch and ours."""
    torch.set_num_threads(2)
    x = torch.randn(2000, 512, requires_grad=True)
    for layer in (torch.nn.LayerNorm(512), pylayers.LayerNorm(512)):
        layer(x).sum().backward()


def problem(name: str, found) -> str:
    if isinstance(found, str):
        return found
    expected = eager(name)
    wrong = [key for key in {**expected, **found} if not same_bits(torch.as_tensor(found[key]), expected[key])]
    return f"{wrong[0]} has other bits" if wrong else ""


def main() -> None:
    use_threads()
    found = {}
    for start in ("fork", "spawn"):
        loader = DataLoader(Calls(), batch_size=None, num_workers=1, timeout=SECONDS, multiprocessing_context=start)
        found[start] = list(loader)
    torch.set_num_threads(1)  # as workers have it: the bits of torch's transforms depend on it
    print(json.dumps({start: {name: problem(name, one) for name, one in each} for start, each in found.items()}))


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
    main()
