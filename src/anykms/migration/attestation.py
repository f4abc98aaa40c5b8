"""Seals beside files: a sealed document holds a file's digest, so that a file of any size can be sealed.

The seal of ``report.json`` lies in ``report.json.seal``. It is an ordinary sealed document: ``anykms trust show``
reads it, and ``anykms trust countersign`` adds signatures where a trust root asks for several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from anykms.client import Key
from anykms.errors import SealError
from anykms.keys import canonical_json
from anykms.trust import PayloadType, TrustRoot, read_struct, seal

SUFFIX: Final = ".seal"


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a seal says of a file: SHA-256 in hex, and bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> FileDigest:
        """That of a file's content.

        >>> FileDigest.of(b"abc").sha256[:16]
        'ba7816bf8f01cfea'
        """
        return cls(hashlib.sha256(data).hexdigest(), len(data))


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


def _read(value: object) -> FileDigest:
    found = read_struct(value, _Document)
    return FileDigest(found.sha256, found.size)


def _kind(media_type: str) -> PayloadType[FileDigest]:
    return PayloadType(
        media_type,
        lambda digest: canonical_json(asdict(digest)),
        _read,
        lambda digest: digest.sha256,
        one_name=True,
    )


REPORT: Final = _kind("application/vnd.anykms.migration-report.v1+json")
"""The seal of a migration's report."""
EVIDENCE: Final = _kind("application/vnd.anykms.destruction-evidence.v1+json")
"""The seal of the evidence of a destruction."""


def seal_file(
    data: bytes,
    kind: PayloadType[FileDigest],
    signers: Sequence[Key],
    *,
    audience: str = "",
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> bytes:
    """The seal of a file with this content.

    Raises:
        InvalidArgumentError, KeyUsageError, KMSError: as ``anykms.trust.seal``.
    """
    return seal(FileDigest.of(data), signers=signers, generation=1, audience=audience, kind=kind, clock=clock)


def check_signers(kind: PayloadType[FileDigest], signers: Sequence[Key], *, audience: str = "") -> None:
    """Seal an empty file, so that keys that cannot seal are noticed before the work, not after it.

    Raises:
        InvalidArgumentError, KeyUsageError, KMSError: as ``seal_file``.
    """
    seal_file(b"", kind, signers, audience=audience)


def check_seal(data: bytes, sealed: bytes, kind: PayloadType[FileDigest], root: TrustRoot) -> tuple[str, ...]:
    """The ids of the root's keys that sealed a file with exactly this content.

    A ledger of the root is not used: files are told apart by their digests, and their age is judged elsewhere.

    Raises:
        SealError: the seal is another file's, of another kind, or not one that the root trusts.
        KMSError: a key of the root cannot be asked now.
    """
    digest = FileDigest.of(data)
    opened = root.open_sealed(sealed, kind, name=digest.sha256, remember=False)
    if opened.document != digest:  # a digest that fits and a size that does not: nothing that seal_file wrote
        raise SealError("the seal is of another file")
    return opened.signed_by
