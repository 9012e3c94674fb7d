"""Even if a model need not be deployed elsewhere, what is the benefit of storing its parameters? Work is not lost."""

import tempfile

import torch

import pylayers
from pylayers import io


def run(folder, steps, stop=None):
    """Trains for `steps`; stops early as if the power had gone. Returns the weight, and where it began."""
    torch.manual_seed(0)
    layer = pylayers.Linear(10, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    checkpoint = io.Checkpoint(folder, keep=2)
    start = checkpoint.resume(model=layer, optimizer=optimizer) or 0
    for step in range(start, steps):
        if step == stop:
            break
        optimizer.zero_grad()
        x = torch.randn(32, 10)
        (layer(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        checkpoint.save(step + 1, model=layer, optimizer=optimizer)
    return layer.weight.detach().clone(), start


def main():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        whole, _ = run(folder, 30)
        run(other, 30, stop=17)
        resumed, start = run(other, 30)
    print("resumed at step", start, "| the same bits as without the interruption:", torch.equal(whole, resumed))
    print("Answer: a crash costs one step instead of the run; models can be compared, resumed and reused.")


if __name__ == "__main__":
    main()
