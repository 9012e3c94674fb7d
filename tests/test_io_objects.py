import collections
import copy
import math
import os

import numpy
import pytest
import torch
from harness import normal
from pylayers import io
from torch import nn

import pylayers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8))


def test_save_keeps_types(path):
    matrix = normal(4, 6)
    obj = {
        "list": [1, True, 1.0, None, "é\ud800\n", b"\0\xff", (), (2, [3])],
        "numbers": [-0.0, math.inf, -math.inf, 5e-324, 10**400, -(2**63), 1 + 2j, complex(0, math.inf)],
        3: {2.5: "x", None: 1, True: 2, (1, "a"): 3},
        "counter": collections.Counter("aab"),
        "ordered": collections.OrderedDict(b=1, a=2),
        "torch": [torch.bfloat16, torch.Size([2, 3]), torch.device("cuda:1")],
        "": {},
        "numpy": [numpy.arange(3, dtype=numpy.uint16), numpy.float64(0.5), numpy.bool_(True), numpy.int8(-3)],
        "__metadata__": matrix,
    }
    io.save(path, obj)
    again = io.load(path)
    assert torch.equal(again.pop("__metadata__"), obj.pop("__metadata__"))
    assert repr(again) == repr(obj)  # repr tells 1 from 1.0 and True, a list from a tuple, -0.0 from 0.0
    assert type(again["numpy"][1]) is numpy.float64 and again["numpy"][0].dtype == numpy.uint16
    io.save(path, [math.nan])
    assert math.isnan(io.load(path)[0])


ALL_DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.complex128, torch.complex64, torch.complex32),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
]


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 3, 5)], ids=str)
def test_save_dtypes(dtype, shape, path):
    bits = torch.randint(0, 2 if dtype == torch.bool else 256, (math.prod(shape) * dtype.itemsize,), dtype=torch.uint8)
    tensor = bits.view(dtype).view(shape)
    io.save(path, tensor)
    assert same_bits(io.load(path), tensor)  # NaNs keep their payload


def test_save_layouts(path):
    base = normal(4, 6, 2)
    views = [base, base.transpose(0, 2), base[1:3, ::2], base[0, 0, 0].expand(3), base[1], torch.nn.Parameter(base[2])]
    io.save(path, [*views, base])
    again = io.load(path)
    assert all(same_bits(a.detach(), b.detach()) and a.stride() == b.stride() for a, b in zip(views, again, strict=False))
    assert again[0] is again[6] and isinstance(again[5], nn.Parameter)
    again[0].fill_(3)
    assert all(one.eq(3).all() for one in again)
    conjugate = normal(3, dtype=torch.complex64).conj()
    alone = [normal(5, 4).t(), normal(6)[::2], torch.ones(1).expand(4), conjugate, normal(2, 4)[:, :0]]
    halves = normal(8)
    io.save(path, [*alone, halves[:4], halves[4:]])
    *again, left, right = io.load(path)
    assert all(same_bits(a.resolve_conj(), b) for a, b in zip(alone, again, strict=True))
    assert again[0].stride() == (1, 4) and again[2].is_contiguous()
    assert left.untyped_storage().data_ptr() != right.untyped_storage().data_ptr()  # they never overlapped
    io.save(path, {"a": normal(3).requires_grad_(), "b": normal(3)})
    assert [one.requires_grad for one in io.load(path).values()] == [True, False]


def test_clone_prints_equal(path):
    net = nn.Sequential(pylayers.Linear(20, 256, activation="relu"), pylayers.Linear(256, 10))
    x = normal(2, 20)
    io.save(path, net.state_dict())
    clone = nn.Sequential(pylayers.Linear(20, 256, activation="relu"), pylayers.Linear(256, 10))
    loaded = io.load(path)
    clone.load_state_dict(loaded)
    assert (clone(x) == net(x)).all()
    assert type(loaded) is collections.OrderedDict and loaded._metadata == net.state_dict()._metadata


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def itself():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "obj,error,sentence",
    [
        ({"a": [1, {2}]}, TypeError, "save: a.1 is a builtins.set; what can be saved: None"),
        (print, TypeError, "the object is a builtins.builtin_function_or_method"),
        (nn.Linear(1, 1), TypeError, "torch.nn.modules.linear.Linear"),
        (collections.namedtuple("P", "x")(1), TypeError, "P; what can be saved"),
        (numpy.array(["a"]), TypeError, "numpy.ndarray"),
        ({"m": torch.ones(2, device="meta")}, ValueError, "m is on the meta device"),
        ({"s": torch.ones(2, 2).to_sparse()}, TypeError, "s has layout torch.sparse_coo"),
        ([(x := torch.ones(4)), x.view(torch.int32)], ValueError, "0 and 1 share memory and read it differently"),
        (deep(101), ValueError, "nested more than 100 deep"),
        (itself(), ValueError, "or contains itself"),
    ],
)
def test_save_refuses(obj, error, sentence, path):
    with pytest.raises(error) as raised:
        io.save(path, obj)
    assert sentence in str(raised.value) and str(raised.value).startswith("save: ")
    assert os.listdir(path.parent) == []


def test_load_depth_is_that_of_save(path):
    io.save(path, deep(99))
    assert repr(io.load(path)) == repr(deep(99))


def test_load_another_kind(path):
    io.save(path, 1)
    with pytest.raises(ValueError, match="load_model: .*: it holds 'object', not 'model'"):
        io.load_model(path)
    with pytest.raises(FileNotFoundError):
        io.load(path.with_name("none"))
