"""The build backend: setuptools, plus the torch that is already there.

The extension must be compiled against the torch that will run it. A build in isolation does not see the torch of the
environment that pip installs into, so its site-packages are added to the path; torch is asked for only where there is none.
"""

import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks that need nothing of ours)


def _add_target_environment():
    if find_spec("torch"):
        return
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    roots = [os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX")]
    folders = [Path(root) / "lib" / version / "site-packages" for root in roots if root]
    folders.append(Path(sysconfig.get_path("purelib")))
    # pip runs the hooks with the interpreter of the target environment, its own folders hidden.
    folders.append(Path(sys.prefix) / "lib" / version / "site-packages")
    for folder in folders:
        if (folder / "torch" / "__init__.py").exists():
            sys.path.append(str(folder))
            return


def _requirements(hook, config_settings):
    _add_target_environment()
    if find_spec("torch") is None:
        return ["torch", "wheel"]  # setup.py, which the hook would run, cannot be run without
    return hook(config_settings)


def get_requires_for_build_wheel(config_settings=None):
    return _requirements(build_meta.get_requires_for_build_wheel, config_settings)


def get_requires_for_build_editable(config_settings=None):
    return _requirements(build_meta.get_requires_for_build_editable, config_settings)


def get_requires_for_build_sdist(config_settings=None):
    return _requirements(build_meta.get_requires_for_build_sdist, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    _add_target_environment()
    return build_meta.build_sdist(sdist_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _add_target_environment()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _add_target_environment()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    _add_target_environment()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    _add_target_environment()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)
