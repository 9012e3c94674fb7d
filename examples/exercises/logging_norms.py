"""1000 products of 100×100 matrices, the Frobenius norm of each logged: one by one, on the device, and fused."""

import sys
from pathlib import Path

import torch

from pylayers import device

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import seconds

COUNT, SIZE = 1000, 100


def main():
    torch.manual_seed(0)
    place = device.try_gpu()
    a, b = torch.randn(2, SIZE, SIZE, device=place)
    norms = {}

    def one_by_one():
        norms["one by one"] = [(a @ b).norm().item() for _ in range(COUNT)]  # waits a thousand times

    def on_the_device():
        log = device.GpuLog(COUNT, device=place)
        for _ in range(COUNT):
            log.log((a @ b).norm())
        norms["on the device"] = log.values().tolist()  # waits once

    def fused():
        norms["fused"] = (a.expand(COUNT, SIZE, SIZE) @ b).flatten(1).norm(dim=1).tolist()

    for function in (one_by_one, on_the_device, fused):
        time = seconds(function, place, repeats=1)
        print(f"{function.__name__.replace('_', ' '):>14} on {place.type}: {time * 1e3:8.1f} ms")
    one, two, three = (torch.tensor(values) for values in norms.values())
    print("the same norms:", torch.allclose(one, two) and torch.allclose(one, three), len(one))
    skipped = "" if place.type == "cuda" else " There is no GPU here, so there is no wait to save."
    print(f"Answer: keep the log on the device and read it once; one batched product is better still.{skipped}")


if __name__ == "__main__":
    main()
