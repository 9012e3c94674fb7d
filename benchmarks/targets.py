"""The speed and memory that the package promises, each judged on what this run measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from .records import Case, Results, geometric_means

# "Not slower" and "not more" allow this much noise; factors such as 3x are taken as they are.
NOISE = 1.03
SPEEDUP = {
    **{"rms_norm": 3.0, "layer_norm": 1.0, "add_rms_norm": 1.5, "add_layer_norm": 1.5},
    **{"group_norm": 1.0, "group_norm channels last": 1.0, "group_norm silu": 1.5, "group_norm silu channels last": 1.5},
    **{"swiglu": 1.5, "swiglu_packed": 1.5, "geglu": 1.5, "geglu tanh": 1.5, "geglu_packed": 1.5, "reglu": 1.5, "relu_squared": 1.5},
    **{"softmax": 1.0, "log_softmax": 1.0, "softmax dim 0": 1.0},
    **{f"scaled_masked_softmax{kind}": 1.5 for kind in ("", " bool", " causal")},
    **{"center": 1.5, "center dim=-1": 1.5, "centered_affine": 1.5, "halve_until": 1.5, "dropout_add": 1.5},
    **{"cross_entropy": 1.5, "cross_entropy smoothing z_loss": 1.5, "linear_cross_entropy": 1.0, "linear_kl_div": 1.0},
    **{"mse_loss": 1.5, "binary_cross_entropy_with_logits": 1.5, "kl_div": 1.5},
    "parallel_linear": 1.5,
    **{"rotary": 1.5, "rotary interleaved": 1.5},
}
# Of forward + backward, at every size.
STEP_SPEEDUP = {"bilinear": 3.0, "tensor_reduction": 3.0, "tensor_reduction symmetric": 3.0}
# Losses of a linear map without its logits: beyond the gradients, and one sum of that of the weight in float32.
LOGITS_SHARE = 0.1
ROOF_SHARE = 0.9
WORKSPACE_BYTES = 1 << 20  # fits the cache of a core; beyond it, memory counts
CALL_SHARE = 0.5
CALL_EXTRA_SECONDS = 1e-6
ROOFS = {"copy": "copy", "product": "the plain matrix product"}
TRANSFORMS = ("leading_fourier",)  # the library's, whose call is most of ours
LARGE_BYTES = 64 << 20
# Geometric mean of the speed-up of whole models.
MODELS_SPEEDUP = {"float32": 1.08, "bfloat16": 1.25}
GPU_FORWARD_SHARE = 0.95
# Of the ops and functions that promise another one; columns are read twice.
GPU_FORWARD_SHARES = {"centered": 0.9, "halve_until": 0.9, "softmax dim 0": 0.6}
GPU_BACKWARD_SHARE = 0.8


@dataclass(frozen=True)
class Target:
    """`met` is None where this run did not measure what it takes."""

    goal: str
    where: str
    met: bool | None
    measured: str


def judge(results: Results) -> list[dict]:
    """Judged is the backend that serves by default, the first of ours in each case."""
    wall = [case for case in results.timed("wall") if case.ours]
    targets = [*_calls(results.timed("call"))]
    targets += [*_headlines(wall)] if results.device == "cpu" else [*_gpu_shares(results.timed("kernel"))]
    targets += [*_steps(wall), *_without_logits(wall), *_everywhere(wall), *_model(results.model), *_models(results.timed("model"))]
    targets += [*_processes(results.timed("processes")), *_serving(results.timed("serving"))]
    return [asdict(target) for target in targets]


def _not_slower(goal: str, where: str, speedup: float | None, note: str = "") -> Target:
    return Target(goal, where, speedup and speedup * NOISE >= 1, f"{speedup:.2f}x" if speedup else note)


def _calls(cases: list[Case]) -> Iterator[Target]:
    for case in cases:
        ours, eager = case.median(case.ours[0]) if case.ours else None, case.median("eager")
        if ours is None or eager is None:
            continue
        measured = f"{ours * 1e6:.2f} µs against {eager * 1e6:.2f} µs"
        where = f"{case.title} on {case.shape}, {case.step}"
        if case.op == "linear":
            yield Target("call costs at most torch.nn's + 1 µs", where, ours <= eager + CALL_EXTRA_SECONDS, measured)
        elif case.step == "forward" and case.op not in TRANSFORMS:
            yield Target("call costs at most half of torch.nn's", where, ours <= CALL_SHARE * eager, measured)
        else:
            yield Target("call costs less than torch.nn's", where, ours < eager, measured)


def _headlines(cases: list[Case]) -> Iterator[Target]:
    for case in cases:
        ours, factor = case.ours[0], SPEEDUP.get(case.title)
        speedup = case.speedup(ours)
        if not case.headline or factor is None:
            continue
        where = f"{case.title} {case.shape} {case.dtype}, {case.step}"
        goal = f"{factor:g}x eager, or {ROOF_SHARE:.0%} of {ROOFS[case.roof]}"
        if speedup is None:
            yield Target(goal, where, None, case.entries[ours].note)
            continue
        share, fresh = case.of_roof(ours), case.of_roof(ours, "clone")
        measured = f"{speedup:.2f}x eager, {share:.0%} of {ROOFS[case.roof]}"
        measured += f" ({fresh:.0%} of a copy into a fresh tensor)" if fresh else ""
        noise = NOISE if factor == 1 else 1  # a tie is "not slower"
        yield Target(goal, where, speedup * noise >= factor or share >= ROOF_SHARE, measured)
        yield _not_slower("not slower than torch.compile", where, case.speedup(ours, "compile"), case.entries["compile"].note)


def _steps(cases: list[Case]) -> Iterator[Target]:
    for title, factor in STEP_SPEEDUP.items():
        mine = [case for case in cases if case.title == title and case.step != "forward" and case.speedup(case.ours[0])]
        if not mine:
            continue
        speedup, worst = min(((case.speedup(case.ours[0]), case) for case in mine), key=lambda pair: pair[0])
        measured = f"at worst {speedup:.1f}x, {worst.shape} {worst.dtype}"
        yield Target(f"forward + backward {factor:g}x eager at every size", title, speedup >= factor, measured)


def _without_logits(cases: list[Case]) -> Iterator[Target]:
    """Of forward + backward, at the headline and at every larger vocabulary."""
    for case in cases:
        if case.title != "linear_cross_entropy" or case.step == "forward" or case.size[-1] < 32000:
            continue
        where, (rows, inner, classes) = f"{case.title} {case.shape} {case.dtype}", case.size
        gradients = (rows + classes) * inner * case.element_size
        goal = f"at most {LOGITS_SHARE:.0%} of eager's memory beyond gradients and a float32 sum"
        ours, eager = (case.entries[name].peak_bytes for name in (case.ours[0], "eager"))
        if ours is None or eager is None:
            yield Target(goal, where, None, "not measured")
        else:
            ours, eager = ours - gradients - 4 * classes * inner, eager - gradients
            yield Target(goal, where, ours <= LOGITS_SHARE * eager, f"{ours / 1e6:.0f} MB against {eager / 1e6:.0f} MB")
        for name, entry in case.entries.items():
            if entry.role == "peer" and (against := case.speedup(case.ours[0], name)):
                yield _not_slower(f"not slower than {name}", where, against)


def _gpu_shares(cases: list[Case]) -> Iterator[Target]:
    """Of kernel time. A backward's own time is the difference of the two steps, for the copy as well."""
    forwards = {case.key[:3]: case for case in cases if case.step == "forward"}
    for case in cases:
        ours, where = case.ours[0] if case.ours else "", f"{case.title} {case.shape} {case.dtype}"
        if case.roof != "copy" or case.bytes < LARGE_BYTES or not case.median(ours):
            continue
        if case.step == "forward":
            share, what = case.of_roof(ours, "copy"), "forward"
            least = GPU_FORWARD_SHARES.get(case.title, GPU_FORWARD_SHARES.get(case.op, GPU_FORWARD_SHARE))
        elif case.op.endswith("_norm"):
            forward = forwards[case.key[:3]]
            share = (case.median("copy") - forward.median("copy")) / (case.median(ours) - forward.median(ours))
            least, what = GPU_BACKWARD_SHARE, "backward with weight gradient"
        else:
            continue
        yield Target(f"{what} at {least:.0%} of copy", where, share >= least, f"{share:.0%}")


