import os
import sys
from pathlib import Path

# Several test processes share the cores: threads that wait for each other by spinning make them twice as slow. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest  # noqa: E402
import torch  # noqa: E402

# Without a GPU, Triton kernels run in Triton's interpreter; it must be chosen before triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
sys.path.insert(0, str(Path(__file__).parent))


def _prepare_interpreter_once():
    """Triton's interpreter prepares triton.language anew for every call of a function within a kernel: most of its time."""
    try:
        import triton.language as tl
        from triton.runtime import interpreter
    except ImportError:
        return
    prepare = interpreter._patch_lang

    def where_needed(function):
        languages = [one for one in function.__globals__.values() if one is tl or one is tl.core]
        if any(tl.core.is_builtin(one.load) for one in languages):
            return prepare(function)

    interpreter._patch_lang = where_needed


_prepare_interpreter_once()


# Few tests, of minutes each: begun first, so that no core is left alone with one at the end.
LONG = ("test_triton_compile", "test_traffic", "test_mutants", "test_cpu_vectors", "test_new")


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items):
    """Triton's interpreter takes long. In it float16 goes the ways of bfloat16, and float64 those of float32, which one kernel of rows
    and one of products show: other such tests are among the slow ones."""
    for item in items if os.environ.get("TRITON_INTERPRET") == "1" else ():
        given = item.callspec.params if hasattr(item, "callspec") else {}
        many = item.path.stem not in ("test_rms_norm", "test_linear")
        if given.get("backend") == "triton" and given.get("dtype") in (torch.float16, torch.float64)[: 1 + many]:
            item.add_marker("slow")
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup():
    """The same random numbers for a test whatever ran before it, which differs between runs on several processes."""
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """For models of many small steps: threads of several processes that wait for each other make some of them tens of times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
