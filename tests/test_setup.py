"""What an installation holds."""

import ast
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def test_every_package_is_installed():
    """An editable one takes all folders as they are; another one those that setup.py names."""
    tree = ast.parse((CHECKOUT / "setup.py").read_text())
    named = next(ast.literal_eval(one.value) for one in ast.walk(tree) if isinstance(one, ast.keyword) and one.arg == "packages")
    folders = {path.parent.relative_to(CHECKOUT) for path in (CHECKOUT / "pylayers").glob("**/__init__.py")}
    assert {".".join(folder.parts) for folder in folders if "templates" not in folder.parts} <= set(named)