def _everywhere(cases: list[Case]) -> Iterator[Target]:
    """Over every size at once: one line per function, naming the worst."""
    for title in dict.fromkeys(case.title for case in cases):
        mine = [case for case in cases if case.title == title]
        slowest = min((c for c in mine if c.speedup(c.ours[0])), key=lambda c: c.speedup(c.ours[0]), default=None)
        if slowest:
            speedup = slowest.speedup(slowest.ours[0])
            measured = f"at worst {speedup:.2f}x, {slowest.shape} {slowest.dtype}, {slowest.step}"
            yield Target("not slower than eager at any size", title, speedup * NOISE >= 1, measured)
        if title in ("linear_cross_entropy", "linear_kl_div"):
            continue  # their float32 sums are more than eager has; that of the first is judged by itself
        peaks = [(c.entries[c.ours[0]].peak_bytes, c.entries["eager"].peak_bytes, c) for c in mine
                 if c.entries[c.ours[0]].peak_bytes and c.entries["eager"].peak_bytes]
        if peaks:
            ours, eager, worst = max(peaks, key=lambda peak: peak[0] / (peak[1] + WORKSPACE_BYTES))
            measured = f"at worst {ours / 1e6:.2f} MB against {eager / 1e6:.2f} MB, {worst.shape} {worst.dtype}, {worst.step}"
            goal = "peak memory not above eager's and 1 MiB at any size"
            yield Target(goal, title, ours <= eager * NOISE + WORKSPACE_BYTES, measured)


