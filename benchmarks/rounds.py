"""Interleaved rounds: every subject has its turn in every round, so that a drifting machine hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

Subject = Callable[[], object]
Samples: TypeAlias = Mapping[str, list[float]]
"""For each subject its seconds per call, one for each round."""


def samples(
    subjects: Mapping[str, Subject],
    *,
    rounds: int = 15,
    seconds: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of each subject in each round.

    Args:
        rounds: how often each subject has its turn.
        seconds: about how long one turn lasts; a subject that takes longer is called once.
        clock: ``time.process_time`` counts this process alone, whatever else the machine does.
    """
    repeats = {name: _calibrated(subject, seconds, clock) for name, subject in subjects.items()}
    found: dict[str, list[float]] = {name: [] for name in subjects}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, subject in subjects.items():
                began = clock()
                for _ in range(repeats[name]):
                    subject()
                found[name].append((clock() - began) / repeats[name])
    finally:
        gc.enable()
    return found


def medians(subjects: Mapping[str, Subject], *, rounds: int = 15, seconds: float = 0.05) -> dict[str, float]:
    """Median seconds per call of each subject."""
    found = samples(subjects, rounds=rounds, seconds=seconds)
    return {name: statistics.median(times) for name, times in found.items()}


def ratio(found: Samples, subject: str, base: str) -> float:
    """Median over the rounds of what ``subject`` took, as a multiple of what ``base`` took in the same round."""
    return statistics.median(one / other for one, other in zip(found[subject], found[base], strict=True))


def _calibrated(subject: Subject, seconds: float, clock: Callable[[], float]) -> int:
    began = clock()
    subject()
    if clock() - began > seconds:
        return 1
    began = clock()
    for _ in range(10):
        subject()
    return max(1, int(seconds / max((clock() - began) / 10, 1e-9)))
