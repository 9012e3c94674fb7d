"""What a file is: damaged and hostile ones are told, and writing one leaves the old or the new."""

import copy
import errno
import hashlib
import json
import os
import random
import resource
import stat
import time

import pytest
import torch
from pylayers import io
from pylayers.io import atomic
from torch import nn

import pylayers


@io.register
class Pair(nn.Module):
    def __init__(self, first, second=2, **named):
        super().__init__()
        self.first, self.second = first, second
        self.named = nn.ModuleDict(named)


def example() -> nn.Module:
    pair = Pair(nn.Linear(4, 2), tail=nn.Tanh())
    net = nn.Sequential(pylayers.Linear(3, 4), nn.BatchNorm1d(4), pair, nn.LazyLinear(2), nn.LSTM(2, 2))
    net.add_module("again", net[0])
    return net


def seal(header: str | dict, data: bytes) -> bytes:
    """A file with a true checksum: what somebody makes who wants to be believed."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    blank = text.replace(b'"' + b"f" * 64 + b'"', b'"' + b"0" * 64 + b'"')
    digest = hashlib.sha256(len(text).to_bytes(8, "little") + blank + data).hexdigest().encode()
    return len(text).to_bytes(8, "little") + text.replace(b"f" * 64, digest), data


class File:
    """A model file taken apart."""

    def __init__(self, path):
        self.bytes = path.read_bytes()
        length = int.from_bytes(self.bytes[:8], "little")
        self.header = json.loads(self.bytes[8 : 8 + length])
        self.data = self.bytes[8 + length :]
        self.structure = json.loads(self.header["__metadata__"]["pylayers"])

    def sealed(self, header=None, structure=None, data=None) -> bytes:
        header = copy.deepcopy(self.header if header is None else header)
        if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
            text = structure if isinstance(structure, str) else json.dumps(self.structure if structure is None else structure)
            header["__metadata__"].update({"pylayers": text, "pylayers.checksum": "f" * 64})
        text = json.dumps(header, separators=(",", ":"))
        return b"".join(seal(text, self.data if data is None else data))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    torch.manual_seed(0)
    io.save_model(example(), path)
    return File(path)


def places(value, path=()):
    """Every place in a tree of dicts and lists."""
    yield path
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(one, (*path, key))


def put(tree, path, value):
    tree = copy.deepcopy(tree)
    if not path:
        return value
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value(place[path[-1]]) if callable(value) else value
    return tree


def other_type(old, draw):
    """A value of a JSON type that the old one is not of."""
    values = [None, draw.random() < 0.5, 7, -3, 0.5, "text", "", [], ["dict"], {}, {"a": 1}, [[]], 1 << 70, -(1 << 70), 1e308]
    numbers = (int, float)
    same = (lambda one: isinstance(one, numbers)) if type(old) in numbers else (lambda one: type(one) is type(old))
    return draw.choice([one for one in values if not same(one)])


# Arguments are a constructor's own affair: some take a value of any type.
def outside_arguments(path):
    return not ({"args", "kwargs", "extra"} & set(path)) and not (path[-2:-1] in (("parameters",), ("buffers",), ("children",)))


def wrong_types(file, draw):
    paths = [path for path in places(file.structure) if path and outside_arguments(path)]
    path = draw.choice(paths)
    return file.sealed(structure=put(file.structure, path, lambda old: other_type(old, draw)))


def wrong_header_types(file, draw):
    path = draw.choice([path for path in places(file.header) if path[:1] != ("__metadata__",)])
    if not path:
        return file.sealed(header=draw.choice([[], 3, "a", None]))
    return file.sealed(header=put(file.header, path, lambda old: other_type(old, draw)))


HOSTILE = [
    *("os.system", "builtins.eval", "torch.load", "torch.nn.Module", "subprocess.Popen", "pylayers.io.load"),
    *("../Pair", "Linear", "", "\u202e", "a" * 5000),
]


def wrong_names(file, draw):
    index = draw.randrange(len(file.structure["modules"]))
    kind = draw.choice(["class", "registered", "function", "state", "child"])
    modules = ("modules", index)
    if kind == "class":
        return file.sealed(structure=put(file.structure, (*modules, "class"), draw.choice(HOSTILE)))
    if kind == "function":
        return file.sealed(structure=put(file.structure, (*modules, "class"), "torch.nn.functional.relu"))
    if kind == "registered":
        return file.sealed(structure=put(file.structure, (*modules, "kwargs"), {"x": ["registered", draw.choice(HOSTILE)]}))
    name = draw.choice(["a.b", "", "forward", "__class__", "train", "training", "_parameters"])
    part = "children" if kind == "child" else draw.choice(["parameters", "buffers"])
    return file.sealed(structure=put(file.structure, (*modules, part), {name: 0}))


def huge_sizes(file, draw):
    size = draw.choice([1 << 31, 1 << 40, 1 << 61, 1 << 62, 1 << 63, 10**30, 10**400])
    kind = draw.choice(["shape", "offset", "header", "argument", "view", "stride", "layers"])
    name = draw.choice([name for name in file.header if name != "__metadata__"])
    if kind == "shape":
        shape = draw.choice([[size], [size, size], [0, size, size, size], [1] * 70])
        return file.sealed(header=put(file.header, (name, "shape"), shape))
    if kind == "offset":
        return file.sealed(header=put(file.header, (name, "data_offsets", draw.randrange(2)), size))
    if kind == "header":
        return min(size, (1 << 64) - 1).to_bytes(8, "little") + file.bytes[8:]
    if kind in ("argument", "layers"):
        cls = "torch.nn.LSTM" if kind == "layers" else draw.choice(["pylayers.Linear", "torch.nn.BatchNorm1d"])
        wide = draw.choice(["in_features", "out_features"])
        key = {"torch.nn.LSTM": "num_layers", "pylayers.Linear": wide, "torch.nn.BatchNorm1d": "num_features"}[cls]
        index = next(i for i, one in enumerate(file.structure["modules"]) if one["class"] == cls)
        value = size if size < 1 << 62 else ["int", hex(size)]
        return file.sealed(structure=put(file.structure, ("modules", index, "kwargs", key), value))
    index = next(i for i, one in enumerate(file.structure["tensors"]) if "data" in one)
    value = [size, [2], [1]] if kind == "view" and draw.random() < 0.5 else [0, [2], [size]] if kind == "view" else [size, 1]
    return file.sealed(structure=put(file.structure, ("tensors", index, kind), value))


def graphs(file, draw):
    """References that go round in a circle, or nowhere."""
    count = len(file.structure["modules"])
    kind = draw.choice(["circle", "nowhere", "argument", "unused", "tensor"])
    index = draw.randrange(1, count)
    if kind == "circle":
        return file.sealed(structure=put(file.structure, ("modules", index, "children"), {"x": 0}))
    if kind == "argument":
        argument = {"x": ["list", ["module", draw.choice([0, index])]]}
        return file.sealed(structure=put(file.structure, ("modules", index, "kwargs"), argument))
    if kind == "unused":
        structure = copy.deepcopy(file.structure)
        structure["modules"].append(structure["modules"][-1])
        return file.sealed(structure=structure)
    part = "children" if kind == "nowhere" else "parameters"
    number = draw.choice([count, -1, 10**9, True, "0", [], 0.0])
    return file.sealed(structure=put(file.structure, ("modules", index, part), {"x": number}))


def odd_json(file, draw):
    text, header = json.dumps(file.structure), json.dumps(file.header, separators=(",", ":"))
    head = header[header.index('"__metadata__"') :]
    deep = draw.choice([200, 5000, 200_000])
    return draw.choice(
        [
            lambda: file.sealed(structure="[" * deep),
            lambda: file.sealed(structure='{"a":' * deep),
            lambda: file.sealed(structure=put(file.structure, ("modules", 1, "kwargs", "x"), nest(min(deep, 400)))),
            lambda: file.sealed(structure=text.replace('"kind"', '"kind":"model","kind"', 1)),
            lambda: file.sealed(structure=text.replace("true", draw.choice(["NaN", "Infinity", "1e999", "tru", "1" * 5000]), 1)),
            lambda: file.sealed(structure=text[: draw.randrange(len(text))]),
            lambda: b"".join(seal("[" * deep, b"")),
            lambda: b"".join(seal("{" + head[: head.index("}") + 1] + "," + header[1:], file.data)),
            lambda: b"".join(seal(header.replace("F32", draw.choice(["F31", "", "float32", "F4", "f32"]), 1), file.data)),
        ]
    )()


def nest(levels):
    value = 1
    for _ in range(levels):
        value = ["list", value]
    return value


def flipped(file, draw):
    found = bytearray(file.bytes)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        at = draw.randrange(len(found) * 8)
        found[at // 8] ^= 1 << at % 8
    return bytes(found)


def cut(file, draw):
    return file.bytes[: draw.randrange(len(file.bytes))]


def longer(file, draw):
    return file.bytes + draw.randbytes(draw.randrange(1, 100))


def moved(file, draw):
    """A stretch of the file written over another one, as a bad disk does."""
    size, found = draw.randrange(8, 600), bytearray(file.bytes)
    source, target = draw.sample(range(len(found) - size), 2)
    found[target : target + size] = found[source : source + size]
    return bytes(found)


def noise(file, draw):
    return draw.randbytes(draw.choice([0, 1, 7, 8, 9, 100, 5000]))


def data_of_another(file, draw):
    """A bool that is neither, tensors that overlap, gaps."""
    names = [name for name in file.header if name != "__metadata__" and file.header[name]["data_offsets"][1]]
    name = draw.choice(names)
    begin, end = file.header[name]["data_offsets"]
    step = draw.choice([-4, 4])
    return file.sealed(header=put(file.header, (name, "data_offsets"), [begin + step, end + step]))


MAKERS = {
    flipped: 250, cut: 150, longer: 30, moved: 50, noise: 20, wrong_types: 120, wrong_header_types: 80, wrong_names: 100,
    huge_sizes: 80, graphs: 50, odd_json: 40, data_of_another: 30,
}  # fmt: skip


def test_a_thousand_bad_files(file, tmp_path):
    """Every one raises one clear sentence; none crashes, hangs, fills the memory or runs anything."""
    path = tmp_path / "bad.safetensors"
    draw = random.Random(20)
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert sum(MAKERS.values()) == 1000
    reasons = set()
    for make, count in MAKERS.items():
        for number in range(count):
            bad = make(file, draw)
            if bad == file.bytes:  # a stretch moved to where the same bytes are
                bad += b"\0"
            path.write_bytes(bad)
            try:
                io.load_model(path)
            except ValueError as error:
                told = str(error)
                assert told.startswith("load_model: ") and "\n" not in told and len(told) < 1500, (make.__name__, number, told)
                # With a true checksum it may also be a class or an argument that is refused.
                assert make in (wrong_names, huge_sizes, graphs, wrong_types, odd_json) or type(error) is io.DamagedFile
                reasons.add(told.replace(str(path), "")[:40])
            else:
                pytest.fail(f"{make.__name__} {number} was loaded")
    assert len(reasons) > 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # KiB
    assert time.monotonic() - start < 60


def test_every_byte_counts(tmp_path):
    """Any one bit, anywhere in the file, also in the blanks and in the checksum's own digits."""
    path = tmp_path / "small.safetensors"
    io.save(path, {"a": torch.arange(3), "b": 1})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(io.DamagedFile, match="^load: .* is damaged: "):
            io.load(path)
    for end in range(0, len(whole), 5):
        path.write_bytes(whole[:end])
        with pytest.raises(io.DamagedFile):
            io.load(path)
    path.write_bytes(whole)
    assert io.load(path)["b"] == 1


