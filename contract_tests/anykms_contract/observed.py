"""A provider that is watched, and made to fail, at the seam: the same for every provider."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast

from anykms.keys import KeyInfo, KeyStatus, KeyTemplate
from anykms.provider import (
    Capability,
    Operation,
    Provider,
    SignatureEncoding,
    WrapContext,
    Wrapped,
)

T = TypeVar("T")

Fault = Callable[[], Exception]
"""Makes the error to raise: a new one each time, as the core fills in where it happened."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call at the seam: the operation, and the name or URI of the key."""

    operation: Operation
    key: str | None


class ObservedProvider:
    """Delegates to a provider, records each call, raises planned faults and alters planned answers.

    Attributes:
        calls: every call so far, failed ones too.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._faults: defaultdict[Operation, deque[tuple[Fault, bool]]] = defaultdict(deque)
        self._answers: dict[Operation, Callable[[Any], Any]] = {}
        self._pretended: dict[Operation, object] = {}
        self._misread: Callable[[KeyTemplate], KeyTemplate] | None = None
        self._losing: tuple[int, Fault] | None = None
        self._meanwhile: tuple[int, Callable[[], object]] | None = None
        self._hidden_for = 0
        self._hidden: dict[str, tuple[KeyStatus, int]] = {}
        self.calls: list[Call] = []

    # Plans

    def fail(self, operation: Operation, fault: Fault, *, times: int = 1) -> None:
        """Raise instead of doing the operation, the next ``times`` times."""
        self._faults[operation].extend([(fault, False)] * times)

    def lose_reply(self, operation: Operation, fault: Fault, *, times: int = 1) -> None:
        """Do the operation, then raise: the caller never learns what happened."""
        self._faults[operation].extend([(fault, True)] * times)

    def lose_reply_after(self, calls: int, fault: Fault) -> None:
        """Let ``calls`` calls of any kind pass, do the next one and lose its reply."""
        self._losing = len(self.calls) + calls + 1, fault

    def answer(self, operation: Operation, change: Callable[[Any], Any]) -> None:
        """Give ``change(answer)`` for the provider's answer, until ``heal``."""
        self._answers[operation] = change

    def pretend(self, operation: Operation, answer: object) -> None:
        """Give ``answer`` without asking the provider, until ``heal``."""
        self._pretended[operation] = answer

    @property
    def planned(self) -> bool:
        """Whether a fault, an answer or another key is planned, so that what happens is not the provider's doing."""
        return bool(
            any(self._faults.values())
            or self._answers
            or self._pretended
            or self._misread is not None
            or self._losing is not None
        )

    def meanwhile(self, calls: int, action: Callable[[], object]) -> None:
        """Let ``calls`` calls of any kind pass, and do ``action`` before the next one."""
        self._meanwhile = len(self.calls) + calls, action

    def lag(self, reads: int) -> None:
        """Answer every second ``describe_key`` with the status before the last change, for ``reads`` reads of it."""
        self._hidden_for = reads
        self._hidden.clear()

    def _hide(self, info: KeyInfo) -> None:
        if self._hidden_for:
            self._hidden[str(info.uri)] = self._provider.describe_key(info), self._hidden_for

    def _seen(self, info: KeyInfo) -> KeyStatus:
        old, left = self._hidden.pop(str(info.uri), (None, 0))
        if old is None or left == 0:
            return self._provider.describe_key(info)
        self._hidden[str(info.uri)] = old, left - 1
        return self._provider.describe_key(info) if (self._hidden_for - left) % 2 else old

    def misread(self, change: Callable[[KeyTemplate], KeyTemplate]) -> None:
        """Make another key than the one asked for, until ``heal``."""
        self._misread = change

    def heal(self) -> None:
        """Drop every plan."""
        self._misread = self._losing = self._meanwhile = None
        self._faults.clear()
        self._pretended.clear()
        self._answers.clear()

    def count(self, operation: Operation) -> int:
        """How often the operation was called."""
        return sum(call.operation is operation for call in self.calls)

    def _do(self, operation: Operation, key: str | None, perform: Callable[[], T]) -> T:
        if self._meanwhile is not None and self._meanwhile[0] == len(self.calls):
            (_, action), self._meanwhile = self._meanwhile, None
            action()
        self.calls.append(Call(operation, key))
        planned = self._faults[operation]
        fault, after = planned.popleft() if planned else (None, False)
        if fault is not None and not after:
            raise fault()
        result = cast("T", self._pretended[operation]) if operation in self._pretended else perform()
        if fault is None and self._losing is not None and self._losing[0] == len(self.calls):
            fault = self._losing[1]
        if fault is not None:
            raise fault()
        change = self._answers.get(operation)
        return result if change is None else change(result)

    # Provider

    @property
    def scheme(self) -> str:
        return self._provider.scheme

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._provider.capabilities

    @property
    def signature_encoding(self) -> SignatureEncoding:
        return self._provider.signature_encoding

    @property
    def ungated(self) -> frozenset[Operation]:
        return self._provider.ungated

    @property
    def strongly_consistent(self) -> bool:
        return self._provider.strongly_consistent and not self._hidden_for

    def create_key(self, template: KeyTemplate) -> KeyInfo:
        wanted = template if self._misread is None else self._misread(template)
        return self._do(Operation.GENERATE_KEY, template.name, lambda: self._provider.create_key(wanted))

    def get_key(self, name: str) -> KeyInfo:
        return self._do(Operation.GET_KEY, name, lambda: self._provider.get_key(name))

    def list_keys(self) -> Iterator[KeyInfo]:
        return self._do(Operation.LIST_KEYS, None, lambda: iter(list(self._provider.list_keys())))

    def describe_key(self, info: KeyInfo) -> KeyStatus:
        return self._do(Operation.DESCRIBE_KEY, str(info.uri), lambda: self._seen(info))

    def set_enabled(self, info: KeyInfo, enabled: bool) -> None:
        self._hide(info)
        self._do(Operation.SET_ENABLED, str(info.uri), lambda: self._provider.set_enabled(info, enabled))

    def rotate_key(self, info: KeyInfo) -> KeyStatus:
        self._hide(info)
        return self._do(Operation.ROTATE_KEY, str(info.uri), lambda: self._provider.rotate_key(info))

    def schedule_destruction(self, info: KeyInfo) -> datetime:
        self._hide(info)
        return self._do(
            Operation.SCHEDULE_DESTRUCTION, str(info.uri), lambda: self._provider.schedule_destruction(info)
        )

    def cancel_destruction(self, info: KeyInfo) -> None:
        self._hide(info)
        self._do(Operation.CANCEL_DESTRUCTION, str(info.uri), lambda: self._provider.cancel_destruction(info))

    def get_public_key(self, info: KeyInfo, version: str | None) -> bytes:
        return self._do(
            Operation.GET_PUBLIC_KEY, str(info.uri), lambda: self._provider.get_public_key(info, version)
        )

    def wrap(self, info: KeyInfo, data_key: bytes, context: WrapContext) -> Wrapped:
        return self._do(Operation.WRAP, str(info.uri), lambda: self._provider.wrap(info, data_key, context))

    def unwrap(self, info: KeyInfo, wrapped: bytes, version: str | None, context: WrapContext) -> bytes:
        return self._do(
            Operation.UNWRAP,
            str(info.uri),
            lambda: self._provider.unwrap(info, wrapped, version, context),
        )

    def sign(self, info: KeyInfo, message: bytes, prehashed: bool) -> bytes:
        return self._do(Operation.SIGN, str(info.uri), lambda: self._provider.sign(info, message, prehashed))

    def decrypt(self, info: KeyInfo, ciphertext: bytes) -> bytes:
        return self._do(Operation.DECRYPT, str(info.uri), lambda: self._provider.decrypt(info, ciphertext))

    def mac(self, info: KeyInfo, message: bytes) -> bytes:
        return self._do(Operation.MAC, str(info.uri), lambda: self._provider.mac(info, message))

    def verify_mac(self, info: KeyInfo, message: bytes, tag: bytes) -> None:
        self._do(Operation.VERIFY_MAC, str(info.uri), lambda: self._provider.verify_mac(info, message, tag))

    def close(self) -> None:
        self._provider.close()
