"""Time of work on a device, without its start-up."""

import time

import torch


def seconds(function, device, repeats=5):
    """The median of a few runs, each waited for."""

    def run():
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    run()
    return sorted(run() for _ in range(repeats))[repeats // 2]
