"""From options to a guarded destruction: censuses, what the caller asks of them, and the evidence."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from anykms.cli import files
from anykms.cli.anchoring import read_root, sealing_keys
from anykms.cli.failures import usage
from anykms.errors import InvalidArgumentError, KMSError, SealError, UnsupportedOperationError

if TYPE_CHECKING:
    from anykms.cli.connecting import Stores
    from anykms.client import Key, KMSClient
    from anykms.keys import KeyInfo
    from anykms.migration.checkpoint import Checkpoint
    from anykms.migration.destruction import Census, Demands, Evidence
    from anykms.trust import TrustRoot

F = TypeVar("F", bound=Callable[..., Any])

CHECKPOINT: Final = "anykms-migration.db"
"""Where ``migrate`` keeps its checkpoint unless told otherwise."""

census_root_option = click.option(
    "--root",
    "root_file",
    metavar="FILE",
    envvar="ANYKMS_ROOT",
    help="Trust root, from 'anykms trust root': every report must be sealed by its keys, in REPORT.seal. "
    "Default: ANYKMS_ROOT.",
)


def census_options(function: F) -> F:
    """What ``keys destroy`` asks of censuses."""
    for option in (
        click.option(
            "--checkpoint",
            "checkpoints",
            metavar="FILE",
            multiple=True,
            help=f"Checkpoint of a migration away from the key, for the last write that it knows of. "
            f"Default: {CHECKPOINT}, if it is there and about this key. May be repeated.",
        ),
        click.option(
            "--full-census",
            is_flag=True,
            help="Accept only censuses that read every message to its last byte.",
        ),
        click.option(
            "--not-messages",
            metavar="N",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="So many entries of the targets are no messages, and you know that they do not need the key.",
        ),
        click.option(
            "--max-age",
            metavar="HOURS",
            type=click.FloatRange(min=0, min_open=True, max=8784),
            default=24.0,
            show_default=True,
            help="Of a census, since its walk began.",
        ),
        click.option(
            "--expect-target",
            "expected",
            metavar="TARGET",
            multiple=True,
            help="A place that must be covered, named as for 'migrate' or as reports name it. May be repeated.",
        ),
        census_root_option,
        click.option(
            "--census",
            "reports",
            metavar="REPORT",
            multiple=True,
            help="Report of 'migrate verify', or of 'migrate plan --prove', taken after the key was disabled: destroy "
            "the key only if it shows that nothing needs it. May be repeated, for several targets or shards.",
        ),
    ):
        function = option(function)
    return function


def evidence_options(function: F) -> F:
    """Where the evidence goes, and who seals it."""
    for option in (
        click.option(
            "--by", metavar="TEXT", help="Who does it, for the evidence. Default: your account and host."
        ),
        click.option("--audience", metavar="TEXT", default="", help="Of the seal, as in the trust root."),
        click.option(
            "--seal-with",
            "sealers",
            metavar="NAME",
            multiple=True,
            help="SIGN_VERIFY or MAC key that seals the evidence, in FILE.seal; may be repeated.",
        ),
        click.option(
            "--evidence", "evidence_file", metavar="FILE", help="Write what is left of the key, as JSON."
        ),
    ):
        function = option(function)
    return function


def evidence_signers(opened: Stores, names: Sequence[str], audience: str, root_file: str | None) -> list[Key]:
    """The keys that seal the evidence, once they have shown that they can, and that the root will trust them."""
    from anykms.migration.attestation import EVIDENCE, check_signers

    signers = sealing_keys(opened, names)
    if root_file is not None:
        root = read_root(root_file)
        root.check_signers(signers)
        if root.audience != audience:
            raise usage(
                f"the root is for the audience {root.audience!a}, the seal for {audience!a}",
                "give the root's --audience",
            )
    check_signers(EVIDENCE, signers, audience=audience)
    return signers


def read_censuses(reports: Sequence[str], root_file: str | None) -> list[Census]:
    """The reports, their seals checked where there is a root."""
    root = read_root(root_file) if root_file is not None else None
    return [_read_census(report, root) for report in reports]


def _read_census(path: str, root: TrustRoot | None) -> Census:
    from anykms.migration.destruction import Census

    data, sealed = _read_sealed(path, root)
    try:
        return Census.read(data, path, sealed=sealed, root=root)
    except KMSError as error:
        error.add_note(f"- {path}")
        raise


def _read_sealed(path: str, root: TrustRoot | None) -> tuple[bytes, bytes | None]:
    """What a file holds, and its seal where one is asked for."""
    from anykms.migration.attestation import SUFFIX
    from anykms.migration.destruction import MAX_REPORT
    from anykms.trust import MAX_SEALED_SIZE

    data = _read(path, MAX_REPORT)
    if root is None:
        return data, None
    try:
        return data, _read(path + SUFFIX, MAX_SEALED_SIZE)
    except FileNotFoundError:
        raise SealError(
            f"{path} has no seal, and there is a trust root: seal it when it is made (--seal-with)"
        ) from None


def _read(path: str, limit: int) -> bytes:
    with open(path, "rb") as file, files.naming(path):
        data = file.read(limit + 1)
    if len(data) > limit:
        raise usage(f"{path} is longer than any such file", "name the right file")
    return data


def demands_of(
    censuses: Sequence[Census], expected: Sequence[str], max_age: float, not_messages: int, full: bool
) -> Demands:
    """What the options ask of the censuses."""
    from anykms.migration.destruction import Demands

    covered = {target for census in censuses for target in census.report.targets}
    return Demands(
        max_age=timedelta(hours=max_age),
        targets=tuple(_canonical(target, covered) for target in expected),
        not_messages=not_messages,
        full=full,
    )


def _canonical(text: str, covered: set[str]) -> str:
    """A target as reports name it."""
    from anykms.migration.files import FileTarget
    from anykms.migration.targets import open_target

    if text in covered:
        return text
    with suppress(OSError, InvalidArgumentError, UnsupportedOperationError):
        return open_target(text).name if "://" in text else FileTarget(text).name
    return text if "://" in text else f"file://{os.path.realpath(text)}"


@dataclass(frozen=True, slots=True)
class Guard:
    """The judgement of one destruction, to be asked as often as one likes."""

    client: KMSClient
    info: KeyInfo
    censuses: Sequence[Census]
    demands: Demands
    checkpoints: Sequence[str]

    def check(self) -> tuple[str, datetime]:
        """The key's state and its last known write, if nothing stands against its destruction.

        Raises:
            PolicyError: something does.
            KMSError: the provider cannot be asked, or the migration is still at work.
        """
        from anykms.migration.destruction import examine, last_write, refusal

        status = self.client.describe_key(self.info)
        written = last_write(self.info, status)
        if not self.censuses:
            return str(status.state), written
        unfinished = 0
        for path in self.checkpoints:
            with _held(path) as checkpoint:
                writes = checkpoint.last_writes()
            written = max(written, last_write(self.info, status, writes))
            unfinished += writes.unfinished
        objections = examine(
            self.info,
            status.state,
            self.censuses,
            self.demands,
            written=written,
            unfinished=unfinished,
            now=datetime.now(UTC),
        )
        if objections:
            raise refusal(self.info, objections)
        return str(status.state), written


@contextmanager
def _held(path: str) -> Generator[Checkpoint]:
    """A checkpoint that no migration works on."""
    from anykms.migration.checkpoint import Checkpoint, Shard

    with Checkpoint(path, None) as checkpoint:
        checkpoint.hold(Shard())
        yield checkpoint


def checkpoints_about(info: KeyInfo, given: Sequence[str]) -> list[str]:
    """The checkpoints to ask: those given, or the usual one where it is of a migration away from this key."""
    from anykms.migration.checkpoint import Checkpoint

    found: list[str] = []
    for path in given or [CHECKPOINT]:
        if not given and not Path(path).exists():
            continue
        with Checkpoint(path, None) as checkpoint:
            if str(info.uri.without_version()) in checkpoint.facts.old_keys:
                found.append(path)
            elif given:
                raise usage(
                    f"the checkpoint {path} is of a migration that does not leave this key", "name its own"
                )
    return found


def note(
    guard: Guard,
    path: str,
    when: datetime,
    *,
    state: str,
    written: datetime,
    by: str | None,
    signers: Sequence[Key],
    audience: str,
    force: bool,
) -> None:
    """Write the evidence of a destruction that was scheduled just now, and its seal."""
    from anykms.keys import KeyState
    from anykms.migration.attestation import EVIDENCE, SUFFIX, seal_file
    from anykms.migration.destruction import evidence_of

    evidence = evidence_of(
        guard.info,
        KeyState(state),
        when,
        guard.censuses,
        guard.demands,
        written=written,
        scheduled=datetime.now(UTC),
        by=by or whoever(),
    )
    data = evidence.to_json()
    try:
        files.write(path, data, force=force, private=False)
        if signers:
            sealed = seal_file(data, EVIDENCE, signers, audience=audience)
            files.write(path + SUFFIX, sealed, force=force, private=False)
    except (OSError, KMSError) as error:
        error.add_note(
            f"The destruction IS scheduled, for {when:%Y-%m-%dT%H:%M:%SZ}; the evidence is not whole. Take the key "
            "back with 'anykms keys cancel-destroy', then destroy it again."
        )
        raise


def whoever() -> str:
    """The account and host of this process."""
    try:
        account = getpass.getuser()
    except (OSError, KeyError):
        account = f"uid {os.getuid()}"
    return f"{account}@{socket.gethostname()}"


def read_evidence(path: str, root_file: str | None) -> Evidence:
    """Evidence, its seal checked where there is a root."""
    from anykms.migration.destruction import Evidence

    root = read_root(root_file) if root_file is not None else None
    data, sealed = _read_sealed(path, root)
    return Evidence.read(data, sealed=sealed, root=root)


def reports_of(evidence: Evidence, path: str) -> list[str]:
    """The reports of the evidence that lie beside it, if all of them do."""
    beside = [Path(path).parent / census.file for census in evidence.censuses]
    return [str(found) for found in beside] if all(found.is_file() for found in beside) else []
