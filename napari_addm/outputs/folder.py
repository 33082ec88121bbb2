"""The output folder: whether a case can be written to it, and by whom."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout

from napari_addm.errors import AddmError, InputError
from napari_addm.io.files import folder_aside, holds_only
from napari_addm.outputs.naming import case_paths, check_dataset
from napari_addm.outputs.portable_names import path_problem, readable

# Threads that hold locks, by the names of the lock files.
_owners: dict[str, int] = {}
_owning = threading.Lock()


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Make sure that a folder can be written to, whether it exists or not; nothing is created."""
    folder = Path(folder)
    try:
        # Permissions, read-only disks and full ones show only when a file is really made.
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise AddmError(
            f"{folder} cannot be written to ({error.strerror}): choose another output folder."
        ) from error


def check_outputs(
    folder: str | os.PathLike[str], name: str, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> dict[str, Path]:
    """Make sure, before any computation, that a case can be written; nothing is created.

    Parameters
    ----------
    name : str
        How the files' names begin.
    overwrite : bool
        Whether files of an earlier run may be replaced.
    inputs : iterable of Path
        Files of the scan, the ground truth and the brain mask, which are never replaced.

    Returns
    -------
    dict of str to Path
        The paths; see `napari_addm.outputs.naming.case_paths`.

    Raises
    ------
    AddmError
        When the folder cannot be written to, a file exists, or an input would be replaced.
    """
    folder = Path(folder)
    paths = case_paths(folder, name)
    check_folder(folder)
    check_dataset(folder, name)
    kept = {path.resolve() for path in inputs}
    for path in paths.values():
        if path.resolve() in kept:
            raise AddmError(f"{path} is an input of this run: choose another output folder.")
        if path.is_dir():
            raise AddmError(f"{path} is a folder: remove it, or choose another output folder.")
        if path.exists() and not overwrite:
            raise AddmError(
                f"{path} exists already: use --overwrite to replace it, or choose another "
                "output folder."
            )
    return paths


@contextlib.contextmanager
def claim_outputs(folder: str | os.PathLike[str], name: str) -> Iterator[None]:
    """Keep a case to one run at a time, across processes; may be nested in one thread.

    The system releases the lock when the process ends, however it ends. The lock file, and
    folders that were made for it, are removed afterwards, unless they hold other files.

    Raises
    ------
    AddmError
        When another run has the case, or the folder cannot be written to.
    """
    paths = case_paths(Path(folder), name)
    if problem := path_problem(case_paths(Path(), name).values()):
        raise InputError(f"The results of {readable(name)[:60]} cannot be written: {problem}.")
    inner = paths["record"].parent
    made = [path for path in (inner, *inner.parents) if not path.exists()]
    held: list[object] = []
    try:
        try:
            inner.mkdir(parents=True, exist_ok=True)
            lock = FileLock(
                inner / f".{name}.lock", timeout=0, thread_local=False, is_singleton=True
            )
            # In a thread, where no Ctrl-C comes between the lock and our knowledge of it.
            with ThreadPoolExecutor(1) as thread:
                me = threading.get_ident()
                thread.submit(lambda: held.append(_acquire(lock, me))).result()
            if lock.lock_counter == 1:
                _sweep(inner, Path(lock.lock_file), name)
        except Timeout as error:
            raise AddmError(
                f"Another run is writing the files of {name} in {inner}: wait until it has "
                "finished, or choose another output folder."
            ) from error
        except OSError as error:
            lock_file = inner / f".{name}.lock"  # in a shared folder, it may be another person's
            place = lock_file if os.path.lexists(lock_file) else inner
            raise _unwritable(place, error) from error
        yield
    finally:
        if held and lock.lock_counter == 1:
            # While the lock is held: a run that waits for it then sees that the file is gone.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
        if held:
            _release(lock)
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()


def _acquire(lock: FileLock, owner: int) -> FileLock:
    """Take a lock for a thread of this process; only that thread may take it again."""
    with _owning:
        if _owners.setdefault(lock.lock_file, owner) != owner:
            raise Timeout(lock.lock_file)
        try:
            lock.acquire()
        except BaseException:
            if not lock.is_locked:
                del _owners[lock.lock_file]
            raise
    return lock


def _release(lock: FileLock) -> None:
    with _owning:
        lock.release()
        if not lock.is_locked:
            _owners.pop(lock.lock_file, None)


def _sweep(inner: Path, mine: Path, name: str) -> None:
    """Remove what killed runs left in a folder: their locks and their unfinished files."""
    with contextlib.ExitStack() as held:
        dead, alive = {name: mine}, False
        for path in inner.glob(".*.lock"):
            if path == mine or path.is_symlink() or not path.is_file() or path.stat().st_size:
                continue
            try:
                held.enter_context(FileLock(path, timeout=0))
                dead[path.name[1:].removesuffix(".lock")] = path
            except (Timeout, OSError):
                alive = True
        names = {path.name for each in dead for path in case_paths(inner, each).values()}
        for folder in inner.glob(".*.part"):
            if holds_only(folder, names, empty=not alive):
                shutil.rmtree(folder, ignore_errors=True)
        for path in dead.values():
            if path != mine:
                path.unlink(missing_ok=True)  # while it is held


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden folder for files until all of them are written, and remove it then."""
    try:
        with folder_aside(folder) as staging:
            try:
                yield staging
            except AddmError as error:
                # Nobody knows the staging folder, so no message should name it.
                if isinstance(error.__cause__, OSError) and str(staging) in str(error):
                    raise error.__cause__ from None
                raise
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> AddmError:
    return AddmError(
        f"{folder} cannot be written to ({error.strerror or error}): choose another output "
        "folder, or free some space."
    )