def test_untouched_and_sealed_again_loads(file, tmp_path):
    """The hostile files above are refused for what is wrong in them, not for how they were made."""
    path = tmp_path / "good.safetensors"
    path.write_bytes(file.sealed())
    assert repr(io.load_model(path)) == repr(example())


def test_bool_that_is_neither(tmp_path):
    path = tmp_path / "bool.safetensors"
    io.save(path, torch.tensor([True, False]))
    whole = File(path)
    path.write_bytes(whole.sealed(data=b"\2\0"))
    with pytest.raises(io.DamagedFile, match="tensor 'tensor' has a bool that is neither"):
        io.load(path)
    path.write_bytes(whole.sealed(data=b"\0\1"))
    assert io.load(path).tolist() == [False, True]


def test_defaults_of_torch_stay_out(file):
    """So that a torch whose constructors know fewer arguments reads the file."""
    linear = next(one for one in file.structure["modules"] if one["class"] == "torch.nn.Linear")
    assert linear["kwargs"] == {"in_features": 4, "out_features": 2}


def test_newer_format(file, tmp_path):
    path = tmp_path / "new.safetensors"
    path.write_bytes(file.sealed(structure={**file.structure, "version": 2}))
    with pytest.raises(ValueError, match="it has format 2; this is a reader of format 1"):
        io.load_model(path)


