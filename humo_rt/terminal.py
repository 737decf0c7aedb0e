"""What the command line shows: progress with the time left, tables, and errors in one line.

Knows terminals and exit codes. Silent progress when standard error is not a terminal. Knows nothing of models.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import typer

from humo_rt.progress import bar_on

if TYPE_CHECKING:
    from rich.console import Console

    from humo_rt.batch import Outcome
    from humo_rt.runtime.trace import Trace

FAILED, BAD_INPUT, STOPPED, TERMINATED = 1, 2, 130, 143


def console(stream: TextIO) -> Console:
    """A rich console on standard output or standard error."""
    from rich.console import Console

    return Console(file=stream, highlight=False)


def say(text: str, style: str | None = None) -> None:
    """One line on standard error, never wrapped, whatever the text holds."""
    console(sys.stderr).print(" ".join(text.split()), style=style, soft_wrap=True, markup=False)


@contextmanager
def errors_in_one_line(traceback: bool) -> Iterator[None]:
    """Turn errors meant for users into one red line and exit code 2, Ctrl-C into 130. Bugs keep their traceback."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        say("stopped: nothing was left half-written")
        raise typer.Exit(STOPPED) from None
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if traceback:
            raise
        say(f"error: {_message(error)}", style="red")
        raise typer.Exit(BAD_INPUT) from None


class GenerationProgress:
    """A bar on standard error for one or more generations; use as a context manager.

    Hand ``report`` to ``generate`` as ``progress``.
    """

    def __init__(self) -> None:
        self._bar = bar_on(console(sys.stderr))
        self._label = ""
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> GenerationProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, label: str = "") -> None:
        """Start over for the next generation, with ``label`` in front of the stage."""
        self._label = label
        self._bar.reset(self._task, total=None, description=f"{label}encoding")

    def report(self, done: int, total: int) -> None:
        """``done`` of ``total`` denoising steps are finished."""
        stage = "denoising" if done < total else "decoding"
        self._bar.update(self._task, total=total, completed=done, description=self._label + stage)


def show_outcomes(outcomes: Sequence[Outcome]) -> None:
    """A table of a batch on standard output."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("case", "result", "seconds"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        result = f"failed: {outcome.error}" if outcome.error else str(outcome.output)
        table.add_row(outcome.name, result, f"{outcome.seconds:.1f}")
    failed = sum(outcome.error is not None for outcome in outcomes)
    target = console(sys.stdout)
    target.print(table)
    target.print(f"{len(outcomes) - failed} of {len(outcomes)} cases done, {failed} failed")


def show_trace(trace: Trace) -> None:
    """A table of a generation's times and memory on standard output."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for row in trace.rows():
        table.add_row(*row)
    console(sys.stdout).print(table)


def _message(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "too little GPU memory for this size: try --branch-batch-size 1, a smaller size, or a smaller preset "
            f"({str(error).split('. ')[0]})"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"Python package {error.name!r} is not installed: pip install {error.name}"
    return str(error) or type(error).__name__