def _model(model: dict | None) -> Iterator[Target]:
    if model is None:
        return
    for name, difference in model["differences"].items():
        measured = f"{difference:.2g}, bound {model['bound']:.2g}"
        yield Target("training losses agree with torch.nn's", name, difference <= model["bound"], measured)
    ours = model["variants"]["pylayers"]
    measured = f"{ours['held_out_before']:.3f} → {ours['held_out_after']:.3f}"
    yield Target("held-out loss falls", "language model", ours["held_out_after"] < ours["held_out_before"], measured)
    both = [model["variants"].get(f"{layers}, compiled") for layers in ("pylayers", "torch.nn")]
    if all(both):
        ours, theirs = (one.get("tokens_per_second") for one in both)
        note = both[0]["note"] or both[1]["note"]
        yield _not_slower("compiled: not slower than torch.nn compiled", "language model", ours and theirs and ours / theirs, note)


def _processes(cases: list[Case]) -> Iterator[Target]:
    for case in cases:
        where = f"language model, {case.title}"
        yield _not_slower("not slower than torch.nn on several processes", where, case.speedup("pylayers"), case.entries["pylayers"].note)


def _serving(cases: list[Case]) -> Iterator[Target]:
    for case in cases:
        where = f"language model {case.shape}"
        yield _not_slower("generation in C++: not slower than in Python", where, case.speedup("C++", "package"), case.entries["C++"].note)


def _models(cases: list[Case]) -> Iterator[Target]:
    """Models of other packages, converted."""
    for dtype, mean in geometric_means(cases).items():
        if factor := MODELS_SPEEDUP.get(dtype):
            yield Target(f"{factor:g}x the original models, geometric mean", dtype, mean >= factor, f"{mean:.2f}x")
    for case in cases:
        where = f"{case.title} {case.dtype}"
        for name, rival, label in (("converted", "eager", "the original"), ("converted, compiled", "compile", "torch.compile alone")):
            note = case.entries[name].note or case.entries[rival].note
            yield _not_slower(f"{name}: not slower than {label}", where, case.speedup(name, rival), note)
        ours, theirs = (case.entries[name].peak_bytes for name in ("converted", "eager"))
        if ours is not None and theirs is not None:
            measured = f"{ours / 1e6:.0f} MB against {theirs / 1e6:.0f} MB"
            yield Target("peak memory not above the original's", where, ours <= theirs * NOISE + WORKSPACE_BYTES, measured)
