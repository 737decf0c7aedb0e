"""What ``bench_kernels`` finds out of one op, kept in a file while it does: a process that dies loses nothing of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = "did not return"

Row = dict[str, Any]


class Record:
    """The rows of one op in a file that holds, at every moment, what is measured and what is under way."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []

    @contextmanager
    def row(self, op: str, backend: str, workload: str) -> Iterator[Row]:
        """A row to fill; an exception becomes what it says: one that does not run must not hide the others."""
        row: Row = {"op": op, "backend": backend, "workload": workload, "failed": UNFINISHED}
        self.rows.append(row)
        self._write()
        try:
            yield row
            del row["failed"]
        except Exception as error:  # noqa: BLE001
            row["failed"] = f"{type(error).__name__}: {error}"
        self._write()

    @contextmanager
    def failure_alone(self, op: str, backend: str, workload: str) -> Iterator[Row]:
        """As ``row``, and no row is left of what went well."""
        with self.row(op, backend, workload) as row:
            yield row
        if "failed" not in row:
            self.rows.remove(row)
            self._write()

    def absent(self, op: str, backend: str, reason: str | None, workload: str = "") -> None:
        """Nothing to run, at all or of ``workload``, and why."""
        self.rows.append({"op": op, "backend": backend, "workload": workload, "absent": reason})
        self._write()

    def _write(self) -> None:
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.rows))
        unfinished.replace(self.path)
