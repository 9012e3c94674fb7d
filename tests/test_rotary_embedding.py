"""The module: frequencies, tables that grow, and what is saved. The op has a file of its own."""

import copy
import math

import harness
import pytest
import torch
from harness import nan_filled_outputs  # noqa: F401
from pylayers import functional, reference
from test_rotary import every_order, every_pairing, heads

import pylayers

# What transformers 5.23 computes: dim, max_positions, base, scaling, length, magnitude, frequencies.
TRANSFORMERS = {
    "default": (16, 64, 1e4, {}, 48, 1.0, [1.0, 0.3162278, 0.1, 0.03162278, 0.01, 0.003162278, 0.001, 0.0003162278]),
    "linear": (
        16, 64, 1e4, {"rope_type": "linear", "factor": 4.0}, 48, 1.0,
        [0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
    ),
    "dynamic, short": (
        16, 64, 1e4, {"type": "dynamic", "factor": 2.0}, 48, 1.0,
        [1.0, 0.3162278, 0.1, 0.03162278, 0.01, 0.003162278, 0.001, 0.0003162278],
    ),
    "dynamic, long": (
        16, 64, 1e4, {"rope_type": "dynamic", "factor": 2.0}, 200, 1.0,
        [1.0, 0.2495285, 0.06226445, 0.01553675, 0.003876863, 0.0009673875, 0.0002413907, 6.023386e-05],
    ),
    "llama3": (
        16, 131072, 5e5,
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        48, 1.0, [1.0, 0.1939228, 0.03760603, 0.007292665, 0.000524846, 3.428102e-05, 6.64787e-06, 1.289173e-06],
    ),
    "yarn": (
        16, 1024, 1e4, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 48, 1.138629436111989,
        [1.0, 0.2569351, 0.0625, 0.01383497, 0.0025, 0.0007905695, 0.00025, 7.905695e-05],
    ),
    "yarn, every parameter": (
        32, 1024, 5e4,
        {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 128, "beta_fast": 16, "beta_slow": 2,
            "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False,
        },
        48, 1.094179988101349,
        [
            1.0, 0.4155159, 0.1377163, 0.03261262, 0.008359254, 0.00425091, 0.002161704, 0.001099286, 0.000559017, 0.0002842755,
            0.0001445619, 7.351368e-05, 3.738372e-05, 1.901065e-05, 9.667435e-06, 4.916156e-06,
        ],
    ),
    "yarn, attention_factor": (
        16, 1024, 1e4, {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512, "attention_factor": 0.75}, 48, 0.75,
        [1.0, 0.2766993, 0.075, 0.01976424, 0.005, 0.001581139, 0.0005, 0.0001581139],
    ),
    "yarn, no ramp": (
        4, 1024, 1e4,
        {
            "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8, "beta_fast": 4, "beta_slow": 4, "truncate": False,
        },
        48, 1.0693147180559945, [1.0, 0.01],
    ),
}  # fmt: skip


@pytest.mark.parametrize("dim,max_positions,base,scaling,length,magnitude,expected", TRANSFORMERS.values(), ids=TRANSFORMERS.keys())
def test_rotary_embedding_has_the_frequencies_of_transformers(dim, max_positions, base, scaling, length, magnitude, expected):
    layer = pylayers.RotaryEmbedding(dim, max_positions, base, scaling=scaling)
    q, k = heads(1, length, 2, 1, dim + 2)
    angles = torch.arange(length)[:, None].double() * torch.tensor(expected, dtype=torch.float64)
    exact = reference.rotary(q.double(), k.double(), angles.cos() * magnitude, angles.sin() * magnitude)
    for y, z in zip(layer(q, k), exact, strict=True):
        torch.testing.assert_close(y.double(), z, rtol=1e-4, atol=1e-4)  # seven digits of an angle up to 200
    if length <= max_positions:
        torch.testing.assert_close(layer.inv_freq, torch.tensor(expected), rtol=5e-7, atol=0)


def test_rotary_embedding_is_exact_at_far_positions():
    layer = pylayers.RotaryEmbedding(4, 200_000)
    turns = 150_000 * 10000.0**-0.5
    assert abs(float(layer.cos[150_000, 1]) - math.cos(turns)) < 1e-7 and abs(float(layer.sin[150_000, 0]) - math.sin(150_000)) < 1e-7


@every_pairing
@every_order
def test_rotary_embedding(interleaved, heads_first):
    layer = pylayers.RotaryEmbedding(6, 20, interleaved=interleaved, heads_first=heads_first)
    q, k = heads(2, 5, 3, 1, 8, heads_first)
    options = dict(interleaved=interleaved, heads_first=heads_first)
    for positions in (None, torch.tensor([3, 4, 5, 0, 19])):
        expected = functional.rotary(q, k, layer.cos, layer.sin, positions=positions, **options)
        assert all(torch.equal(*pair) for pair in zip(layer(q, k, positions), expected, strict=True))
    harness.check_layer(lambda **kind: pylayers.RotaryEmbedding(6, 20, **options, **kind), q, k).raise_if_failed()


def test_rotary_embedding_grows():
    layer, long = pylayers.RotaryEmbedding(4, 8), pylayers.RotaryEmbedding(4, 40)
    q, k = heads(1, 20, 2, 1, 4)
    with torch.inference_mode():
        assert torch.equal(layer(q, k)[0], long(q, k)[0])
    assert len(layer.cos) == 20 and layer(q.requires_grad_(), k)[0].requires_grad
    layer(q[:, :3], k[:, :3], torch.tensor([20, 30, 39]), length=21)
    assert len(layer.cos) == 40 and torch.equal(layer.cos, long.cos) and torch.equal(layer.sin, long.sin)
    with pytest.raises(IndexError, match="rotary: positions must be between 0 and 39, the rows of cos, got 40"):
        layer(q[:, :1], k[:, :1], torch.tensor([40]))
    layer.reserve(41)
    assert torch.equal(layer.cos[:40], long.cos) and layer(q[:, :1], k[:, :1], torch.tensor([40]))[0].isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_rotary_embedding_in_a_cuda_graph():
    """Tables that a graph reads outlive their replacement; those that it makes itself are not kept."""
    layer, eager = (pylayers.RotaryEmbedding(8, 8, device="cuda") for _ in range(2))
    for tokens in (6, 20):
        q, k = (one.cuda() for one in heads(1, tokens, 2, 1, 8))
        layer(q[:, :6], k[:, :6])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = layer(q, k)
        assert len(layer.cos) == 8
        graph.replay()
        torch.testing.assert_close(found, eager(q, k))
    with torch.cuda.graph(graph := torch.cuda.CUDAGraph()):
        found = layer(q[:, :6], k[:, :6])
    layer.reserve(100)
    filler = [torch.full((8, 4), 7.0, device="cuda") for _ in range(64)]
    graph.replay()
    torch.testing.assert_close(found, eager(q[:, :6], k[:, :6]))
    del filler


@pytest.mark.parametrize("scaling", [{}, {"rope_type": "dynamic", "factor": 2.0}], ids=["plain", "dynamic"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic sizes"])
def test_rotary_embedding_compiles_beyond_its_tables(scaling, dynamic):
    layer, eager = (pylayers.RotaryEmbedding(4, 8, scaling=scaling) for _ in range(2))
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for tokens in (5, 12, 15, 6):
        q, k = heads(1, tokens, 2, 1, 4)
        torch.testing.assert_close(compiled(q, k), eager(q, k))
    assert len(layer.cos) == 8, "a graph's own tables are not kept"
    torch.compiler.reset()


def test_rotary_embedding_one_token_after_the_other():
    for scaling in ({}, {"rope_type": "dynamic", "factor": 3.0}):
        layer = pylayers.RotaryEmbedding(8, 4, scaling=scaling)
        q, k = heads(2, 9, 3, 1, 8)
        for position in range(9):
            here = slice(position, position + 1)
            one = layer(q[:, here], k[:, here], torch.tensor([position]), length=position + 1)
            whole = layer(q[:, : position + 1], k[:, : position + 1])
            for own, all_of_them in zip(one, whole, strict=True):
                assert torch.equal(own, all_of_them[:, here])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rotary_embedding_keeps_its_precision(dtype):
    exact = pylayers.RotaryEmbedding(8, 32)
    for layer in (
        pylayers.RotaryEmbedding(8, 32).to(dtype), pylayers.RotaryEmbedding(8, 32, dtype=dtype), copy.deepcopy(exact).to(dtype).float(),
        torch.nn.Sequential(pylayers.RotaryEmbedding(8, 32, device="meta")).to(dtype).to_empty(device="cpu")[0],
    ):  # fmt: skip
        assert torch.equal(layer.cos, exact.cos) and torch.equal(layer.sin, exact.sin) and torch.equal(layer.inv_freq, exact.inv_freq)
    cast = copy.deepcopy(exact)
    cast.cos, cast.sin = cast.cos.to(dtype), cast.sin.to(dtype)
    q, k = heads(1, 3, 2, 1, 8, dtype=dtype)
    assert torch.equal(cast(q, k)[0], exact(q, k)[0])
    double = copy.deepcopy(exact).double()
    assert double.cos.dtype == torch.float64 and abs(float(double.cos[31, 0]) - math.cos(31)) < 1e-15


def test_rotary_embedding_state():
    layer = pylayers.RotaryEmbedding(8, 32)
    assert not layer.state_dict()
    net = torch.nn.ModuleDict({"rotary": layer})
    net.load_state_dict({"rotary.inv_freq": layer.inv_freq.bfloat16()}, strict=True)
    with pytest.raises(RuntimeError, match="RotaryEmbedding: rotary.inv_freq must be the frequencies of 8, max_positions=32, base=10000.0"):
        net.load_state_dict({"rotary.inv_freq": pylayers.RotaryEmbedding(8, 32, base=500000.0).inv_freq}, strict=True)
    layer.cos.fill_(3)
    net.load_state_dict({})
    assert torch.equal(layer.cos, pylayers.RotaryEmbedding(8, 32).cos)


@pytest.mark.parametrize(
    "arguments,options,sentence",
    [
        ((7,), {}, "dim must be even and positive (pairs of features turn), got 7"),
        ((0,), {}, "dim must be even and positive"),
        ((8, 0), {}, "max_positions must be positive, got 0"),
        ((8,), {"scaling": {"rope_type": "mine"}}, "scaling must be of type 'default', 'linear', 'dynamic', 'llama3', 'yarn', got 'mine'"),
        ((8,), {"scaling": {"rope_type": "linear"}}, "scaling of type 'linear' must have 'factor', got ['rope_type']"),
        ((8,), {"scaling": {"type": "linear", "factor": 2.0, "beta_fast": 1}}, "must have no other keys than 'factor', got 'beta_fast'"),
        ((8,), {"scaling": {"rope_theta": 5e5}}, "base must be the rope_theta of scaling (500000.0), got 10000.0"),
        ((2,), {"scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dim must be more than 2 with scaling of type 'dynamic', got 2"),
    ],
)
def test_rotary_embedding_bad_arguments(arguments, options, sentence):
    with pytest.raises(ValueError) as raised:
        pylayers.RotaryEmbedding(*arguments, **options)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_rotary_embedding_bad_input():
    layer = pylayers.RotaryEmbedding(8)
    with pytest.raises(TypeError, match="rotary: q must be a Tensor, got NoneType"):
        layer(None, torch.ones(2, 3, 1, 8))
    with pytest.raises(ValueError, match="rotary: q must have shape"):
        layer(torch.ones(8), torch.ones(2, 3, 1, 8))
