"""Writing a file so that its name always belongs to a whole file: the old one or the new one."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator

SUFFIX = ".tmp"


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    data = memoryview(data)
    while len(data):
        data = data[os.write(descriptor, data) :]


def sync_folder(folder: str) -> None:
    """Makes the names in a folder outlive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_mode(descriptor: int, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.fchmod(descriptor, stat.S_IMODE(os.stat(path).st_mode))


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[int]:
    """A descriptor of a temporary file beside `path`, which takes its place when the block ends and vanishes if it raises.

    The bytes are on the disk before the name changes, and the name before the block's end returns. A process that is killed
    leaves the old file, and the temporary one beside it.
    """
    path = os.path.realpath(path)  # a link stays a link
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:40]}.{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _keep_mode(descriptor, path)
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder)
