"""What an installation holds."""

import ast
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


def test_every_package_is_installed():
    """An editable one takes all folders as they are; another one those that setup.py names."""
    tree = ast.parse((CHECKOUT / "setup.py").read_text())
    named = next(ast.literal_eval(one.value) for one in ast.walk(tree) if isinstance(one, ast.keyword) and one.arg == "packages")
    folders = {path.parent.relative_to(CHECKOUT) for path in (CHECKOUT / "pylayers").glob("**/__init__.py")}
    assert {".".join(folder.parts) for folder in folders if "templates" not in folder.parts} <= set(named)


@pytest.fixture
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECKOUT / "build_support"))
    yield pytest.importorskip("extensions")
    sys.modules.pop("extensions", None)


def test_files_kept_in_memory_leave_it_to_compilers(extensions, tmp_path):
    """The number of parallel compilers follows what the system could give, not what nobody uses at the moment."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24000000 kB\nMemFree:          300000 kB\nMemAvailable:   22000000 kB\n")
    assert extensions.available_memory(meminfo) == 22_000_000 * 1024
    assert extensions.available_memory(tmp_path / "elsewhere") > 0
