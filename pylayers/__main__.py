"""`python -m pylayers info | check | bench | convert | new | cmake`."""

import argparse
import importlib
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pylayers", description=__doc__)
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="import first; it registers your kernels"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    from . import check, cmake_path, info, new
    from .benchmarks import run as bench
    from .conversion import command as convert

    infos = commands.add_parser("info", help="what is built, and what can run here")
    info.add_arguments(infos)
    infos.set_defaults(run=info.main)
    checks = commands.add_parser("check", help="every kernel against float64 on this machine")
    check.add_arguments(checks)
    checks.set_defaults(run=check.main)
    benches = commands.add_parser("bench", help="every kernel against what you would use otherwise")
    bench.add_arguments(benches)
    benches.set_defaults(run=bench.main)
    converts = commands.add_parser("convert", help="your model's layers with these kernels: what is replaced, and what it gains")
    convert.add_arguments(converts)
    converts.set_defaults(run=convert.main)
    news = commands.add_parser("new", help="a layer of your own: a package with kernels, tests and benchmark")
    new.add_arguments(news)
    news.set_defaults(run=new.main)
    cmakes = commands.add_parser("cmake", help="the CMAKE_PREFIX_PATH with which a C++ program finds the ops")
    cmakes.set_defaults(run=cmake_path.main)
    args = parser.parse_args(arguments)
    for module in args.imports:
        importlib.import_module(module)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
