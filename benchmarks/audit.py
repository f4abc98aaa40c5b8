"""What the audit trail costs: a MAC by a local key without it, without a sink, and with each sink."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from anykms import Key, KeyConf, connect
from anykms.audit import AuditFile, AuditSink, LoggingSink, OpenTelemetrySink
from rounds import Subject, medians

MESSAGE = bytes(64)


def key(folder: Path, *sinks: AuditSink) -> Key:
    client = connect(f"local://{folder}/keys.db", create=True, audit=sinks, entity="benchmark")
    if not list(client.list_keys()):
        client.generate_key(KeyConf("tags", "MAC", algorithm="HS256"))
    return client.key("tags")


def calling(key: Key) -> Subject:
    return lambda: key.mac(MESSAGE)


def bare(key: Key) -> Subject:
    undecorated: Any = vars(Key)["mac"].__wrapped__
    return lambda: undecorated(key, MESSAGE)


def main() -> None:
    logger = logging.getLogger("benchmark")
    logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        silent = key(folder)
        found = medians(
            {
                "without audit": bare(silent),
                "no sink": calling(silent),
                "LoggingSink": calling(key(folder, LoggingSink(logger))),
                "OpenTelemetrySink": calling(
                    key(folder, OpenTelemetrySink(TracerProvider(), MeterProvider()))
                ),
                "AuditFile, sync=False": calling(key(folder, AuditFile(folder / "a.jsonl", sync=False))),
                "AuditFile": calling(key(folder, AuditFile(folder / "b.jsonl"))),
            }
        )
    for subject, seconds in found.items():
        print(f"{subject:24} {seconds * 1e6:9.2f} us  {(seconds - found['without audit']) * 1e6:+9.2f} us")


if __name__ == "__main__":
    main()
