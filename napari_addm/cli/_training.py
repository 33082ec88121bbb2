"""What the commands that train share."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from napari_addm.cli._common import INTERRUPTED, console, print_line, stop
from napari_addm.errors import MissingExtraError
from napari_addm.io.text import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress

TrainingPrecision = Literal["auto", "32", "bf16-mixed", "16-mixed"]


def import_training() -> ModuleType:
    """Import the module that trains.

    Raises
    ------
    MissingExtraError
        Without Lightning (the extra ``train``).
    """
    try:
        from napari_addm.training import train as training
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "lightning":
            raise
        raise MissingExtraError("Training", "lightning", "train") from error
    # Lightning sets these levels when it is imported.
    for logger in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return training


def training_precision(precision: TrainingPrecision, accelerator: str) -> str:
    """Return Lightning's name of a precision; ``auto`` takes bfloat16 where it is native."""
    if precision != "auto":
        return precision
    import torch

    from napari_addm.detection.devices import choose_device, choose_precision

    device = choose_device("cuda" if accelerator == "gpu" else accelerator)
    return "bf16-mixed" if choose_precision("auto", device) == torch.bfloat16 else "32"


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's hints about hardware and data loaders; turn its Ctrl-C into ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as end:
            # Lightning catches Ctrl-C, cleans up and exits with 1.
            if isinstance(end, SystemExit) and not isinstance(end.__context__, KeyboardInterrupt):
                raise
            stop("Stopped; run the same command again to go on.", INTERRUPTED)


@contextlib.contextmanager
def preparation_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show the preparation of the scans on stderr, if a person is there to see it."""
    from rich.progress import Progress as Bar

    screen = console(stderr=True)
    with contextlib.ExitStack() as stack:
        bar: Progress | None = None
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = Bar(console=screen, transient=True, disable=not screen.is_terminal)
                stack.enter_context(bar)
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
                bar.start()
            # Reports come before each scan: the last one makes room for the training's own bar.
            bar.update(tasks[stage], completed=done)
            if stage == "Slices" and done == total - 1:
                bar.stop()

        yield report


def progress_lines() -> Any:
    """Return a Lightning callback that prints a line every half minute, for unattended runs."""
    from lightning.pytorch.callbacks import Callback

    class ProgressLines(Callback):
        printed = -float("inf")

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.is_global_zero or time.monotonic() - self.printed <= 30:
                return
            self.printed = time.monotonic()
            figures = ", ".join(
                f"{key} {float(value):.4f}"
                for key, value in sorted(trainer.callback_metrics.items())
                if key.startswith(("train/", "validation/"))
            )
            print_line(
                f"epoch {trainer.current_epoch + 1}, iteration {int(pl_module.iterations)}, "
                f"{format_duration(pl_module.seconds)}: {figures}"
            )

    return ProgressLines()


def is_watched() -> bool:
    """Return whether a person watches stderr."""
    return sys.stderr.isatty()