def test_a_file_of_another_program(tmp_path):
    import safetensors.torch

    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, path)
    with pytest.raises(io.DamagedFile, match="its header is not one that pylayers.io writes"):
        io.load(path)


# Writing.

CALLS = ("open", "fchmod", "write", "pwrite", "fsync", "close", "replace", "unlink")


class Cut(BaseException):
    """The end of the process, as far as Python can act it."""


class Disk:
    """os, as atomic.py and container.py see it, that fails at its n-th call."""

    def __init__(self, fail_at=None, error=None, dead=False):
        self.calls, self.fail_at, self.error, self.dead = [], fail_at, error, dead

    def __getattr__(self, name):
        real = getattr(os, name)
        return (lambda *args, **kwargs: self._call(name, real, args, kwargs)) if name in CALLS else real

    def _call(self, name, real, args, kwargs):
        here = len(self.calls)
        self.calls.append(name)
        if here == self.fail_at or (self.dead and self.fail_at is not None and here > self.fail_at):
            if name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])  # torn
            elif name == "close":
                real(*args)
            raise self.error
        return real(*args, **kwargs)


def install(monkeypatch, disk):
    monkeypatch.setattr(atomic, "os", disk)
    monkeypatch.setattr(io.container, "os", disk)


def calls_of_a_save(path, obj, monkeypatch):
    with monkeypatch.context() as patch:
        disk = Disk()
        install(patch, disk)
        io.save(path, obj)
    return disk.calls


