"""How numbers, fractions and durations are written for people: on the terminal and on the page of a sweep."""

from __future__ import annotations

import math


def number(value) -> str:
    """Nine digits of a real number, an integer or a name as it is, "-" where there is none."""
    if is_open(value):
        return "-"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def is_open(value) -> bool:
    """Whether there is no number: None, or one that is not finite."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def objective(limit: dict) -> str:
    """The objective of one of the `distinct_limits`."""
    if is_open(limit["objective"]):
        return "not fitted"
    return number(float(limit["objective"])) + ("" if limit["polished"] else " and more, under way")


def share(interval: dict) -> tuple[str, str]:
    """A fraction and its 95 % interval."""
    if interval["fraction"] is None:
        return "-", "-"
    return f"{interval['fraction']:.4g}", f"{interval['low']:.4f} to {interval['high']:.4f}"


def duration(seconds: float) -> str:
    """Three digits of seconds below a minute, whole seconds below an hour, then whole minutes."""
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
