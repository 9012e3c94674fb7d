from math import sqrt

import harness
import pytest
import torch
from harness import every_backend, every_dtype, every_layout, nan_filled_outputs, seeded  # noqa: F401
from pylayers import reference
from pylayers.init import two_sided_uniform_
from pylayers.reference.two_sided_uniform import philox

import pylayers

SIZES = [(1,), (7,), (8,), (3, 5), (65, 33), (2, 4096), (20001,)]
SEEDS = [0, 1, 2**31 - 1, 2**63 + 5]
OPTIONS = [dict(), dict(low=0.0, high=0.1), dict(low=5.01, high=10.03, p_zero=0.1), dict(low=3.0, high=3.0, p_zero=0.0)]


def bits(x):
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def empty(*size, dtype=torch.float32, device="cpu"):
    return torch.full(size, float("nan"), dtype=dtype, device=device)


def same_bits(x, y):
    return torch.equal(bits(x), bits(y))


def philox_of_the_paper(counter, key):
    """Four words of a counter of 128 bits and a key of 64, in plain integers."""
    c, k = ([n >> 32 * i & 0xFFFFFFFF for i in range(words)] for n, words in ((counter, 4), (key, 2)))
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q & 0xFFFFFFFF, p >> 32 ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def test_philox():
    """Known answers that come with the authors' implementation."""
    assert philox_of_the_paper(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox_of_the_paper(2**128 - 1, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    digits = 0x03707344_13198A2E_85A308D3_243F6A88, 0x299F31D0_A4093822
    assert philox_of_the_paper(*digits) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    counters, seeds = [0, 1, 2**32 - 1, 2**32, 2**63 - 1], [0, 1, -1, 2**32, 2**62 + 77]
    for seed in seeds:
        words = torch.stack(philox(torch.tensor(counters), seed)).T.tolist()
        assert words == [philox_of_the_paper(counter, seed % 2**64) for counter in counters]


@every_backend
@every_dtype
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_two_sided_uniform_has_the_bits_of_the_definition(backend, device, dtype, size):
    expected = reference.two_sided_uniform_(empty(*size, dtype=dtype), generator=seeded(seed=sum(size)))
    x = empty(*size, dtype=dtype, device=device)
    with pylayers.backend(backend):
        assert two_sided_uniform_(x, generator=seeded(seed=sum(size))) is x
    assert same_bits(x.cpu(), expected)


@every_backend
@every_dtype
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_two_sided_uniform_options(backend, device, dtype, options):
    for seed in SEEDS:
        expected = reference.two_sided_uniform_(empty(300, dtype=dtype), **options, generator=seeded(seed=seed))
        x = empty(300, dtype=dtype, device=device)
        with pylayers.backend(backend):
            two_sided_uniform_(x, **options, generator=seeded(seed=seed))
        assert same_bits(x.cpu(), expected)


@every_backend
@every_dtype
@every_layout
def test_two_sided_uniform_strides(backend, device, dtype, layout):
    """By logical index; what lies between the elements is left alone."""
    x = layout(empty(5, 24, dtype=dtype, device=device))
    around = x._base if x._base is not None else x
    with pylayers.backend(backend):
        if 0 in x.stride():
            with pytest.raises(RuntimeError, match="single memory location"):
                two_sided_uniform_(x)
            return
        outside = around.isnan().sum() - x.numel()
        two_sided_uniform_(x, generator=seeded())
        expected = two_sided_uniform_(empty(5, 24, dtype=dtype, device=device), generator=seeded())
    assert same_bits(x.contiguous(), expected) and around.isnan().sum() == outside


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_two_sided_uniform_does_not_depend_on_the_number_of_threads(threads):
    expected = reference.two_sided_uniform_(empty(300_001), generator=seeded())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert same_bits(two_sided_uniform_(empty(300_001), generator=seeded()), expected)
    finally:
        torch.set_num_threads(before)


def test_two_sided_uniform_is_float32_rounded_once():
    single = two_sided_uniform_(empty(1000), generator=seeded())
    for dtype in (torch.bfloat16, torch.float16):
        assert same_bits(two_sided_uniform_(empty(1000, dtype=dtype), generator=seeded()), single.to(dtype))
    double = two_sided_uniform_(empty(1000, dtype=torch.float64), generator=seeded())
    torch.testing.assert_close(single.double(), double, rtol=3e-7, atol=0)
    assert not torch.equal(single.double(), double)


@every_backend
@every_dtype
def test_two_sided_uniform_distribution(backend, device, dtype):
    """Counts within five standard deviations of a binomial."""
    count, p_zero = 40_000, 0.3
    with pylayers.backend(backend):
        x = two_sided_uniform_(empty(count, dtype=dtype, device=device), p_zero=p_zero, generator=seeded()).double()

    def about(found, trials, p):
        return abs(int(found) - trials * p) < 5 * sqrt(trials * p * (1 - p))

    zeros = x == 0
    others, live = x[~zeros].abs(), int((~zeros).sum())
    assert about(zeros.sum(), count, p_zero)
    assert about((x > 0).sum(), live, 0.5)
    assert others.min() >= 5 and others.max() <= 10
    for below in (5 + 1 / 64, 6 + 1 / 64, 7 + 1 / 64, 8 + 1 / 32, 9 + 1 / 32):  # halfway between neighbours in bfloat16
        assert about((others < below).sum(), live, (below - 5) / 5)
    pairs = x[:-1].sign() * x[1:].sign()
    assert abs(float(pairs.mean())) < 5 / sqrt(count)


@every_backend
def test_two_sided_uniform_certain_events(backend, device):
    with pylayers.backend(backend):
        assert (two_sided_uniform_(empty(4000, device=device), p_zero=1.0) == 0).all()
        assert (two_sided_uniform_(empty(4000, device=device), p_zero=0.0) != 0).all()
        assert not two_sided_uniform_(empty(4000, device=device), p_zero=1.0).signbit().any()


@every_backend
def test_two_sided_uniform_seeds(backend, device):
    with pylayers.backend(backend):
        torch.manual_seed(4)
        x, y = (two_sided_uniform_(empty(200, device=device)) for _ in range(2))
        torch.manual_seed(4)
        again = two_sided_uniform_(empty(200, device=device))
        explicit = two_sided_uniform_(empty(200, device=device), generator=seeded(seed=4))
    assert same_bits(x, again) and same_bits(x, explicit) and not same_bits(x, y)


def test_two_sided_uniform_takes_64_bits_of_the_generator():
    one, other = seeded(seed=9), seeded(seed=9)
    two_sided_uniform_(empty(3), generator=one)
    torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=other)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_two_sided_uniform_cuda_generator():
    first, second = seeded("cuda", 4), seeded("cuda", 4)
    with torch.cuda.device("cuda"):
        torch.cuda.set_sync_debug_mode("error")
        try:
            x, y = (two_sided_uniform_(torch.empty(200, device="cuda"), generator=first) for _ in range(2))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    again = two_sided_uniform_(torch.empty(200), generator=second)
    assert same_bits(x.cpu(), again) and not same_bits(x, y)
    assert not same_bits(x, two_sided_uniform_(torch.empty(200, device="cuda"), generator=seeded("cuda", 5)))


@every_backend
def test_two_sided_uniform_empty_and_meta(backend, device):
    with pylayers.backend(backend):
        assert two_sided_uniform_(torch.empty(0, 3, device=device)).shape == (0, 3)
        scalar = two_sided_uniform_(empty(device=device), p_zero=0.0)
        assert scalar.shape == () and scalar.abs() >= 5
    before = torch.get_rng_state()
    assert two_sided_uniform_(torch.empty(2, 3, device="meta")).is_meta
    assert torch.equal(torch.get_rng_state(), before)


@every_backend
def test_two_sided_uniform_and_autograd(backend, device):
    """A leaf may be filled; whoever saved the old values is told so."""
    weight = torch.ones(3, device=device, requires_grad=True)
    with pylayers.backend(backend):
        loss = (weight * weight).sum()
        version = weight._version
        two_sided_uniform_(weight)
        assert weight.is_leaf and weight.requires_grad and weight._version == version + 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        with torch.inference_mode():
            two_sided_uniform_(torch.empty(3, device=device))
        with pytest.raises(RuntimeError, match="two_sided_uniform_: vmap cannot batch it"):
            torch.func.vmap(two_sided_uniform_)(torch.ones(2, 3, device=device))


def test_two_sided_uniform_compiles():
    def fill(x):
        return two_sided_uniform_(torch.empty_like(x)) + x

    x = torch.zeros(4, 5)
    torch.manual_seed(1)
    expected = fill(x)
    for dynamic in (False, True):
        torch.compiler.reset()
        torch.manual_seed(1)
        assert same_bits(torch.compile(fill, fullgraph=True, dynamic=dynamic)(x), expected)


def test_two_sided_uniform_opcheck():
    harness.passes_opcheck("two_sided_uniform_", empty(3, 4))


@pytest.mark.parametrize(
    "call,error,sentence",
    [
        (lambda x: two_sided_uniform_([1.0]), TypeError, "two_sided_uniform_: tensor must be a Tensor, got list"),
        (lambda x: two_sided_uniform_(x.long()), TypeError, "two_sided_uniform_: tensor must be float64"),
        (lambda x: two_sided_uniform_(x, "5"), TypeError, "two_sided_uniform_: low must be a number, got str"),
        (lambda x: two_sided_uniform_(x, -1.0), ValueError, "must hold 0 <= low <= high, got low=-1, high=10"),
        (lambda x: two_sided_uniform_(x, 5, 4), ValueError, "must hold 0 <= low <= high, got low=5, high=4"),
        (lambda x: two_sided_uniform_(x, float("nan")), ValueError, "must hold 0 <= low <= high"),
        (lambda x: two_sided_uniform_(x.half(), 5, 1e5), ValueError, "high must be at most 65504, the largest Half, got 100000"),
        (lambda x: two_sided_uniform_(x, p_zero=1.5), ValueError, "p_zero must be a probability between 0 and 1, got 1.5"),
        (lambda x: two_sided_uniform_(x, generator=7), TypeError, "generator must be a torch.Generator, got int"),
    ],
)
def test_two_sided_uniform_bad_input(call, error, sentence):
    x = torch.ones(2, 3)
    with pytest.raises(error) as raised:
        call(x)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)
    assert (x == 1).all()
