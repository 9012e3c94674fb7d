import collections

import pytest
import torch
from harness import normal
from pylayers import device, functional
from test_backends import run_python


def test_devices(monkeypatch):
    for count in (0, 1, 3):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        gpus = [torch.device("cuda", i) for i in range(count)]
        assert device.num_gpus() == count
        assert device.try_all_gpus() == (gpus or [torch.device("cpu")])
        assert [device.try_gpu(i) for i in range(4)] == gpus + [torch.device("cpu")] * (4 - count)
        assert [device.gpu(i) for i in range(count)] == gpus
        with pytest.raises(RuntimeError, match=f"below the number of GPUs \\({count}\\), got {count}"):
            device.gpu(count)
    assert device.cpu() == torch.device("cpu")


@pytest.mark.parametrize("call", [device.gpu, device.try_gpu])
@pytest.mark.parametrize("index,error", [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("0", TypeError)])
def test_devices_bad_index(call, index, error):
    with pytest.raises(error, match=f"{call.__name__}: i must be"):
        call(index)


def test_devices_make_no_context():
    """Asking in a process that has not used CUDA leaves it so, and it may fork afterwards."""
    code = (
        "import torch; from pylayers import device\n"
        "device.num_gpus(), device.try_gpu(), device.try_gpu(7), device.try_all_gpus(), device.cpu()\n"
        "assert not torch.cuda.is_initialized() and not torch.cuda._is_in_bad_fork()\n"
    )
    ran = run_python(code)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    "name,call",
    [
        ("rms_norm", lambda x, y: functional.rms_norm(x, (4,), y[0])),
        ("swiglu", lambda x, y: functional.swiglu(x, y)),
        ("linear", lambda x, y: functional.linear(x, y)),
        ("linear", lambda x, y: functional.linear(x, x.detach(), y[0])),
    ],
)
@pytest.mark.parametrize("ours,other", [("cpu", "meta"), ("meta", "cpu")])
def test_mixed_devices_are_refused(name, call, ours, other):
    with pytest.raises(RuntimeError, match=rf"^{name}: \w+ must be on the device of \w+ \({ours}\), got {other}"):
        call(torch.ones(4, 4, device=ours), torch.ones(4, 4, device=other))


@pytest.fixture(params=device.try_all_gpus()[:1], ids=str)
def place(request):
    return request.param


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 13])
def test_gpu_log(place, count):
    log, expected = device.GpuLog(5, place), collections.deque(maxlen=5)
    for value in normal(count, dtype=torch.float64):
        log.log(value.to(place) if len(expected) % 2 else value.item())
        expected.append(value.float().item())
    assert log.values().tolist() == list(expected) and len(log) == len(expected) and log
    assert log.values().device.type == "cpu"
    log.clear()
    assert len(log) == 0 and log.values().shape == (0,)


def test_gpu_log_copies(place):
    log, loss = device.GpuLog(3, place), torch.ones((), device=place, requires_grad=True)
    for shaped in (loss, loss.detach(), loss.reshape(1, 1)):
        log.log(shaped)
    with torch.no_grad():
        loss.mul_(7)
    assert log.values().tolist() == [1, 1, 1] and not log.values().requires_grad
    (loss * 2).backward()
    with torch.inference_mode():
        log.log(loss)
    log.log(torch.tensor(3, device=place))
    assert log.values().tolist() == [1, 7, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gpu_log_casts(place, dtype):
    log = device.GpuLog(2, place, dtype)
    value = torch.tensor(1 / 3, dtype=torch.float64)
    log.log(value.to(place))
    assert log.values().dtype == dtype and log.values()[0] == value.to(dtype)


def test_gpu_log_never_waits():
    """On meta there is nothing to wait for: whatever reads a value raises."""
    log = device.GpuLog(4, "meta")
    for value in (torch.ones((), device="meta"), 1.5, 2):
        log.log(value)
    with pytest.raises((RuntimeError, NotImplementedError)):
        log.values()


def test_gpu_log_compiles(place):
    log = device.GpuLog(3, place)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x):
        loss = x.square().sum()
        log.log(loss)
        return loss * 2

    torch._dynamo.utils.counters.clear()
    for k in range(5):
        step(torch.full((2,), float(k), device=place))
    assert log.values().tolist() == [8, 18, 32]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_log_in_a_cuda_graph():
    log, x = device.GpuLog(3, "cuda"), torch.zeros((), device="cuda")
    log.log(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        log.log(x)
        x.add_(1)
    log.clear()
    for _ in range(5):
        graph.replay()
    assert log.values().tolist() == [2, 3, 4]
    torch.cuda.set_sync_debug_mode("error")
    try:
        log.log(x)
        log.log(1.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "arguments,value,error,sentence",
    [
        ((0,), None, ValueError, "GpuLog: size must be an int of at least 1, got 0"),
        ((2.0,), None, ValueError, "got 2.0"),
        ((2, "cpu", torch.int64), None, TypeError, "dtype must be float64, float32, float16 or bfloat16, got torch.int64"),
        ((2, "cpu"), torch.ones(2), ValueError, "GpuLog.log: value must have one element, got shape [2]"),
        ((2, "cpu"), torch.ones(1, dtype=torch.complex64), TypeError, "value must be real, got torch.complex64"),
        ((2, "cpu"), torch.ones(1, device="meta"), RuntimeError, "value must be on the device of the log (cpu), got meta"),
        ((2, "cpu"), "high", TypeError, "value must be a number or a Tensor, got str"),
    ],
)
def test_gpu_log_bad_input(arguments, value, error, sentence):
    with pytest.raises(error) as raised:
        device.GpuLog(*arguments).log(value)
    assert sentence in str(raised.value)
