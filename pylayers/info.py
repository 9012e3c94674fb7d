"""What is built, and what can run here: `python -m pylayers info`."""

import argparse
import platform
import re
from importlib.metadata import PackageNotFoundError, version

import torch

from .backends import backends
from .library import build_info
from .version import __version__


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def text() -> str:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    lines = [
        f"pylayers {__version__}, built for torch {build_info['torch']}: {build_info['note']}",
        f"python {platform.python_version()}, torch {torch.__version__}, triton {_version('triton')}, {platform.platform()}",
        f"GPUs: {', '.join(gpus) or 'none'}",
        "",
    ]
    for one in backends().values():
        serves = ", ".join(one.devices) or "nothing here"
        lines.append(f"{one.name:<12}serves {serves:<16}{one.note}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", action="store_true", help="only the name of the GPU, fit for a folder's name")


def main(args: argparse.Namespace) -> int:
    if args.gpu:
        print(re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower() if torch.cuda.is_available() else "no-gpu")
    else:
        print(text())
    return 0
