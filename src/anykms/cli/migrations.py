"""``anykms migrate``: from keys to other keys, while applications go on."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from anykms.cli.anchoring import sealing_keys
from anykms.cli.connecting import Stores
from anykms.cli.failures import ExitCode, usage
from anykms.cli.options import json_option, read_aad, read_pairs, stores_option
from anykms.cli.terminal import print_json, print_table, shown, warn
from anykms.errors import InvalidArgumentError, KeyNotFoundError, KMSError

if TYPE_CHECKING:
    from anykms.client import Key
    from anykms.keys import KeyURI
    from anykms.migration.engine import Migration
    from anykms.migration.executors import Executor
    from anykms.migration.progress import Progress
    from anykms.migration.readers import ForeignReader
    from anykms.migration.reports import Report
    from anykms.migration.steps import Bindings, Keys
    from anykms.migration.targets import Target

F = TypeVar("F", bound=Callable[..., Any])

_CHECKPOINT: Final = "anykms-migration.db"
_ENDINGS: Final = {
    "done": ExitCode.OK,
    "left": ExitCode.LEFT,
    "failed": ExitCode.ENTRIES_FAILED,
    "stopped": ExitCode.STOPPED,
}


@click.group()
def migrate() -> None:
    """Move messages from keys to other keys in place, while applications read and write them.

    TARGET is a file, a directory or the URL of an object store; --sql and --records name tables and record stores.
    Payloads are not touched: a message gets another header, at once or not at all.

    \b
    In this order:
      anykms migrate plan     what there is, how long it takes, what it costs
      anykms migrate run      do it; the same command goes on after a crash
      anykms migrate verify   prove that the new keys alone open everything
      anykms migrate rollback put the old headers back

    \b
    Exit codes of these commands, besides the general ones:
      0   all done, or all verified
      11  entries are left that need a decision; the report names them
      12  entries failed; run it again
      13  stopped before its end; the same command goes on
    """


@dataclass(frozen=True, slots=True)
class _Places:
    """The places that the caller named."""

    paths: Sequence[str]
    sql: str | None
    table: str | None
    id_column: str | None
    column: str | None
    schema: str | None
    encoding: str
    records: Sequence[str]
    generations: str | None

    def open(self, stack: ExitStack, *, tidy: bool) -> list[Target]:
        """All of them, to be closed with the stack; nothing is sent yet."""
        targets = self._open(tidy=tidy)
        for target in targets:
            if (close := getattr(target, "close", None)) is not None:
                stack.callback(close)
        return targets

    def _open(self, *, tidy: bool) -> list[Target]:
        from anykms.migration.files import FileTarget
        from anykms.migration.targets import open_target

        found: list[Target] = [
            open_target(path) if "://" in path else FileTarget(path, tidy=tidy) for path in self.paths
        ]
        if self.sql is not None:
            if not (self.table and self.id_column and self.column):
                raise usage(
                    "--sql needs --table, --id and --column",
                    "for example --sql postgresql:///shop --table cards --id id --column number",
                )
            with _needing("sql"):
                from anykms.migration.tables import TableTarget
            found.append(
                TableTarget(
                    self.sql,
                    table=self.table,
                    id_column=self.id_column,
                    column=self.column,
                    schema=self.schema,
                    encoding="base64" if self.encoding == "base64" else "binary",
                )
            )
        elif self.table or self.id_column or self.column:
            raise usage("--table, --id and --column belong to --sql", "give --sql URL")
        if self.records:
            with _needing("sql"):
                from anykms.migration.records import RecordTarget
            found += [
                RecordTarget(url, generations=self.generations, schema=self.schema) for url in self.records
            ]
        if not found:
            raise usage("no target is named", "give a file, a directory, a URL, --sql or --records")
        return found


@contextmanager
def _needing(extra: str, what: str = "this target") -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise usage(f"{what} needs the module {error.name}", f'pip install "anykms[{extra}]"') from error


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


_targets = _options(
    click.argument("paths", metavar="[TARGET]...", nargs=-1),
    click.option("--sql", metavar="URL", help="Database of a table of messages, as SQLAlchemy spells it."),
    click.option("--table", metavar="NAME", help="The table."),
    click.option("--id", "id_column", metavar="NAME", help="Its primary key's column."),
    click.option("--column", metavar="NAME", help="The column that holds messages."),
    click.option(
        "--encoding",
        type=click.Choice(["binary", "base64"]),
        default="binary",
        help="base64: a column of text that holds messages in base64.",
    ),
    click.option("--records", metavar="URL", multiple=True, help="Database of a record store."),
    click.option("--generations", metavar="URL", help="Database of its generations, if that is another."),
    click.option("--schema", metavar="NAME", help="Schema of the table or the record store."),
)
_old = click.option(
    "--from",
    "old",
    metavar="KEY",
    multiple=True,
    help="Key to leave: name, URI or its provider's own identifier; may be repeated.",
)
_new = click.option(
    "--to",
    "new",
    metavar="KEY",
    multiple=True,
    required=True,
    help="Key to go to, or with --mode remove one that stays; may be repeated.",
)
_mode = click.option(
    "--mode",
    type=click.Choice(["replace", "add", "remove"]),
    default="replace",
    show_default=True,
    help="replace: the --to keys become the recipients. add: they join. remove: the --from keys leave.",
)
_bindings = _options(
    click.option(
        "--context",
        "pairs",
        metavar="NAME=VALUE",
        multiple=True,
        help="Value of a required context name, used where a message requires it. May be repeated.",
    ),
    click.option(
        "--context-from",
        metavar="MODULE:FUNCTION",
        help="Called with target and entry id (path, key, row id); gives a dict of such values.",
    ),
    click.option("--aad", metavar="TEXT", help="aad of every entry: for --full and for foreign ciphertext."),
    click.option("--aad-file", metavar="FILE", help="The same, from a file."),
    click.option("--aad-from", metavar="MODULE:FUNCTION", help="Called in the same way; gives bytes."),
)
_foreign = _options(
    click.option(
        "--format",
        "formats",
        metavar="NAME",
        multiple=True,
        help="Re-encrypt entries of this foreign format too; auto takes every installed one that marks its own. "
        "Needs --context, --context-from or --no-context for the new messages.",
    ),
    click.option(
        "--reader-option",
        "reader_options",
        metavar="NAME=VALUE",
        multiple=True,
        help="For its reader; where there are several, FORMAT.NAME=VALUE.",
    ),
    click.option("--no-context", is_flag=True, help="Foreign entries get no context."),
    click.option(
        "--vouch",
        is_flag=True,
        help="Take foreign entries that anyone with a public key could have made (RSA-OAEP): you know that nobody else "
        "could write where they lie.",
    ),
)
_work = _options(
    click.option(
        "--checkpoint",
        metavar="FILE",
        default=_CHECKPOINT,
        show_default=True,
        help="What is done and every old header; keep it until you need no way back. Not within a target.",
    ),
    click.option(
        "--shard", metavar="I/N", help="Only this part of the entries; all shards share a checkpoint."
    ),
)
_speed = _options(
    click.option(
        "--rate",
        "rates",
        metavar="PROVIDER=NUMBER",
        multiple=True,
        help="Calls per second, for example awskms=500, instead of the provider's published quota, which your "
        "application shares. May be repeated.",
    ),
    click.option(
        "--concurrency", type=click.IntRange(1, 256), default=16, show_default=True, help="Threads."
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Let the workers of a Dask cluster use the keys and write: its scheduler, tls://HOST:8786. They connect "
        "to keys and targets with their own credentials; the walk, the checkpoint and the rates stay here. "
        "tcp:// on this machine only. See docs/migration-cluster.md.",
    ),
    click.option(
        "--patience",
        type=click.FloatRange(min=0),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Without any progress, because a provider cannot be used, before it stops.",
    ),
)
_sealed = _options(
    click.option(
        "--seal-with",
        "sealers",
        metavar="NAME",
        multiple=True,
        help="SIGN_VERIFY or MAC key that seals the --report, in FILE.seal: see 'keys destroy'. May be repeated.",
    ),
    click.option("--audience", metavar="TEXT", default="", help="Of the seal, as in the trust root."),
)
_told = _options(
    click.option("--report", metavar="FILE", help="Write the report there too, as JSON."),
    click.option("--page", metavar="FILE", help="Write it there as one HTML page, to look at or to print."),
    json_option,
)


@migrate.command()
@_targets
@_old
@_new
@_mode
@click.option("--prove", is_flag=True, help="Open each header with the keys at hand: a verified census.")
@stores_option
@_bindings
@_foreign
@_work
@_speed
@_sealed
@_told
def plan(prove: bool, report: str | None, page: str | None, as_json: bool, **given: Any) -> None:
    """Take the census of the targets: which keys are in use, how many calls, hours and dollars a run takes.

    Nothing is changed. The checkpoint remembers what was found, so that 'run' can begin at once.

    \b
    Examples:
      anykms migrate plan --from orders --to orders-eu /srv/archive
      anykms migrate plan --from orders --to orders-eu --prove --report plan.json s3://archive/2024
      anykms migrate plan --from orders --to orders-eu --rate awskms=500 \\
          --sql postgresql:///shop --table cards --id id --column number
    """
    seal = _Seal.of(given, report)
    with _migration(given, tidy=False, seal=seal) as migration:
        _finish(migration.plan(prove_claims=prove), report, page, as_json, seal)


@migrate.command()
@_targets
@_old
@_new
@_mode
@stores_option
@_bindings
@_foreign
@_work
@_speed
@_told
def run(report: str | None, page: str | None, as_json: bool, **given: Any) -> None:
    """Give every message its new recipients, until a walk over the targets finds nothing more to do.

    Old headers are kept in the checkpoint before anything is written. After a crash, a full disk or Ctrl-C the same
    command goes on. A first Ctrl-C ends it after the batches in work, a second one at once; nothing is lost by either.
    Applications may go on: let them know the new keys first, then write with them, then run this.

    \b
    Examples:
      anykms migrate run --from orders --to orders-eu /srv/archive
      anykms migrate run --from orders --to orders-eu --context-from myapp.contexts:of_path /srv/archive
      anykms migrate run --mode add --from orders --to backup --checkpoint add.db /srv/archive
      anykms migrate run --from orders --to orders-eu --shard 1/4 /srv/archive
      anykms migrate run --from orders --to orders-eu --scheduler tls://dask.example:8786 s3://archive/2024
      anykms migrate run --format fernet --reader-option key-file=old.keys --to orders --no-context /srv/tokens
    """
    with _migration(given, tidy=True) as migration:
        _finish(migration.run(), report, page, as_json)


@migrate.command()
@_targets
@_old
@_new
@_mode
@click.option("--full", is_flag=True, help="Read every message to its last byte; needs its aad.")
@stores_option
@_bindings
@_foreign
@click.option("--shard", metavar="I/N", help="Only this part of the entries; its report is no whole proof.")
@_speed
@_sealed
@_told
def verify(full: bool, report: str | None, page: str | None, as_json: bool, **given: Any) -> None:
    """Prove that every message opens through each --to key alone, and that none names a --from key.

    It walks the targets afresh and uses nothing that a run has remembered. The --from keys are not used: name them by
    URI where their provider cannot be reached any more.

    \b
    Examples:
      anykms migrate verify --to orders-eu --from local://k2j5x/orders /srv/archive
      anykms migrate verify --to orders-eu --full --aad-from myapp.contexts:aad_of --report proof.json s3://archive
      anykms migrate verify --to orders-eu --from orders --report proof.json --seal-with admin --page proof.html /srv
    """
    given |= {"checkpoint": os.devnull}
    seal = _Seal.of(given, report)
    with _migration(given, tidy=False, proving=True, seal=seal) as migration:
        _finish(migration.verify(full=full), report, page, as_json, seal)


@migrate.command()
@_targets
@_work
@_told
def rollback(
    report: str | None, page: str | None, as_json: bool, checkpoint: str, shard: str | None, **given: Any
) -> None:
    """Put the old headers back, and foreign entries as they were, where nobody has written since.

    No key is used. What was written since stays as it is, and is reported.

    \b
    Examples:
      anykms migrate rollback /srv/archive
      anykms migrate rollback --checkpoint add.db --report back.json s3://archive/2024
    """
    from anykms.keys import KeyURI
    from anykms.migration.census import Mode
    from anykms.migration.checkpoint import Checkpoint, Shard
    from anykms.migration.engine import Migration
    from anykms.migration.steps import KeyNames

    with Checkpoint(checkpoint, None) as known:
        facts = known.facts
    old, new = (frozenset(map(KeyURI.parse, uris)) for uris in (facts.old_keys, facts.new_keys))
    with ExitStack() as stack, _telling() as tell:
        targets = _Places(**given).open(stack, tidy=True)
        migration = Migration(
            targets,
            KeyNames(old, new),
            checkpoint=checkpoint,
            mode=Mode(facts.mode),
            shard=Shard.parse(shard) if shard else None,
            on_progress=tell,
        )
        with _stoppable(migration):
            _finish(migration.rollback(), report, page, as_json)


# From options to a migration


@dataclass(slots=True)
class _Seal:
    """Who seals the report, found before a walk that may take hours."""

    names: Sequence[str]
    audience: str
    signers: list[Key] = field(default_factory=list["Key"])

    @classmethod
    def of(cls, given: dict[str, Any], report: str | None) -> _Seal:
        """From --seal-with and --audience."""
        made = cls(given.pop("sealers"), given.pop("audience"))
        if made.names and report is None:
            raise usage("--seal-with seals the report, and none is written", "give --report FILE")
        return made

    def find(self, opened: Stores) -> None:
        """All of the keys, or an error: a seal with too few would be noticed when it is needed."""
        from anykms.migration.attestation import REPORT, check_signers

        if self.names:
            self.signers = sealing_keys(opened, self.names)
            if len(self.signers) != len(self.names):
                raise usage("a key of --seal-with cannot be used", "the warning above says which and why")
            check_signers(REPORT, self.signers, audience=self.audience)

    def write(self, path: str, data: bytes) -> None:
        """The seal beside the report."""
        from anykms.migration.attestation import REPORT, SUFFIX, seal_file
        from anykms.migration.reports import write_file

        if self.signers:
            write_file(seal_file(data, REPORT, self.signers, audience=self.audience), path + SUFFIX)


@contextmanager
def _migration(
    given: dict[str, Any], *, tidy: bool, proving: bool = False, seal: _Seal | None = None
) -> Generator[Migration]:
    from anykms.migration.census import Mode
    from anykms.migration.checkpoint import Shard
    from anykms.migration.engine import Migration

    options = {name: given.pop(name) for name in _Places.__dataclass_fields__}
    bindings = _bound(given)
    with ExitStack() as stack:
        targets = _Places(**options).open(stack, tidy=tidy)
        opened = stack.enter_context(Stores(given["stores"], tolerant=proving))
        readers = _readers(given, stack, proving=proving)
        keys = _keys(
            opened,
            given["old"],
            given["new"],
            proving=proving,
            foreign=bool(readers),
            by_name=given["scheduler"] is not None,
        )
        if seal is not None:
            seal.find(opened)
        executor = _cluster(given, stack)
        tell = stack.enter_context(_telling())
        migration = Migration(
            targets,
            keys,
            checkpoint=given["checkpoint"],
            mode=Mode(given["mode"]),
            bindings=bindings,
            readers=readers,
            shard=Shard.parse(given["shard"]) if given["shard"] else None,
            rates=_rates(given["rates"]),
            executor=executor,
            concurrency=given["concurrency"],
            patience=given["patience"],
            watch=partial(_state, opened),
            on_progress=tell,
        )
        stack.enter_context(_stoppable(migration))
        yield migration


def _bound(given: Mapping[str, Any]) -> Bindings:
    from anykms.migration.steps import Bindings

    return Bindings(
        context=read_pairs(given["pairs"], "--context"),
        context_from=given["context_from"],
        aad=read_aad(given["aad"], given["aad_file"]),
        aad_from=given["aad_from"],
        vouched=given.get("vouch", False),
    )


def _readers(given: Mapping[str, Any], stack: ExitStack, *, proving: bool) -> list[ForeignReader]:
    from anykms.errors import UnsupportedOperationError
    from anykms.migration.readers import find_reader, known_readers

    formats: Sequence[str] = given.get("formats", ())
    if not formats:
        if given.get("reader_options") or given.get("no_context") or given.get("vouch"):
            raise usage("--reader-option, --no-context and --vouch belong to --format", "name the --format")
        return []
    if not (proving or given["pairs"] or given["context_from"] or given["no_context"]):
        raise usage(
            "foreign entries become messages, and a message has a context",
            "give --context, --context-from or --no-context",
        )
    options = read_pairs(given["reader_options"], "--reader-option")
    installed = sorted(known_readers())
    readers: list[ForeignReader] = []
    for name in installed if "auto" in formats else formats:
        own = {
            option.removeprefix(f"{name}."): value
            for option, value in options.items()
            if option.startswith(f"{name}.") or (len(formats) == 1 and "." not in option and name in formats)
        }
        try:
            reader = find_reader(name, own)
        except (InvalidArgumentError, UnsupportedOperationError):
            if name in formats or own:
                raise
            continue
        stack.callback(reader.close)
        if name in formats or reader.distinctive:
            readers.append(reader)
    if not readers:
        raise usage(
            "no reader of a foreign format can be used with these options", "name one with --format NAME"
        )
    return readers


def _cluster(given: Mapping[str, Any], stack: ExitStack) -> Executor | None:
    if given["scheduler"] is None:
        return None
    if given.get("formats"):
        raise usage(
            "foreign ciphertext is re-encrypted on one machine, which keeps what it was",
            "run with --format and without --scheduler first",
        )
    with _needing("dask", "--scheduler"):
        from anykms.migration.cluster import DaskExecutor
    # What it says of connections is said by our report, in one line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    executor = DaskExecutor(
        given["scheduler"],
        threads=given["concurrency"],
        patience=given["patience"],
        on_notice=warn,
    )
    stack.callback(executor.close)
    return executor


def _insecure() -> bool:
    return bool(click.get_current_context().find_root().params.get("allow_insecure_endpoint", False))


def _keys(
    opened: Stores, old: Sequence[str], new: Sequence[str], *, proving: bool, foreign: bool, by_name: bool
) -> Keys:
    from anykms.migration.steps import HeldKeys, NamedKeys

    if not (old or proving or foreign):
        raise usage("no key to leave is named", "give --from KEY, for example --from orders")
    if by_name:
        leaving = tuple(str(_uri(opened, name)) for name in old) if proving else ()
        named = () if proving else tuple(opened.named(old))
        return NamedKeys(named, tuple(opened.named(new)), leaving, _insecure())
    if proving:
        return HeldKeys([], opened.keys(new), [_uri(opened, name) for name in old])
    return HeldKeys(opened.keys(old) if old else [], opened.keys(new))


def _uri(opened: Stores, name: str) -> KeyURI:
    """The key's URI; its provider is asked only for names."""
    from anykms.keys import KeyURI

    try:
        return KeyURI.parse(name)
    except InvalidArgumentError:
        try:
            return opened.find(name)[1].uri
        except KeyNotFoundError as error:
            error.add_note("A key that cannot be looked up any more is named by its URI; reports hold it.")
            raise


