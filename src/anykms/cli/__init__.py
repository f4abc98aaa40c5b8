"""The ``anykms`` command: encrypt, decrypt, sign and verify files, and look after keys. Extra ``cli``.

Sub-commands of other packages join by the entry-point group ``anykms.commands``, whose entries name a
``click.Command``. Such a command raises ``KMSError`` and ``OSError`` as they come; they are explained here.
"""

from __future__ import annotations

import io
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command; the entry point of the program. Ends the process with a documented exit code."""
    try:
        from anykms.cli.application import application
        from anykms.cli.failures import ExitCode
        from anykms.cli.terminal import give_up_standard_output
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("anykms: the command needs click and rich\nNext: pip install 'anykms[cli]'\n")
        raise SystemExit(1) from None
    # An ended terminal or a polite kill must pass through every ``finally``, as an interrupt does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where the caller has closed it
            stream.reconfigure(errors="backslashreplace")
    code: int | str | None = 0
    try:
        application()
    except SystemExit as done:
        code = done.code
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        broken = isinstance(error, BrokenPipeError)
        code = ExitCode.BROKEN_PIPE if broken else ExitCode.FILE
        if not broken:
            sys.stderr.write(f"anykms: standard output: {error.strerror}\n")
        give_up_standard_output()
    raise SystemExit(code)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
