"""Devices: what there is, tensors and layers on them, the rule of one device, logging without waiting."""

import time

import torch
from torch import nn

import pylayers
from pylayers import device


def seconds(function, place):
    def run():
        function()
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    torch.manual_seed(0)
    print("GPUs:", device.num_gpus(), "| never an empty list:", len(device.try_all_gpus()) >= 1)
    place = device.try_gpu()
    print("using", place.type)
    x = torch.ones(2, 3, device=place)
    net = nn.Sequential(pylayers.LazyLinear(1)).to(place)
    y = net(x)
    print("layer and data on one device:", y.device == net[0].weight.device == x.device)
    print(".to(same) keeps identity:", x.to(place) is x and net.to(place) is net)
    try:
        pylayers.functional.linear(x, net[0].weight.to("meta"))
    except RuntimeError as error:
        print("two devices:", str(error).splitlines()[0])

    log = device.GpuLog(100, device=place)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        log.log(loss)  # stays on the device
    losses = log.values()
    print("logged", len(log), "losses, falling:", bool(losses[-1] < losses[0]))

    small, large = torch.randn(100, 100, device=place), torch.randn(1000, 1000, device=place)
    many = seconds(lambda: [small @ small for _ in range(1000)], place)
    one = seconds(lambda: large @ large, place)  # the same arithmetic
    print(f"1000 products of 100×100 against one of 1000×1000: {many * 1e3:.1f} ms against {one * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
