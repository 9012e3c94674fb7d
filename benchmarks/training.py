"""Trains the language model with each set of layers in turn, and says how far their losses part."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch

from .language_model import GPU, OURS, QUICK, TORCH, UNFUSED, Config, Layers, Trainer, batches, same_weights, standard_library
from .memory import peak_bytes
from .records import Timing
from .timing import synchronize, without_gc

# The losses of two right implementations part by rounding alone, and training makes more of it with every step. How
# much more is measured: the control is torch.nn's model again, its initial weights each moved by one rounding of the
# dtype that is computed in. The control rounds differently once, ours at every step, and independent roundings add up
# as the root of their number: the bound is BOUND_FACTOR · √steps · control. The floor, in roundings of the loss
# itself, is for runs so short that nothing has grown.
BOUND_FACTOR = 2.0
BOUND_FLOOR = 16.0


@dataclass
class Run:
    name: str
    role: str
    layers: Layers
    compiled: bool = False
    trainer: Trainer | None = None
    seconds: list[float] = field(default_factory=list)
    note: str = ""


def config_for(device: torch.device, quick: bool) -> Config:
    return QUICK if quick else GPU if device.type == "cuda" else Config()


def compare(device: torch.device, quick: bool, bfloat16: bool, compiled: bool, advance: Callable[[int], None]) -> dict:
    """Trains all variants on the same batches, a step of each in turn, and returns the section of the report.

    A compilation of the model takes many seconds: a quick run compiles ours only, and none without `compiled`.
    """
    config = config_for(device, quick)
    training, held_out = standard_library()
    runs = [Run("torch.nn", "eager", TORCH), Run("pylayers", "ours", OURS)]
    if not quick:
        runs.append(Run("pylayers, unfused", "unfused", UNFUSED))
    if compiled and not quick:
        runs.append(Run("torch.nn, compiled", "compile", TORCH, compiled=True))
    if compiled:
        runs.append(Run("pylayers, compiled", "ours", OURS, compiled=True))
    runs.append(Run("control", "control", TORCH))
    for run in runs:
        run.trainer = Trainer(config, run.layers, device, compiled=run.compiled, bfloat16=bfloat16)
        if not same_weights(run.trainer.model, runs[0].trainer.model):
            raise AssertionError(f"{run.name}: the initial weights differ from torch.nn's")
    before = {run.name: run.trainer.held_out_loss(held_out) for run in runs}
    _nudge(runs[-1].trainer.model, torch.bfloat16 if bfloat16 else torch.float32)
    _train(runs, list(batches(training, config, config.steps, device, seed=0)), device, advance)
    after = {run.name: run.trainer.held_out_loss(held_out) for run in runs if not run.note}
    probe = next(batches(training, config, 1, device, seed=2))
    variants = {run.name: _row(run, before, after, probe, device) for run in runs[:-1]}
    return {
        "config": asdict(config),
        "parameters": sum(p.numel() for p in runs[0].trainer.model.parameters()),
        "text": {"training_bytes": len(training), "held_out_bytes": len(held_out)},
        "dtype": "bfloat16" if bfloat16 else "float32",
        "variants": variants,
        **_agreement(runs),
    }


def _train(runs: Sequence[Run], windows: Sequence[torch.Tensor], device: torch.device, advance: Callable) -> None:
    torch.compiler.reset()
    order, shuffle = list(runs), random.Random(0).shuffle
    with without_gc():
        for index, batch in enumerate(windows):
            shuffle(order)
            for run in order:
                if run.note:
                    continue
                try:
                    _timed_step(run, batch, device)
                except Exception as error:
                    if not run.compiled or index:
                        raise
                    run.note = f"n/a: {str(error).strip().splitlines()[0][:120]}"
            advance(1)


def _timed_step(run: Run, batch: torch.Tensor, device: torch.device) -> None:
    synchronize(device)
    start = time.perf_counter()
    run.trainer.step(batch)
    synchronize(device)
    run.seconds.append(time.perf_counter() - start)


def _row(run: Run, before: dict, after: dict, probe: torch.Tensor, device: torch.device) -> dict:
    """What the report says of one variant. The first steps compile and warm up: their time is told apart."""
    if run.note:
        return {"role": run.role, "note": run.note}
    warm = run.seconds[3:]
    tokens = run.trainer.config.batch * run.trainer.config.tokens
    losses = list(run.trainer.losses)
    return {
        "role": run.role,
        "note": "",
        "first_step_seconds": run.seconds[0],
        "step_seconds": asdict(Timing.of(warm)),
        "tokens_per_second": tokens / statistics.median(warm),
        "peak_bytes": peak_bytes(lambda: run.trainer.step(probe), device),
        "held_out_before": before[run.name],
        "held_out_after": after[run.name],
        "losses": losses,
    }


def _nudge(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Moves every weight by one rounding of the dtype, up or down."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=generator).to(parameter) * 2 - 1
            parameter.mul_(1 + sign * torch.finfo(dtype).eps)


def _agreement(runs: Sequence[Run]) -> dict:
    """Greatest difference of the training loss from torch.nn's over all steps, and the bound that it must keep."""
    base = runs[0].trainer.losses[: len(runs[-1].seconds)]

    def apart(run: Run) -> float:
        return max(abs(a - b) for a, b in zip(base, run.trainer.losses))

    control = apart(runs[-1])
    bound = BOUND_FACTOR * math.sqrt(len(base)) * control + BOUND_FLOOR * torch.finfo(torch.float32).eps * max(base)
    differences = {run.name: apart(run) for run in runs[1:-1] if not run.note}
    return {
        "control_difference": control,
        "bound": bound,
        "differences": differences,
        "agree": all(difference <= bound for difference in differences.values()),
    }
