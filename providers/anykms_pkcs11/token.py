"""One token of this process: module, session, login, locks and anykms's own objects on it.

python-pkcs11 initialises a module without locking (C_Initialize with NULL), so a module is called by one thread
at a time. A login is the whole process's, so connections to one token share it, and one session.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, PKCS11Error, Session
from pkcs11 import exceptions as sdk

from anykms.errors import (
    ConflictError,
    InvalidArgumentError,
    KeyStateError,
    KeystoreError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedOperationError,
)
from anykms.provider import Capability
from anykms_pkcs11.errors import USAGE_GONE, translate
from anykms_pkcs11.records import TAG_SIZE, authenticated, edited
from anykms_pkcs11.specs import capabilities_of, level_of

APPLICATION: Final = "anykms"
"""CKA_APPLICATION of every data object of ours."""
_STORE: Final = "anykms/store"
_LOCK_LEASE: Final = 60
"""Seconds after which a lock is taken for one that a dead process left."""
_LOCK_ATTEMPTS: Final = 25
_WRITE_WAIT: Final = 30
"""Seconds: as long as a card may take to make an RSA key."""
_REMEMBERED: Final = 4096

Pin = Callable[[], str]
"""Gives the PIN when asked."""


@dataclass(slots=True)
class _Library:
    """A loaded module and who calls it."""

    path: str
    module: Any
    lock: threading.RLock = field(default_factory=threading.RLock)


_registry = threading.RLock()
_libraries: dict[str, _Library] = {}
_tokens: dict[tuple[str, int], Token] = {}


def _start_afresh() -> None:
    """In a forked child: no lock is held, and no session of the parent's is ours."""
    global _registry
    _registry = threading.RLock()
    _libraries.clear()
    _tokens.clear()


os.register_at_fork(after_in_child=_start_afresh)
_pid_of_module: dict[str, int] = {}


def _library(path: str) -> _Library:
    if path not in _libraries:
        _libraries[path] = _Library(path, _load(path))
    elif not _libraries[path].module.initialized:
        _libraries[path].module.initialize()
    return _libraries[path]


def _load(path: str) -> Any:
    module = pkcs11.lib(path)
    if _pid_of_module.setdefault(path, os.getpid()) != os.getpid():
        # A child initialises the module itself (PKCS #11 v2.40 usage guide, 2.5.2); its parent's state is void.
        with suppress(PKCS11Error):
            module.finalize()
        module.initialize()
        _pid_of_module[path] = os.getpid()
    return module


