"""Rows that have ended, in groups: whole ones at once, and what has waited for the rest of its group now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gflow.records import Records

SELDOM = 10.0
"""Time between two looks for rows that wait, in parts of what the caller took for those of the last look: a store
rewrites every chunk to which a row is added."""


class Gathering:
    """Rows of several cells, cell k having `counts[k]` of them, in groups of `size`."""

    def __init__(self, counts: Sequence[int], size: int, wait: float):
        """`wait`: seconds after which rows come without those of their group that have not ended."""
        self.counts, self.size, self.wait = counts, size, wait
        self.waiting: dict[tuple[int, int], dict[int, dict]] = {}
        self.given: dict[tuple[int, int], int] = {}
        self.due = time.monotonic() + wait

    def add(self, cell: int, positions: np.ndarray, rows: Iterable[dict]) -> None:
        """Rows that have ended, at these positions of their cell."""
        for k, row in zip(positions.tolist(), rows, strict=True):
            self.waiting.setdefault((cell, k // self.size), {})[k] = row

    def complete(self) -> Iterator[tuple[int, Records]]:
        """(cell, Records) of the groups that are whole now, and, when it is time, of all rows that wait."""
        for key in [key for key in self.waiting if self._missing(key) == 0]:
            yield self._taken(key)
        if time.monotonic() >= self.due:
            begin = time.monotonic()
            yield from self.rest()
            now = time.monotonic()
            self.due = now + max(self.wait, SELDOM * (now - begin))

    def rest(self) -> Iterator[tuple[int, Records]]:
        """The same of all rows that wait."""
        for key in list(self.waiting):
            yield self._taken(key)

    def _missing(self, key: tuple[int, int]) -> int:
        cell, group = key
        whole = min(self.size, self.counts[cell] - group * self.size)
        return whole - self.given.get(key, 0) - len(self.waiting[key])

    def _taken(self, key: tuple[int, int]) -> tuple[int, Records]:
        rows = self.waiting.pop(key)
        self.given[key] = self.given.get(key, 0) + len(rows)
        return key[0], Records.of([rows[k] for k in sorted(rows)])
