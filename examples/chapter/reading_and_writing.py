"""Tensors, lists, dicts, whole models and checkpoints, without pickle."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import pylayers
from pylayers import io


def make():
    return nn.Sequential(pylayers.Linear(20, 256, activation="relu"), pylayers.Linear(256, 10))


def train(net, optimizer, steps, start=0, checkpoint=None):
    for step in range(start, steps):
        optimizer.zero_grad()
        net(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
        if checkpoint:
            checkpoint.save(step + 1, model=net, optimizer=optimizer)


def main():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x, y = torch.arange(4), torch.zeros(4)
        io.save(folder / "tensors", {"x": x, "list": [x, y], "name": "tensors"})
        read = io.load(folder / "tensors")
        print("dict with a list:", read["x"].tolist(), read["list"][1].tolist(), read["name"])

        net, data = make(), torch.randn(2, 20)
        io.save_model(net, folder / "model")
        clone = io.load_model(folder / "model")
        print("architecture and weights in one file, the same bits:", torch.equal(clone(data), net(data)))

        broken = bytearray((folder / "model").read_bytes())
        broken[len(broken) // 2] ^= 1
        (folder / "broken").write_bytes(broken)
        try:
            io.load_model(folder / "broken")
        except io.DamagedFile as error:
            print("one bit flipped:", type(error).__name__, "-", len(str(error)) > 10)

        other = nn.Sequential(pylayers.Linear(20, 256, activation="relu"), pylayers.Linear(256, 2))
        report = io.load_matching(other, net.state_dict())
        print("first layer of another net:", torch.equal(other[0].weight, net[0].weight), "| second stays:", tuple(other[1].weight.shape))
        print(report)

        torch.manual_seed(1)
        whole = make()
        train(whole, torch.optim.Adam(whole.parameters()), 20)
        torch.manual_seed(1)
        first = make()
        train(first, torch.optim.Adam(first.parameters()), 12, checkpoint=io.Checkpoint(folder / "run", keep=2))
        second = make()  # after the power cord
        optimizer = torch.optim.Adam(second.parameters())
        step = io.Checkpoint(folder / "run", keep=2).resume(model=second, optimizer=optimizer)
        train(second, optimizer, 20, start=step)
        same = all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
        print("resumed at step", step, "and ended with the same bits:", same)


if __name__ == "__main__":
    main()
