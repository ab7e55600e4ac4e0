"""The files of `make scale`: data/scale/<finding>.csv, safe from an interrupt."""

import csv
import fcntl
import io
import os
from collections.abc import Mapping
from pathlib import Path

from utils.scale.findings import Finding
from utils.scale.results import KEY, PROVENANCE, Row, pair, read


class Store:
    """The results of one data set, for one writer at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.known: dict[str, list[Row]] = {}

    def __enter__(self) -> "Store":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            raise ValueError(
                f"another make scale is writing to {self.folder}: wait for its end"
            ) from None
        return self

    def __exit__(self, *_) -> None:
        os.close(self.lock)

    def path(self, finding: str) -> Path:
        return self.folder / f"{finding}.csv"

    def all_rows(self, finding: str) -> list[Row]:
        if finding not in self.known:
            self.known[finding] = read(self.path(finding))
        return self.known[finding]

    def rows(self, finding: str, condition: str) -> list[Row]:
        """What is stored of a condition."""
        return [r for r in self.all_rows(finding) if r["condition"] == condition]

    def add(self, finding: str, rows: list[dict]) -> None:
        """Append rows of one job: all of them are there afterwards, for good."""
        if not rows:
            return
        path, known = self.path(finding), self.all_rows(finding)
        rows = [{name: str(value) for name, value in row.items()} for row in rows]
        columns = _columns([*known, *rows])
        if known and [*known[0]] != columns:  # another score than before
            self.rewrite(finding, known + rows)
            return
        text = _text(rows, columns, header=not known)
        with open(path, "ab") as file:
            if known and (torn := _torn(path)):  # by an interrupt
                file.truncate(path.stat().st_size - torn)
            if not known:
                file.truncate(0)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        known += rows

    def rewrite(self, finding: str, rows: list[Row]) -> None:
        """Put these rows in the place of the file, whole or not at all."""
        path, unfinished = self.path(finding), self.path(f"{finding}.unfinished")
        with open(unfinished, "w", encoding="utf-8", newline="") as file:
            file.write(_text(rows, _columns(rows)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        self.known[finding] = rows

    def sort(self, table: Mapping[str, Finding]) -> None:
        """In the order of the table, so that a new run of it changes little."""
        for name, finding in table.items():
            order = {condition: i for i, condition in enumerate(finding.conditions)}
            rows = sorted(
                self.all_rows(name),
                key=lambda row: (order.get(row["condition"], len(order)), *pair(row)),
            )
            if rows:
                self.rewrite(name, rows)

    def settle(self, codes: Mapping[tuple[str, str], str], how: str) -> int:
        """Deal with rows of these findings that other code has made; how many stay.

        codes: of each finding and condition, the hash of now. how: "keep" them,
        make all "fresh", or "" to refuse when there are any.
        """
        others = 0
        for finding in dict.fromkeys(name for name, _ in codes):
            rows = self.all_rows(finding)
            if how == "fresh" and rows:
                self.path(finding).unlink()
                self.known[finding] = []
                continue
            now = [codes.get((finding, row["condition"])) for row in rows]
            others += sum(row["code"] != code for row, code in zip(rows, now))
        if others and how != "keep":
            raise ValueError(
                f"{others} of the runs in {self.folder} were made by other code or "
                "for conditions that are no more: FRESH=1 makes all anew, KEEP=1 "
                "keeps these and adds what is missing"
            )
        return others


def _columns(rows: list[Row]) -> list[str]:
    scores = dict.fromkeys(name for row in rows for name in row)
    middle = [name for name in scores if name not in (*KEY, *PROVENANCE)]
    return [*KEY, *middle, *PROVENANCE]


def _text(rows: list[Row], columns: list[str], header: bool = True) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _torn(path: Path) -> int:
    """How many bytes follow the last line that has its end."""
    content = path.read_bytes()
    return len(content) - content.rfind(b"\n") - 1
