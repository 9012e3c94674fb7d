"""Two products on two GPUs at once, and on two streams of one."""

import sys
from pathlib import Path

import torch

from pylayers import device

sys.path.insert(0, str(Path(__file__).parents[1]))
from timing import seconds

SIZE = 4096


def on_two_streams(place):
    a, b = torch.randn(2, 512, 512, device=place)
    streams = [torch.cuda.Stream(place) for _ in range(2)]

    def together():
        for stream, matrix in zip(streams, (a, b), strict=True):
            with torch.cuda.stream(stream):
                for _ in range(20):
                    matrix @ matrix

    def in_turn():
        for matrix in (a, b):
            for _ in range(20):
                matrix @ matrix

    print(f"two streams: {seconds(together, place) * 1e3:.2f} ms, one after the other {seconds(in_turn, place) * 1e3:.2f} ms")


def main():
    if device.num_gpus() == 0:
        print("Answer: skipped, there is no GPU here.")
        return
    on_two_streams(device.gpu())
    if device.num_gpus() < 2:
        print("Answer: two streams as above; two GPUs skipped, there is one here.")
        return
    places = [device.gpu(0), device.gpu(1)]
    pairs = [torch.randn(2, SIZE, SIZE, device=place) for place in places]

    def both():
        for a, b in pairs:
            a @ b
        torch.cuda.synchronize(places[1])

    one = seconds(lambda: pairs[0][0] @ pairs[0][1], places[0])
    two = seconds(both, places[0])
    print(f"Answer: two products on two GPUs take {two * 1e3:.1f} ms, one on one {one * 1e3:.1f} ms.")


if __name__ == "__main__":
    main()
