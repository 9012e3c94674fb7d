"""Shapes, strides and dtypes that nobody thought of."""

import harness
import pytest
import torch
from harness import nan_filled_outputs, normal  # noqa: F401
from pylayers import functional, reference
from pylayers.check import DTYPES

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

BACKENDS = [pair for pair in harness.RUNNABLE if pair[0] not in ("reference", "triton")]
few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
every_fast_backend = pytest.mark.parametrize("backend,device", BACKENDS, ids=[pair[0] for pair in BACKENDS])


@st.composite
def tensors(draw, device: str, dtype: torch.dtype, shape=None):
    """A tensor of some shape that lies in memory in some way."""
    shape = shape or draw(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from((1, 1, 2))) for _ in shape]
    start = draw(st.integers(0, 3))
    held = [(shape[axis] + start) * steps[axis] for axis in order]
    memory = normal(*held, dtype=dtype, device=device, seed=draw(st.integers(0, 99)))
    view = memory.permute([order.index(axis) for axis in range(len(shape))])
    return view[tuple(slice(start * step, (start + size) * step, step) for size, step in zip(shape, steps, strict=True))]


@every_fast_backend
@given(data=st.data())
@few
def test_rms_norm_random(backend, device, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    x = data.draw(tensors(device, dtype))
    shape = x.shape[-data.draw(st.integers(1, x.dim())) :]
    weight = data.draw(tensors(device, dtype, tuple(shape)))
    harness.matches_float64(
        lambda a, w: functional.rms_norm(a, shape, w), lambda a, w: reference.rms_norm(a, shape, w), (x, weight), backend
    )


@every_fast_backend
@given(data=st.data())
@few
def test_swiglu_random(backend, device, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    gate = data.draw(tensors(device, dtype))
    up = data.draw(tensors(device, dtype, tuple(gate.shape)))
    harness.matches_float64(functional.swiglu, reference.swiglu, (gate, up), backend)


@every_fast_backend
@given(data=st.data())
@few
def test_linear_random(backend, device, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    x = data.draw(tensors(device, dtype))
    dim = data.draw(st.integers(1, 40))
    weight = data.draw(tensors(device, dtype, (dim, x.shape[-1])))
    bias = data.draw(tensors(device, dtype, (dim,)))
    activation = data.draw(st.sampled_from([None, "relu", "gelu", "silu", "tanh"]))
    ours, exact = (lambda *three, call=call: call(*three, activation=activation) for call in (functional.linear, reference.linear))
    harness.matches_float64(ours, exact, (x, weight, bias), backend)
