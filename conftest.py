"""Settings of every test run."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is slow, not wrong: speed is measured in benchmarks/, never by a test.
settings.register_profile("anykms", deadline=None)
settings.load_profile("anykms")
