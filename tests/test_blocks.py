import pytest
import torch
from pylayers import blocks

import pylayers


def test_make():
    tower = blocks.make(pylayers.GatedMLP, 100, 4, 8)
    assert len(tower) == 100 and len(list(tower.parameters())) == 300
    tower(torch.ones(2, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())
    assert not torch.equal(tower[0].up_proj.weight, tower[1].up_proj.weight)
    assert len(blocks.make(torch.nn.Identity, 0)) == 0


def test_parameters_matching():
    net = blocks.make(pylayers.Linear, 3, 4, 4)
    assert [name for name, _ in blocks.parameters_matching(net, r"^[02]\.bias")] == ["0.bias", "2.bias"]
    assert dict(blocks.parameters_matching(net, "1"))["1.weight"] is net[1].weight
    assert not list(blocks.parameters_matching(net, "nothing"))


def test_make_bad_input():
    one = torch.nn.Identity()
    for arguments, error, sentence in (
        ((lambda: one, 2), ValueError, "factory must return a new module each time"),
        ((lambda: 3, 1), TypeError, "factory must return a Module, got int"),
        ((torch.nn.Identity, -1), ValueError, "n must be at least 0, got -1"),
    ):
        with pytest.raises(error, match=f"blocks.make: {sentence}"):
            blocks.make(*arguments)
