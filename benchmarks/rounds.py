"""Interleaved rounds: every subject is timed in every round, so that a drifting machine hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

Subject = Callable[[], object]


def medians(subjects: Mapping[str, Subject], *, rounds: int = 15, seconds: float = 0.05) -> dict[str, float]:
    """Median seconds per call of each subject.

    Args:
        rounds: how often each subject has its turn.
        seconds: about how long one turn lasts.
    """
    repeats = {name: _calibrated(subject, seconds) for name, subject in subjects.items()}
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, subject in subjects.items():
                began = time.perf_counter()
                for _ in range(repeats[name]):
                    subject()
                samples[name].append((time.perf_counter() - began) / repeats[name])
    finally:
        gc.enable()
    return {name: statistics.median(times) for name, times in samples.items()}


def _calibrated(subject: Subject, seconds: float) -> int:
    subject()
    began = time.perf_counter()
    for _ in range(10):
        subject()
    return max(1, int(seconds / ((time.perf_counter() - began) / 10)))
