"""The progress bar that ``generate(progress=True)`` shows.

Knows terminals; nothing of pipelines.
"""

from __future__ import annotations

from collections.abc import Callable


def step_bar() -> Callable[[int, int], None]:
    """A bar with the time left on standard error: call it as (steps done, steps in all); it ends at the last step."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("denoising"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("denoising", total=None)

    def report(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    return report
