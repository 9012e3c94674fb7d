"""Compiles csrc/ into scaled_tanh._C, against the torch and the pylayers that are installed."""

from pathlib import Path

from pylayers.build_support.package import build_options
from setuptools import setup

setup(
    name="scaled_tanh",
    version="0.1.0",
    python_requires=">=3.11",
    packages=["scaled_tanh"],
    **build_options("scaled_tanh", Path(__file__).resolve().parent),
)
