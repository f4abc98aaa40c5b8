"""What is printed: escaped, as a table for people or as JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager

import click

_PIPE_WIDTH = 200
"""Columns of a table that no terminal shows."""
_LONG_WORK = 32 * 1024 * 1024
"""Bytes from which a progress bar is worth its flicker."""


def shown(text: str) -> str:
    """``text`` on one line, with everything escaped that could move a cursor, hide or reorder.

    >>> shown("tenant\\x1b[2J\\u202e42")
    'tenant\\\\x1b[2J\\\\u202e42'
    """
    return "".join(
        letter if letter.isprintable() and letter != "\\" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def on_terminal() -> bool:
    """Whether someone is there to answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def give_up_standard_output() -> None:
    """Point it at nothing: what is left in its buffer must not be tried, and complained about, again."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def print_json(value: object) -> None:
    """``value`` as indented JSON on stdout, ASCII only."""
    click.echo(json.dumps(value, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; cells are escaped here, and markup in them is not read."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(shown(title)), title_justify="left")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def warn(text: str) -> None:
    """One line on stderr."""
    click.echo(f"anykms: warning: {shown(text)}", err=True)


@contextmanager
def progress(what: str, size: int | None) -> Generator[Callable[[int], None]]:
    """A bar on stderr for ``size`` bytes of work, if it is long and a terminal looks on.

    Yields a function to call with each number of bytes done.
    """
    if size is None or size < _LONG_WORK or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        task = bars.add_task(what, total=size)
        yield lambda done: bars.advance(task, done)


def is_text(data: bytes | bytearray) -> bool:
    """Whether a terminal may show it: UTF-8 of printable characters, line ends and tabs.

    >>> is_text(b"caf\\xc3\\xa9\\n"), is_text(b"\\x1b[2J")
    (True, False)
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(line.replace("\t", "").isprintable() for line in text.split("\n"))
