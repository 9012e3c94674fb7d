"""A small training run that test_checkpoint.py starts as a process of its own, and kills.

Run as a program it is a server: it imports torch once, and forks a process for each run that it reads from its input.
"""

import json
import os
import random
import signal
import sys
import traceback

import numpy
import torch
from pylayers import io
from pylayers.io import atomic
from torch import nn

import pylayers


def everything() -> dict:
    """Dropout, a tie, buffers, a scheduler, and every kind of random generator."""
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    model = nn.Sequential(
        pylayers.Linear(8, 8, bias=False, activation="relu"),
        nn.BatchNorm1d(8),
        nn.Dropout(0.2),
        pylayers.Linear(8, 8, bias=False),
    )
    model[3].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=1000)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "generator": torch.Generator().manual_seed(5)}


def train_step(model, optimizer, scheduler, generator) -> None:
    x = torch.randn(16, 8) + torch.randn(16, 8, generator=generator) + random.random() + numpy.random.rand()
    optimizer.zero_grad()
    (model(x) - x).square().mean().backward()
    optimizer.step()
    scheduler.step()


def weights(model: nn.Module) -> dict:
    return {name: one.clone() for name, one in model.state_dict().items()}


def train(folder: str, steps: int, kill_at: int | None = None) -> None:
    """Goes on from the newest checkpoint and saves after every step; `log` has a byte for each save that has returned.

    kill_at: of the calls of the operating system that saving makes, the one at which the process kills itself.
    """
    torch.set_num_threads(1)
    parts = everything()
    checkpoint = io.Checkpoint(os.path.join(folder, "run"), keep=2)
    done = checkpoint.resume(**parts)
    if kill_at is not None:
        atomic.os = io.container.os = Deadly(kill_at)
    log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, b"(")
    for step in range(done, steps):
        train_step(**parts)
        checkpoint.save(step + 1, best=step / 2, **parts)
        os.write(log, b".")
    io.save(os.path.join(folder, "final"), weights(parts["model"]))


class Deadly:
    """os, until its n-th call that touches the disk."""

    def __init__(self, kill_at: int):
        self.left = kill_at

    def __getattr__(self, name):
        real = getattr(os, name)
        return (lambda *args, **kwargs: self._call(name, real, args, kwargs)) if name in CALLS else real

    def _call(self, name, real, args, kwargs):
        self.left -= 1
        if self.left < 0:
            if name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])  # torn
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)


CALLS = ("open", "write", "pwrite", "fsync", "close", "replace")


def warm_up() -> None:
    """Imports what the first step imports. Without a backward, whose threads would not outlive the fork."""
    parts = everything()
    for parameter in parts["model"].parameters():
        parameter.grad = torch.zeros_like(parameter)
    parts["model"](torch.ones(2, 8))
    parts["optimizer"].step()
    parts["optimizer"].state_dict()


def serve() -> None:
    """Lines in: the arguments of train. Lines out: the process, and how it ended."""
    torch.set_num_threads(1)
    warm_up()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                train(*json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
