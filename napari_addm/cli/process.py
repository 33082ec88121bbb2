"""The process of a command: how signals end it, and what its output can take.

Nothing heavy is imported here, so that a signal is in good hands from the start.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import signal
import sys
import time
import warnings
from types import FrameType
from typing import TextIO

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
]
"""Ctrl-C, what schedulers and containers send, and the end of the terminal."""

CLEANUP_SECONDS = 5.0
"""For so long, a second signal does not disturb the clean end that the first one began."""

OUTPUT_LOST = 1
"""Exit code where the result could not be printed."""

NARROWEST = 20
"""Columns that tables and help are laid out for at least."""


class _Signals:
    """Turns each of `SIGNALS` into Ctrl-C, unless it was ignored when the process began."""

    running = False
    number = 0
    since = -float("inf")

    def install(self) -> None:
        for number in SIGNALS:
            # nohup and the background jobs of a shell ignore some of them
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self.running:  # an import cannot be interrupted without a traceback
            os.write(2, b"Stopped; nothing was written.\n")
            os._exit(128 + number)
        before, self.since = self.since, time.monotonic()
        if self.since - before > CLEANUP_SECONDS:
            self.number = number
            raise KeyboardInterrupt
        self.since = before

    def end(self) -> None:
        """Let a signal that comes while Python shuts down change nothing."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


class _Output(io.FileIO):
    """A pipe or file behind stdout or stderr; what it does not take is dropped.

    Attributes
    ----------
    lost : str
        Why something was dropped. That the reader has gone, as ``head`` does, is no fault.
    """

    lost = ""

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        try:
            return super().write(view) or 0
        except OSError as error:
            # Windows says EINVAL of a pipe without a reader
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                self.lost = error.strerror or str(error)
            return len(view)


def _guard(stream: TextIO | None, number: int) -> tuple[TextIO, _Output | None]:
    """Return a stream that takes every letter, and its file unless it is a terminal."""
    if stream is None:  # it was closed before the process began
        return open(os.devnull, "w", encoding="utf-8"), None
    if not isinstance(stream, io.TextIOWrapper):
        return stream, None
    stream.reconfigure(errors="backslashreplace")
    if stream.isatty():
        return stream, None
    file = _Output(number, "w", closefd=False)
    guarded = io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=number == 2,
    )
    return guarded, file


def main() -> None:
    """Run the console script ``napari-addm``."""
    signals = _Signals()
    signals.install()
    sys.stdout, out = _guard(sys.stdout, 1)
    sys.stderr, _ = _guard(sys.stderr, 2)
    if shutil.get_terminal_size().columns < NARROWEST:  # --help would never end in one column
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        os.getcwd()
    except OSError:
        sys.exit("Error: the working folder is gone: change to a folder that exists.")

    from napari_addm.cli._common import INTERRUPTED, LineHandler, print_line
    from napari_addm.cli.app import run

    logging.basicConfig(handlers=[LineHandler()])
    warnings.showwarning = lambda message, *rest: print_line(f"Warning: {message}")
    if not sys.warnoptions:  # what libraries say to each other is no news
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module="napari_addm")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its folder under HOME is no news
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    signals.running = True
    try:
        code = run()
        sys.stdout.flush()
    except KeyboardInterrupt:  # after the command's own end
        code = INTERRUPTED
    if code == INTERRUPTED and signals.number:
        code = 128 + signals.number
    if out is not None and out.lost:
        print_line(f"Error: the result could not be printed ({out.lost}).")
        code = code or OUTPUT_LOST
    signals.end()
    exec("")  # forgets a Ctrl-C that passed through exec, for which Python would take another code
    sys.exit(code)
