"""Small and large products on CPU and GPU: where does the GPU begin to win?"""

import sys
from pathlib import Path

import torch

from pylayers import device

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import seconds

SIZES = (16, 64, 256, 1024)


def main():
    places = [torch.device("cpu"), *(place for place in device.try_all_gpus() if place.type == "cuda")][:2]
    crossover = None
    for size in SIZES:
        times = []
        for place in places:
            a = torch.randn(size, size, device=place)
            times.append(seconds(lambda a=a: a @ a, place))
        print(f"{size:5} × {size}: " + ", ".join(f"{place.type} {time * 1e6:9.1f} µs" for place, time in zip(places, times, strict=True)))
        if len(times) == 2 and times[1] < times[0] and crossover is None:
            crossover = size
    if len(places) < 2:
        print("Answer: skipped, there is no GPU here.")
    else:
        print("Answer: the GPU wins from", crossover, "on." if crossover else ": it never did.")


if __name__ == "__main__":
    main()
