"""A part of a benchmark in a process of its own, so that one that fails or hangs stops no other."""

from __future__ import annotations

import subprocess
import sys

ERROR_LENGTH = 600  # characters of what a process said last


def announce(what: str) -> None:
    """On the terminal at once: the next thing may never return."""
    print(f"... {what}", flush=True)


def failure_of(script: str, *arguments: object, seconds: float) -> str | None:
    """Run ``script`` to its end: None when all went well, else what it died of, or that it was stopped."""
    command = [sys.executable, script, *map(str, arguments)]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:g} s"
    if done.returncode == 0:
        return None
    return done.stderr.strip()[-ERROR_LENGTH:] or f"exit code {done.returncode}"
