import os
import sys
from pathlib import Path

import pytest
import torch

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


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items):
    """Triton's interpreter takes long, and float16 goes the ways of bfloat16 in it: such tests are among the slow ones."""
    for item in items if os.environ.get("TRITON_INTERPRET") == "1" else ():
        given = item.callspec.params if hasattr(item, "callspec") else {}
        if given.get("backend") == "triton" and given.get("dtype") == torch.float16:
            item.add_marker("slow")


@pytest.fixture
def one_thread():
    """For models of many small steps: threads of several processes that wait for each other make some of them tens of times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