@pytest.mark.parametrize("there", [True, False], ids=["over an old file", "new"])
def test_save_fails_at_any_call(there, tmp_path, monkeypatch):
    """An ordinary error anywhere: the old file is whole, or the new one is, and no temporary file stays."""
    path, old, new = tmp_path / "a.safetensors", {"n": 1}, {"n": 2, "t": torch.ones(5), "u": torch.ones(3).int()}
    if there:
        io.save(path, old)
    calls = calls_of_a_save(tmp_path / "probe", new, monkeypatch)
    (tmp_path / "probe").unlink()
    assert [calls.count(name) for name in ("open", "write", "pwrite", "fsync", "close", "replace")] == [2, 3, 1, 2, 2, 1]
    for at in range(len(calls) + there):
        for error in (OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()):
            with monkeypatch.context() as patch:
                disk = Disk(at, error)
                install(patch, disk)
                with pytest.raises(type(error)):
                    io.save(path, new)
            assert os.listdir(tmp_path) == ([path.name] if there or path.exists() else [])
            renamed = "replace" in disk.calls[:-1] and disk.calls[-1] != "unlink"
            assert not path.exists() or io.load(path)["n"] == (2 if renamed else 1)
            io.save(path, old) if there else path.unlink(missing_ok=True)


def test_save_is_killed_at_any_call(tmp_path, monkeypatch):
    """Nothing runs after the fault, not even the clearing up: the old file is whole under its name, or the new one."""
    path, new = tmp_path / "a.safetensors", {"n": 2, "t": torch.ones(5)}
    io.save(path, {"n": 1})
    calls = calls_of_a_save(path, new, monkeypatch)
    for at in range(len(calls)):
        io.save(path, {"n": 1})
        with monkeypatch.context() as patch:
            install(patch, Disk(at, Cut(), dead=True))
            with pytest.raises(Cut):
                io.save(path, new)
        assert io.load(path)["n"] == (2 if "replace" in calls[:at] else 1)


def test_save_in_order(tmp_path, monkeypatch):
    """On the disk before the name changes, and the name on the disk before save returns."""
    calls = calls_of_a_save(tmp_path / "a", torch.ones(2), monkeypatch)
    assert calls == ["open", "write", "write", "pwrite", "fsync", "close", "replace", "open", "fsync", "close"]


def test_save_over(tmp_path):
    """The mode of the old file and a link to it stay; a partial write is carried on."""
    path, link = tmp_path / "a", tmp_path / "link"
    io.save(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    path.chmod(0o640)
    link.symlink_to(path)
    io.save(link, 2)
    assert link.is_symlink() and io.load(path) == 2 and stat.S_IMODE(path.stat().st_mode) == 0o640
    io.save(tmp_path / ("n" * 250), 3)
    with pytest.raises(FileNotFoundError):
        io.save(tmp_path / "none" / "a", 1)


def umask() -> int:
    old = os.umask(0o022)
    os.umask(old)
    return old


def test_save_with_short_writes(tmp_path, monkeypatch):
    disk = Disk()
    disk.write = lambda descriptor, data: os.write(descriptor, bytes(data)[:7])
    install(monkeypatch, disk)
    io.save(tmp_path / "a", torch.arange(50))
    assert torch.equal(io.load(tmp_path / "a"), torch.arange(50))
