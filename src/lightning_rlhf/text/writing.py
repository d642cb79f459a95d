"""Write files that are complete or as they were, and one process at a time."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY}


def part_of(path: Path) -> Path:
    """Name the temporary file beside a target; a killed process may leave it."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its target, flush it to the disk, and rename it.

    Until the end the target is what it was before. The two are always on one file system.

    Raises:
        ValueError: the disk is full, or the file cannot be written there.
    """
    part = part_of(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk; not every system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise what the system refuses as one sentence that names the file.

    Raises:
        ValueError: the disk is full, or the file cannot be written there.
    """
    try:
        yield
    except Exception as error:
        refused = system_error(error)
        if refused is None:
            raise
        raise ValueError(cannot_write(path, refused)) from error


def system_error(error: BaseException | None) -> OSError | None:
    """Find the system's refusal behind an error; libraries raise their own over it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        if number := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors' words
            return OSError(int(number[1]), os.strerror(int(number[1])))
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def cannot_write(path: str | Path, error: OSError) -> str:
    """Say why a file cannot be written, and what to do."""
    return f"{path} cannot be written: {os.strerror(error.errno or 0)}; {_fix(error, str(path))}"


def refusal(error: OSError) -> str:
    """Say what the system refused, of whatever file, and what to do."""
    name = str(error.filename2 or error.filename or "a file of this run")
    return f"{name}: {os.strerror(error.errno or 0)}; {_fix(error, name)}"


def _fix(error: OSError, name: str) -> str:
    if error.errno in FULL:
        return "free some space and start again, what was written before is whole"
    if error.errno in IN_THE_WAY:
        where = error.filename2 or error.filename or name
        return f"something is in the way at {where}: move it away, or give another folder"
    if error.errno == errno.ENOENT:
        return "give a file that is there"
    return "give a file or folder that you may read and write"


def claim(path: Path, fix: str) -> FileLock:
    """Claim a file or folder for this process, until ``release`` or the process's end.

    Args:
        path: what is going to be written; the lock is a hidden file beside it.
        fix: what the user of a second process can do.

    Raises:
        ValueError: another process has claimed it.
    """
    lock = _lock_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"another process is writing {path}: {fix}") from error
    except (OSError, NotImplementedError):
        pass  # a file system without locks, or one that the first write will report
    return lock


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until no other process writes here; a killed process holds nothing.

    Raises:
        ValueError: the disk is full, or the file cannot be written there.
    """
    lock = _lock_of(path)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))
