"""Settings of every test run."""

from __future__ import annotations

import signal

from hypothesis import settings

collect_ignore = [
    "contract_tests/anykms_contract/template"
]  # another distribution, run by tests/test_stranger.py

# A busy machine is slow, not wrong: speed is measured in benchmarks/, never by a test.
settings.register_profile("anykms", deadline=None)
settings.load_profile("anykms")

# A shell starts what runs behind it with interrupts ignored, and children inherit that; some tests interrupt one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
