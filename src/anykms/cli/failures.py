"""Exit codes, and the one place where an error becomes a code and a next step."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import IO, Any, Final

import click

from anykms import errors
from anykms.cli.terminal import shown

JSON_WANTED: Final = "anykms.json"
"""Key of ``click.Context.meta``, set where the caller wants JSON, so that errors are JSON too."""


class ExitCode(IntEnum):
    """What a script can tell from the exit code. Documented in docs/cli.md and ``anykms --help``."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    STATE = 5
    FORBIDDEN = 6
    UNAVAILABLE = 7
    DAMAGED = 8
    UNSUPPORTED = 9
    FILE = 10
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed, for a reason that has no code of its own",
    ExitCode.USAGE: "bad arguments or bad input; nothing was done",
    ExitCode.REFUSED: "not authentic, or another context, key or policy than the message's",
    ExitCode.NOT_FOUND: "no such key, or its material is destroyed",
    ExitCode.STATE: "the key's state forbids it, or its name is taken",
    ExitCode.FORBIDDEN: "credentials are missing or do not allow it",
    ExitCode.UNAVAILABLE: "the key service or keystore does not answer now; try again",
    ExitCode.DAMAGED: "the keystore is damaged, edited or has another root secret, or an answer is not sound",
    ExitCode.UNSUPPORTED: "the provider or this kind of key cannot do it",
    ExitCode.FILE: "a file cannot be read or written; an old output is as it was",
    ExitCode.HUNG_UP: "its terminal was closed; no output was changed",
    ExitCode.INTERRUPTED: "interrupted; no output was changed",
    ExitCode.BROKEN_PIPE: "the reader of standard output went away",
    ExitCode.TERMINATED: "told to end; no output was changed",
}

_ERRORS: Final[dict[type[errors.KMSError], tuple[ExitCode, str]]] = {
    errors.KMSError: (ExitCode.FAILED, "please report this"),
    errors.InvalidArgumentError: (ExitCode.USAGE, "correct the argument; --help shows examples"),
    errors.UnsupportedOperationError: (ExitCode.UNSUPPORTED, "use a key or a provider that can"),
    errors.KeyUsageError: (ExitCode.UNSUPPORTED, "'anykms keys describe NAME' shows what the key is for"),
    errors.KeyNotFoundError: (ExitCode.NOT_FOUND, "'anykms keys list' shows the keys there are"),
    errors.KeyDestroyedError: (ExitCode.NOT_FOUND, "use another key; this one's material is gone for good"),
    errors.KeyExistsError: (ExitCode.STATE, "choose another name; a name is used once"),
    errors.NameReservedError: (ExitCode.STATE, "choose another name; a name is used once"),
    errors.ConflictError: (
        ExitCode.UNAVAILABLE,
        "another process changed the same key; look, then try again",
    ),
    errors.PermissionDeniedError: (ExitCode.FORBIDDEN, "ask the key's owner for the right"),
    errors.UnauthenticatedError: (ExitCode.FORBIDDEN, "log in to the key service again"),
    errors.QuotaExceededError: (ExitCode.FORBIDDEN, "ask the provider for more; waiting does not help"),
    errors.KeyStateError: (ExitCode.STATE, "'anykms keys describe NAME' shows the key's state"),
    errors.KeyDisabledError: (ExitCode.STATE, "'anykms keys enable NAME' enables it"),
    errors.KeyPendingDestructionError: (
        ExitCode.STATE,
        "'anykms keys cancel-destroy NAME', then 'anykms keys enable NAME', takes it back",
    ),
    errors.KeyPendingImportError: (ExitCode.STATE, "import the key's material with the provider's own tool"),
    errors.KeyNotReadyError: (ExitCode.STATE, "wait until the provider has made the key"),
    errors.InvalidCiphertextError: (
        ExitCode.REFUSED,
        "do not use the data; check that file, key, --context and --aad are those it was made with",
    ),
    errors.UnsupportedVersionError: (ExitCode.REFUSED, "a later release of anykms may read it"),
    errors.ContextMismatchError: (
        ExitCode.REFUSED,
        "give the --context it was made with; 'anykms inspect' shows names",
    ),
    errors.InvalidSignatureError: (
        ExitCode.REFUSED,
        "do not trust the file: it is another, or by another key",
    ),
    errors.InvalidMacError: (ExitCode.REFUSED, "do not trust the data"),
    errors.KeyNotAllowedError: (
        ExitCode.REFUSED,
        "name a key that it was made for with --key, if you trust it",
    ),
    errors.PolicyError: (ExitCode.REFUSED, "the policy's rule stands in the message"),
    errors.StaleMessageError: (ExitCode.REFUSED, "fetch the message's current version"),
    errors.SealError: (ExitCode.REFUSED, "do not use the document; get it from its owner again"),
    errors.KeyConfMismatchError: (
        ExitCode.DAMAGED,
        "look at the key with its provider's own tool; it is disabled",
    ),
    errors.KeystoreError: (
        ExitCode.DAMAGED,
        "check --store and its root secret; 'anykms store check' tells more, a backup may help",
    ),
    errors.AuditError: (ExitCode.DAMAGED, "find out who changed the audit file, and keep it as it is"),
    errors.IntegrityError: (ExitCode.DAMAGED, "nothing was returned; try again, and report it if it stays"),
    errors.ThrottledError: (ExitCode.UNAVAILABLE, "wait, then try again"),
    errors.UnavailableError: (ExitCode.UNAVAILABLE, "try again once it answers; another process may hold it"),
    errors.DeadlineExceededError: (ExitCode.UNAVAILABLE, "look at the key's state before you try again"),
    errors.ProviderError: (ExitCode.FAILED, "please report this, with the provider's name"),
}