class Token:
    """A token that is logged in to; made by ``open_token`` only, shared by the connections of a process."""

    def __init__(self, library: _Library, found: pkcs11.Token, session: Session) -> None:
        self._library = library
        self._session = session
        self._pid = os.getpid()
        self._users = 0
        self._pin_check = b""
        self._abandoned = False
        self._handles: dict[tuple[str, str], Any] = {}
        self._authentic: set[bytes] = set()
        """SHA-256 of values whose MAC was found right: asking the token once for each is enough."""
        self._mac_key: Any = None
        self.name = found.label
        self.level = level_of(found.slot)
        self.capabilities: frozenset[Capability] = capabilities_of(session, found.slot)
        self.store_id = ""
        self._generations: dict[str, int] = {}
        """The highest generation seen of each object of ours."""
        self._locks: set[str] = set()
        self._writing = 0
        self.allowances: dict[str, tuple[int, int]] = {}
        """By object id: wraps that this process may still make, and how many it set aside last."""

    @contextmanager
    def calls(self) -> Generator[Session]:
        """The session, for this thread alone; PKCS#11's errors become the contract's."""
        if os.getpid() != self._pid:
            raise UnsupportedOperationError(
                "a PKCS#11 connection does not survive a fork; connect again in the new process"
            )
        with self._library.lock:
            if self._abandoned:
                raise UnavailableError("the session with the token has ended; connect again")
            try:
                yield self._session
            except PKCS11Error as error:
                raise translate(error) from error

    def works(self) -> bool:
        """Whether the token still does what it is asked."""
        try:
            self._mac("anykms/probe", os.urandom(TAG_SIZE))
        except PKCS11Error:
            return False
        return True

    def abandon(self) -> None:
        """Never call the token through this session again: it has ended, and its number may be another's now."""
        self._abandoned = True

    # Data objects

    def read(self, label: str) -> bytes | None:
        """The authentic data of an object of ours, None where there is none.

        Tokens do not let the value of a data object change, so a change makes an object of the next generation
        and destroys the one before. Who meets both finishes the change before believing it: nobody can have seen
        the new data while another still reads the old.

        Raises:
            KeystoreError: it is not authentic, it is gone, or it is older than one seen before.
        """
        handle = self._handles.get(("data", label))
        if handle is not None:
            try:
                return self._believed(label, [handle])
            except (sdk.ObjectHandleInvalid, sdk.AttributeTypeInvalid):
                del self._handles["data", label]
        found = self._find(label)
        if not found and not self._writing:
            with self.writing():  # a look in the middle of another process's change may see neither object
                found = self._find(label)
        if len(found) > 1:
            with self.locked(label):
                found = self._find(label)
                self._finish(label, found)
                return self._believed(label, found)
        return self._believed(label, found)

    def write(self, label: str, data: bytes) -> None:
        """Put new data in the place of what the label names; the caller holds its lock."""
        found = self._find(label)
        generation = 1 + max((self._opened(label, item)[0] for item in found), default=0)
        body = generation.to_bytes(8) + data
        item = self._create(label, self._mac(label, body) + body)
        for old in found:
            old.destroy()
        self._handles["data", label] = item
        self._generations[label] = generation

    def _finish(self, label: str, found: list[Any]) -> None:
        """Destroy all objects but the newest; ``found`` keeps that one."""
        found.sort(key=lambda item: self._opened(label, item)[0])
        generations = [self._opened(label, item)[0] for item in found]
        if len(set(generations)) != len(generations):
            raise edited(f"there are several objects {label}")
        while len(found) > 1:
            found.pop(0).destroy()

    def _believed(self, label: str, found: list[Any]) -> bytes | None:
        seen = self._generations.get(label, 0)
        if not found:
            self._check_login()
            if seen:
                raise edited(f"the object {label} is gone")
            return None
        generation, data = self._opened(label, found[0])
        if generation < seen:
            raise edited(f"the object {label} is older than one seen before")
        self._handles["data", label] = found[0]
        self._generations[label] = generation
        return data

    def labels(self, prefix: str) -> list[str]:
        """The labels of our objects that begin so, sorted; each once."""
        ours = {Attribute.CLASS: ObjectClass.DATA, Attribute.APPLICATION: APPLICATION}
        with self.writing():  # not in the middle of a change
            found = {_text(item) for item in self._session.get_objects(ours)}
        if _STORE not in found:
            self._check_login()
        return sorted(label for label in found if label.startswith(prefix))

    def _check_login(self) -> None:
        """Raises UnauthenticatedError if nothing is found because private objects are out of sight."""
        if self.store_id and not self._find(_STORE):
            raise UnauthenticatedError("the login to the token has ended; connect again")

    @contextmanager
    def writing(self) -> Generator[None]:
        """Keeps this host's other processes from writing to tokens of the module. Every write is inside.

        SoftHSM needs it: a process that writes takes the token's generation for known, and so overlooks the objects
        that another process made since it last looked. So only one process writes at a time, and looks first.
        The lock is flock(2) on the module's own file, which all users of the module can read.

        Raises:
            ConflictError: others write all the time.
        """
        if self._writing:
            yield
            return
        descriptor = os.open(self._library.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _wait_for(descriptor)
            self._find(_STORE)
            self._writing += 1
            try:
                yield
            finally:
                self._writing -= 1
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked meanwhile has the descriptor too
            os.close(descriptor)

    @contextmanager
    def locked(self, label: str) -> Generator[None]:
        """Keeps all others, those of other hosts too, from changing what the label names.

        The lock is an object on the token: who makes it and finds no other one has it.

        Raises:
            ConflictError: others have it all the time.
        """
        if label in self._locks:  # by this thread: the module's lock is held around it
            yield
            return
        with self.writing():
            mine = self._take(label.replace("anykms/", "anykms/lock/", 1))
            self._locks.add(label)
            try:
                yield
            finally:
                self._locks.discard(label)
                with suppress(sdk.ObjectHandleInvalid):
                    mine.destroy()

    def _take(self, label: str) -> Any:
        for _ in range(_LOCK_ATTEMPTS):
            nonce = os.urandom(16)
            if not self._rivals(label, nonce):
                mine = self._create(label, int(time.time()).to_bytes(8) + nonce)
                if not self._rivals(label, nonce):
                    return mine
                mine.destroy()
            time.sleep(secrets.SystemRandom().uniform(0.01, 0.2))
        raise ConflictError(f"another host is changing {label.removeprefix('anykms/lock/')}")

    def _rivals(self, label: str, nonce: bytes) -> int:
        rivals = 0
        for item in self._find(label):
            with suppress(sdk.ObjectHandleInvalid, sdk.AttributeTypeInvalid):  # gone in between
                value = bytes(item[Attribute.VALUE])
                if value[8:] == nonce:
                    continue
                if abs(time.time() - int.from_bytes(value[:8])) > _LOCK_LEASE:
                    item.destroy()
                    continue
                rivals += 1
        return rivals

    def _find(self, label: str) -> list[Any]:
        return list(
            self._session.get_objects(
                {
                    Attribute.CLASS: ObjectClass.DATA,
                    Attribute.APPLICATION: APPLICATION,
                    Attribute.LABEL: label,
                }
            )
        )

    def _create(self, label: str, value: bytes) -> Any:
        return self._session.create_object(
            {
                Attribute.CLASS: ObjectClass.DATA,
                Attribute.TOKEN: True,
                Attribute.PRIVATE: True,
                Attribute.MODIFIABLE: True,
                Attribute.APPLICATION: APPLICATION,
                Attribute.LABEL: label,
                Attribute.VALUE: value,
            }
        )

    # Authenticity

    def _mac(self, label: str, body: bytes) -> bytes:
        return cast(bytes, self._mac_key.sign(authenticated(label, body), mechanism=Mechanism.SHA256_HMAC))

    def _opened(self, label: str, item: Any) -> tuple[int, bytes]:
        """Generation and data of an object: tag (32) || generation (u64be) || data."""
        value = bytes(item[Attribute.VALUE])
        tag, body = value[:TAG_SIZE], value[TAG_SIZE:]
        known = hashlib.sha256(authenticated(label, value)).digest()
        if known not in self._authentic:
            if len(value) < TAG_SIZE + 8 or not hmac.compare_digest(tag, self._mac(label, body)):
                raise edited(f"the object {label} is not authentic")
            if len(self._authentic) >= _REMEMBERED:
                self._authentic.clear()
            self._authentic.add(known)
        return int.from_bytes(body[:8]), body[8:]

    # Keys

    def find_key(self, key_class: ObjectClass, key_type: KeyType, object_id: str) -> Any:
        """The object of a key version, once it is known to have been made on the token and never left it.

        Raises:
            KeystoreError: missing, twice there, or of another kind.
        """
        found = list(
            self._session.get_objects({Attribute.CLASS: key_class, Attribute.ID: bytes.fromhex(object_id)})
        )
        if len(found) != 1:
            raise edited(f"there are {len(found)} objects with CKA_ID {object_id}")
        item = cast("Any", found[0])
        born_here = all(
            item[attribute]
            for attribute in (Attribute.LOCAL, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE)
        )
        if item[Attribute.KEY_TYPE] is not key_type or not born_here:
            raise edited(f"the object with CKA_ID {object_id} is not the one that anykms made")
        return item

    def usable_key(
        self, key_class: ObjectClass, key_type: KeyType, object_id: str, usage: tuple[Attribute, ...]
    ) -> Any:
        """The same with its usage attributes, remembered; python-pkcs11 gives methods only to such an object.

        Raises:
            KeystoreError: see ``find_key``.
            KeyStateError: an attribute was taken away outside of anykms.
        """
        known = self._handles.get(("key", object_id))
        if known is None:
            known = self.find_key(key_class, key_type, object_id)
            if not all(known[attribute] for attribute in usage):
                raise KeyStateError(USAGE_GONE)
            self._handles["key", object_id] = known
        return known

    def adopt(self, object_id: str, item: Any) -> None:
        """Remember the object just made."""
        self._handles["key", object_id] = item

    def forget(self, object_id: str) -> None:
        """Ask the token for the object again."""
        self._handles.pop(("key", object_id), None)

    def destroy_key(self, object_id: str) -> None:
        """Destroy the object of a key version, if it is still there."""
        self.forget(object_id)
        for item in self._session.get_objects({Attribute.ID: bytes.fromhex(object_id)}):
            item.destroy()

    # The store

    def open_store(self, *, create: bool) -> None:
        """Find the store's id and the key of its MACs, or make them.

        Raises:
            KeystoreError: there is none, or more than one.
        """
        if self._mac_key is not None:
            return
        if not self._load_store():
            if not create:
                raise KeystoreError(
                    f"the token {self.name!a} holds no anykms keys yet; connect with create=True to begin"
                )
            with self.locked(_STORE):
                if not self._load_store():
                    self._make_store()

    def _load_store(self) -> bool:
        found = self._find(_STORE)
        if not found:
            return False
        value = bytes(found[0][Attribute.VALUE])[TAG_SIZE + 8 :]
        store_id, object_id = value[:26], value[26:]
        if len(found) > 1 or len(object_id) != 16 or not re.fullmatch(rb"[a-z2-7]{26}", store_id):
            raise edited(f"there are several objects {_STORE}, or it is malformed")
        try:
            self._mac_key = self.usable_key(
                ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, object_id.hex(), (Attribute.SIGN,)
            )
            self._believed(_STORE, found)
        except BaseException:
            self._mac_key = None
            raise
        self.store_id = store_id.decode()
        return True

    def _make_store(self) -> None:
        object_id = os.urandom(16)
        store_id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(26))
        self._mac_key = self._session.generate_key(
            KeyType.GENERIC_SECRET,
            256,
            id=object_id,
            label="anykms/mac",
            store=True,
            capabilities=MechanismFlag.SIGN,
            template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
        )
        self.write(_STORE, store_id.encode() + object_id)
        self.store_id = store_id

    # Sharing

    def share(self, pin: str, check: Callable[[str], bytes]) -> None:
        """One connection more; the PIN must be the one that logged in."""
        offered = check(pin)
        if self._users and not hmac.compare_digest(offered, self._pin_check):
            raise UnauthenticatedError("the token refuses the PIN: it is not the one of this process's login")
        self._pin_check = offered
        self._users += 1

    def release(self) -> None:
        """One connection less; the last one logs out."""
        if os.getpid() != self._pid:
            return
        with _registry, self._library.lock:
            self._users -= 1
            if self._users > 0:
                return
            for key, token in list(_tokens.items()):
                if token is self:
                    del _tokens[key]
            if not self._abandoned:
                with suppress(PKCS11Error):  # a token that is gone has logged us out itself
                    self._session.close()


