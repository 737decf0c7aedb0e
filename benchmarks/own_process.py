"""A part of a benchmark in a process of its own, so that one that fails or hangs stops no other."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ERROR_LENGTH = 600  # characters of what a process said last
_POLL = 0.1  # seconds


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
    return _failure(done.returncode, done.stderr)


class Preparing:
    """A process that prepares beside others, and measures when it is told to: then it has the machine to itself.

    In between the script calls ``wait_for_turn`` with ``mark``, a file that it creates.
    """

    def __init__(self, script: str, *arguments: object, mark: Path) -> None:
        self.mark = mark
        self._stopped: str | None = None
        self._said = mark.with_suffix(".stderr").open("w+")
        command = [sys.executable, script, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._said, text=True)

    def finish_preparing(self, until: float) -> None:
        """Wait for it until ``time.monotonic()`` says so; then it is stopped."""
        while not self.mark.exists() and self._process.poll() is None:
            if time.monotonic() > until:
                self.stop("not prepared in time")
            time.sleep(_POLL)

    def take_turn(self, seconds: float) -> str | None:
        """Let it go on to its end: None when all went well, else what it died of, or that it was stopped."""
        try:
            self._process.communicate("go on\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop(f"not done after {seconds:g} s")
        self._said.seek(0)
        return self._stopped or _failure(self._process.returncode, self._said.read())

    def stop(self, why: str = "stopped") -> None:
        """Nothing if it has ended."""
        if self._process.poll() is None:
            self._stopped = why
            self._process.kill()
            self._process.wait()


def wait_for_turn(mark: Path) -> None:
    """Say in ``mark`` that everything is prepared, and return when it is this process' turn."""
    mark.touch()
    if not sys.stdin.readline():
        sys.exit("whoever started this has ended")


def _failure(code: int, said: str) -> str | None:
    if code == 0:
        return None
    return said.strip()[-ERROR_LENGTH:] or f"exit code {code}"
