"""What TensorRT says while it builds: messages kept and judged, phases reported, cancellation passed on.

TensorRT's classes can only be subclassed once its module is imported, so these are made by functions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any

logger = logging.getLogger(__name__)

# (phase, steps done, steps in all) whenever TensorRT finishes a step.
OnProgress = Callable[[str, int, int], None]

_FALLBACK = re.compile(r"fall(s|ing)?[ -]?back|(un|not )supported|no implementation", re.IGNORECASE)


@dataclass
class Messages:
    """Warnings and errors in the order they came."""

    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Warnings that say a node runs in another way than asked for."""
        return tuple(text for text in self.warnings if _FALLBACK.search(text))


def collecting_logger(trt: Any, messages: Messages) -> Any:
    """A TensorRT logger that fills ``messages`` and passes the rest on to this module's log at debug level."""
    severity = trt.ILogger.Severity

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            if level == severity.WARNING:
                messages.warnings.append(text)
            elif level in (severity.ERROR, severity.INTERNAL_ERROR):
                messages.errors.append(text)
            logger.debug("%s: %s", level, text)

    return Collector()


def progress_monitor(trt: Any, cancelled: Event, on_progress: OnProgress) -> Any:
    """A TensorRT progress monitor: reports each step, and stops the build at the first one after ``cancelled``."""
    totals: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            totals[phase_name] = num_steps
            on_progress(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            total = totals.pop(phase_name, 1)
            on_progress(phase_name, total, total)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_progress(phase_name, step + 1, totals.get(phase_name, step + 1))
            return not cancelled.is_set()

    return Monitor()