_FILES: Final[dict[int | None, str]] = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file; to encrypt a directory, pack it with tar first",
    errno.ENOTDIR: "check the path",
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EROFS: "choose an output on a writable file system",
    errno.EEXIST: "choose another output, or overwrite it with --force",
    errno.ENOSPC: "free some space, then try again",
    errno.EDQUOT: "free some space, then try again",
    errno.EFBIG: "the limit on file sizes (ulimit -f) is too low",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as the caller sees it; every text is safe to print."""

    code: ExitCode
    kind: str
    message: str
    hint: str
    key: str | None = None
    notes: tuple[str, ...] = ()


class Failed(click.ClickException):
    """Ends a command with a failure: text on stderr, or one line of JSON there."""

    def __init__(self, failure: Failure, as_json: bool) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self._as_json = as_json

    @property
    def exit_code(self) -> int:  # type: ignore[override] # click declares a class variable, and only reads it
        """The failure's."""
        return self.failure.code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        failure = self.failure
        if self._as_json:
            problem: dict[str, object] = {
                "class": failure.kind,
                "message": failure.message,
                "next": failure.hint,
            }
            problem |= {"key": failure.key} if failure.key else {}
            problem |= {"notes": list(failure.notes)} if failure.notes else {}
            text = json.dumps({"error": problem, "exit_code": int(failure.code)})
        else:
            lines = [f"anykms: {failure.kind}: {failure.message}", *failure.notes]
            lines += [f"Key: {failure.key}"] if failure.key else []
            text = "\n".join([*lines, f"Next: {failure.hint}"])
        click.echo(text, file=file or sys.stderr)


def explain(error: Exception) -> Failure:
    """The code, the words and the next step for an error that ends a command."""
    notes = tuple(shown(note) for note in getattr(error, "__notes__", ()))
    match error:
        case errors.KMSError():
            code, hint = next(_ERRORS[kind] for kind in type(error).__mro__ if kind in _ERRORS)
            key = shown(error.key) if error.key else None
            return Failure(code, type(error).__name__, shown(str(error)), hint, key, notes)
        case OSError():
            where = shown(os.fsdecode(error.filename)) + ": " if error.filename else ""
            what = error.strerror or type(error).__name__
            hint = _FILES.get(error.errno, "check the file and its file system")
            return Failure(ExitCode.FILE, type(error).__name__, where + shown(what), hint)
        case MemoryError():
            return Failure(
                ExitCode.FAILED,
                "MemoryError",
                "the data does not fit in memory: one call needs about three times its size",
                "encrypt it in smaller files",
            )
        case ModuleNotFoundError(name=str(name)):
            ours = name in ("click", "rich")
            hint = (
                "pip install 'anykms[cli]'" if ours else "pip install the extra that this command belongs to"
            )
            return Failure(ExitCode.FAILED, "ModuleNotFoundError", f"no module {shown(name)}", hint)
        case _:
            # Its text could hold anything, data too.
            return Failure(
                ExitCode.FAILED,
                type(error).__name__,
                "an error that nobody foresaw",
                "please report it with what ANYKMS_TRACEBACK=1 prints",
            )


def usage(message: str, hint: str) -> Failed:
    """A usage error with its next step."""
    meta = click.get_current_context().meta
    return Failed(Failure(ExitCode.USAGE, "UsageError", message, hint), bool(meta.get(JSON_WANTED)))