def _wait_for(descriptor: int) -> None:
    deadline = time.monotonic() + _WRITE_WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ConflictError("other processes are writing to tokens of this module") from None
            time.sleep(secrets.SystemRandom().uniform(0.001, 0.02))
        else:
            return


_check_key: Final = os.urandom(32)


def _pin_check(pin: str) -> bytes:
    return hmac.digest(_check_key, pin.encode(), "sha256")


def spelt(label: str) -> str:
    """A token's label as a connection URI has it: lower case, and - for what a host name cannot hold."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-")


def open_token(path: str, label: str, serial: str | None, pin: str, *, create: bool) -> Token:
    """Log in to a token, or join the login that this process has.

    Raises:
        KeystoreError: the module cannot be loaded; no such token, or several; no store on it.
        UnauthenticatedError: another PIN.
    """
    with _registry:
        try:
            library = _library(path)
        except PKCS11Error as error:
            raise KeystoreError(
                f"the PKCS#11 module {path!a} cannot be loaded: {ascii(str(error))[1:201]}"
            ) from error
        with library.lock:
            try:
                found = [
                    token
                    for token in cast("Iterator[pkcs11.Token]", library.module.get_tokens())
                    if spelt(token.label) == label and serial in (None, _serial(token))
                ]
                return _open(path, library, _the_one(found, label), pin, create=create)
            except PKCS11Error as error:
                raise translate(error) from error


def _the_one(found: list[pkcs11.Token], label: str) -> pkcs11.Token:
    if not found:
        raise UnavailableError(f"the module shows no token {label!a}; compare: pkcs11-tool --list-slots")
    if len(found) > 1:
        serials = ", ".join(ascii(_serial(token)) for token in found)
        raise InvalidArgumentError(f"several tokens are called {label!a}; choose one by ?serial=: {serials}")
    return found[0]


def _open(path: str, library: _Library, found: pkcs11.Token, pin: str, *, create: bool) -> Token:
    where = path, found.slot.slot_id
    token = _tokens.get(where)
    if token is not None and not token.works():
        token.abandon()
        token = None
    if token is None:
        mechanisms = found.slot.get_mechanisms()
        if not {Mechanism.SHA256_HMAC, Mechanism.GENERIC_SECRET_KEY_GEN} <= mechanisms:
            raise UnsupportedOperationError(
                "the token has no HMAC-SHA-256 (CKM_SHA256_HMAC): anykms could not protect its records there"
            )
        session = found.open(rw=True, user_pin=pin)
        try:
            token = Token(library, found, session)
        except BaseException:
            with suppress(PKCS11Error):
                session.close()
            raise
    token.share(pin, _pin_check)
    try:
        token.open_store(create=create)
    except BaseException:
        token.release()
        raise
    _tokens[where] = token
    return token


def _serial(token: pkcs11.Token) -> str:
    return token.serial.decode("ascii", "replace").strip().lower()


def _text(item: Any) -> str:
    try:
        return str(item[Attribute.LABEL])
    except (sdk.ObjectHandleInvalid, UnicodeDecodeError):
        return ""