def _state(opened: Stores, uri: KeyURI) -> str | None:
    """A key's state, as its provider tells it now."""
    try:
        client, info = opened.find(str(uri))
        return str(client.describe_key(info).state)
    except (KMSError, click.ClickException):
        return None


def _rates(pairs: Sequence[str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in read_pairs(pairs, "--rate").items()}
    except ValueError:
        raise usage("--rate is PROVIDER=CALLS PER SECOND", "for example --rate awskms=500") from None


@contextmanager
def _stoppable(migration: Migration) -> Generator[None]:
    """The first signal asks for an orderly end, the second ends the process where it stands."""
    asked = False

    def handle(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            # Safe at any instant: what was begun is in the checkpoint.
            os._exit(128 + number)
        asked = True
        migration.stop(f"interrupted by {signal.Signals(number).name}")
        os.write(2, b"anykms: stopping after the batches in work; once more stops at once\n")

    before = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        migration.close()
        for number, handler in before.items():
            signal.signal(number, handler)


# What is told


@contextmanager
def _telling() -> Generator[Callable[[Progress], None] | None]:
    """A bar on stderr, if a terminal looks on."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
    )
    with Bars(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        task = bars.add_task("", total=None, rate="")

        def tell(progress: Progress) -> None:
            bars.update(
                task,
                description=progress.phase,
                total=progress.total,
                completed=progress.done,
                rate=_rate(progress),
            )

        yield tell


def _rate(progress: Progress) -> str:
    told = f"{progress.per_second:,.0f}/s"
    if progress.seconds_left is not None:
        minutes, seconds = divmod(int(progress.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        told += f", {hours}:{minutes:02}:{seconds:02} left"
    if progress.slowed:
        told += ", throttled by " + ", ".join(sorted(progress.slowed))
    return told + (f"; waiting: {shown(progress.obstacle)}" if progress.obstacle else "")


def _finish(
    report: Report, path: str | None, page: str | None, as_json: bool, seal: _Seal | None = None
) -> None:
    """Tell the report and end with its exit code."""
    import msgspec

    from anykms.migration.pages import html_page
    from anykms.migration.reports import write_file

    if path is not None:
        write_file(data := report.to_json(), path)
        if seal is not None:
            seal.write(path, data)
    if page is not None:
        write_file(html_page(report).encode(), page)
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        _print(report)
    if code := _ENDINGS[report.ending]:
        raise click.exceptions.Exit(code)


def _print(report: Report) -> None:
    counts = report.counts
    rows = [
        (name, f"{number:,}")
        for name, number in (
            ("walked", counts.walked),
            ("messages", counts.messages),
            ("no messages", counts.nothing),
            ("to do", counts.todo),
            ("done", counts.done),
            ("opened" if report.command == "verify" else "already so", counts.already),
            ("back", counts.back),
            ("gone meanwhile", counts.gone),
            ("written by others meanwhile", counts.changed),
            ("still name a --from key", counts.with_old_key),
        )
        if number or name in ("walked", "messages")
    ]
    rows += [(f"reported: {reason}", f"{number:,}") for reason, number in counts.reported.items()]
    rows += [(f"failed: {reason}", f"{number:,}") for reason, number in counts.failed.items()]
    rows += [("verified", report.verified)] if report.command in ("plan", "verify") else []
    rows += [(f"calls: {c.provider} {c.kind} {c.key}", f"{c.calls:,}") for c in report.calls]
    if report.estimate is not None:
        estimate = report.estimate
        rows += [(f"hours at least, {name}", f"{hours:,.2f}") for name, hours in estimate.hours.items()]
        rows += [("price", "not known" if estimate.usd is None else f"{estimate.usd:,.2f} USD")]
    print_table(f"migrate {report.command}: {report.ending}", ("", "entries"), rows)
    if report.command == "plan" and report.keys:
        print_table(
            "keys in use",
            ("key", "entries", "bytes", "opened"),
            [(use.key, f"{use.entries:,}", f"{use.bytes:,}", f"{use.opened:,}") for use in report.keys],
        )
    if report.waiting:
        print_table(
            "waiting",
            ("target", "entry", "why", "what to do"),
            [(w.target, w.id, w.reason, w.advice) for w in report.waiting[:20]],
        )
    sources = report.estimate.sources if report.estimate is not None else []
    for line in ([f"stopped: {report.stopped_by}"] if report.stopped_by else []) + sources + report.advice:
        click.echo(shown(line))
