"""Artefacts as every provider makes them, with the provider's own names and all that is fresh left out.

One JSON file for each. ``python -m anykms_contract.golden URI`` writes them anew from the provider at URI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import utils

from anykms.client import Key
from anykms.envelope.keyring import Keyring
from anykms.errors import KMSError
from anykms.keys import KeyInfo
from anykms_contract.harness import ES256, Harness

_DATA: Final = b"4111 1111 1111 1111"
_CONTEXT: Final = {"tenant": "42"}
_OWN: Final = "(the provider's own)"
_OWN_FACTS: Final = ("protection_level", "destroy_window", "destroy_window_enforced")
_MAGIC_SIZE: Final = 8

Description = Mapping[str, Any]


def recorded(artefact: str) -> Description:
    """What the golden file says."""
    text = files(__name__).joinpath(f"{artefact}.json").read_text(encoding="utf-8")
    found: Description = json.loads(text)
    return found


def observed(artefact: str, harness: Harness) -> Description | None:
    """What the provider makes; None once it has refused the kind of key that it takes."""
    return ARTEFACTS[artefact](harness)


def _message(harness: Harness) -> Description:
    key = harness.main.key(harness.wrapping_key())
    message = Keyring([key]).encrypt(_DATA, context=_CONTEXT, aad=b"orders/17")
    length = int.from_bytes(message[8:12])
    head, (recipient,), *rest = msgspec.msgpack.decode(message[12 : 12 + length])
    suite, record, context, required, created = head
    return {
        "magic": message[:_MAGIC_SIZE].hex(),
        "suite": suite,
        "record": _size(record),
        "context": context,
        "required": required,
        "created": type(created).__name__,
        "recipient": ["(key URI)", *_recipient(recipient, key.info)],
        "rest of the header": rest,
        "tag and body": _size(message[12 + length :]),
    }


def _wrapped(harness: Harness) -> Description:
    key = harness.main.key(harness.wrapping_key())
    wrapped = key.wrap(bytes(range(32)), context=_CONTEXT)
    return {
        "magic": wrapped[:_MAGIC_SIZE].hex(),
        "recipient": ["(key URI)", *_recipient(msgspec.msgpack.decode(wrapped[_MAGIC_SIZE:]), key.info)],
    }


def _recipient(fields: list[Any], info: KeyInfo) -> list[Any]:
    uri, algorithm, wrapped, origin, data_key, sender = fields
    assert str(uri).startswith(str(info.uri))
    rsa = info.key_size is not None
    assert algorithm == (f"{info.algorithm}+A256GCM+ES256" if rsa else info.algorithm)
    assert (len(data_key), len(sender)) == ((48, 64) if rsa else (0, 0))
    assert 0 < len(wrapped) <= 4096
    return [
        "(the key's algorithm)",
        _OWN,
        origin,
        "(48 bytes under RSA, else none)",
        "(64 bytes under RSA, else none)",
    ]


def _signature(harness: Harness) -> Description | None:
    key = _signer(harness)
    if key is None:
        return None
    der, raw = key.sign(_DATA), key.sign(_DATA, encoding="P1363")
    r, s = utils.decode_dss_signature(der)
    assert utils.encode_dss_signature(r, s) == der
    return {"DER": {"tag": der[:1].hex(), "integers": ["r", "s"]}, "P1363": _size(raw)}


def _public_key(harness: Harness) -> Description | None:
    key = _signer(harness)
    if key is None:
        return None
    public_key = key.public_key()
    lines = public_key.pem().splitlines()
    jwk = {
        name: f"({len(value)} characters)" if name in ("x", "y", "kid") else value
        for name, value in public_key.jwk().items()
    }
    return {
        "SPKI": _size(public_key.spki),
        "SPKI begins": public_key.spki[:27].hex(),
        "PEM": [lines[0], f"({len(lines) - 2} lines)", lines[-1]],
        "JWK": dict(sorted(jwk.items())),
        "fingerprint": f"({len(public_key.fingerprint)} hex digits)",
    }


def _key_info(harness: Harness) -> Description | None:
    if not harness.supports(ES256):
        harness.refuses(ES256)
        return None
    info = harness.main.client.generate_key(harness.conf(ES256, tags={"team": "blue", "cost-center": "7"}))
    facts: dict[str, Any] = json.loads(info.to_json())
    facts |= {
        "name": "(name)",
        "uri": "(key URI)",
        "provider": "(scheme)",
        "created_at": "".join("0" if c.isdigit() else c for c in facts["created_at"]),
        "fingerprint": f"({len(facts['fingerprint'])} hex digits)",
        "conf_digest": f"({len(facts['conf_digest'])} characters)",
    }
    return facts | dict.fromkeys(_OWN_FACTS, _OWN)


def _errors(harness: Harness) -> Description:
    info, connection = harness.wrapping_key(), harness.connect()
    key, client = connection.key(info), connection.client
    other = Keyring([connection.key(harness.wrapping_key("second"))])
    disabled = harness.generate()
    client.disable_key(disabled)
    wrapped = key.wrap(bytes(32), context=_CONTEXT)
    message = Keyring([key]).encrypt(_DATA, context=_CONTEXT)
    # refused here, so that the text is the library's; then refused by the provider, so that it is its own
    unsent: Mapping[str, Callable[[], object]] = {
        "another purpose": lambda: key.sign(_DATA),
        "a name outside the limits": lambda: client.generate_key(
            harness.conf(harness.wrapping, name="Orders")
        ),
        "a context outside the limits": lambda: key.wrap(bytes(32), context={"": "v"}),
        "a data key of another size": lambda: key.wrap(bytes(31), context=_CONTEXT),
        "no wrapped key": lambda: key.unwrap(b"\0", context=_CONTEXT),
        "another key's message": lambda: other.decrypt(message, context=_CONTEXT),
        "another context": lambda: Keyring([key]).decrypt(message, context={"tenant": "43"}),
        "a cut message": lambda: Keyring([key]).decrypt(message[:40], context=_CONTEXT),
    }
    sent: Mapping[str, Callable[[], object]] = {
        "an unknown name": lambda: client.get_key(harness.name()),
        "a name twice": lambda: client.generate_key(harness.conf(harness.wrapping, name=info.name)),
        "a disabled key": lambda: connection.key(disabled).wrap(bytes(32), context={}),
        "a wrap under another context": lambda: key.unwrap(wrapped, context={"tenant": "43"}),
        "nothing to cancel": lambda: client.cancel_destruction(info),
    }
    return {
        "refused here": {name: _error(harness, info, mistake, "text") for name, mistake in unsent.items()},
        "refused by the provider": {
            name: _error(harness, info, mistake, "") for name, mistake in sent.items()
        },
    }


def _error(harness: Harness, info: KeyInfo, mistake: Callable[[], object], text: str) -> Description:
    with pytest.raises(KMSError) as caught:
        mistake()
    error = caught.value
    said = str(error)
    assert said
    assert said.isprintable()
    uri = re.escape(str(info.uri))
    shown = re.sub(rf"'{uri}[^']*'", "'(key URI)'", said).replace(info.name, "(name)")
    return {
        "class": type(error).__name__,
        "retryable": error.retryable,
        "provider": None if error.provider is None else "(scheme)",
        "operation": error.operation,
        "key": None if error.key is None else "(name or key URI)",
        "text": shown if text else "(one printable line)",
    }


def _signer(harness: Harness) -> Key | None:
    info = harness.shared(ES256)
    return None if info is None else harness.main.key(info)


def _size(data: bytes) -> str:
    return f"({len(data)} bytes)"


ARTEFACTS: Final[Mapping[str, Callable[[Harness], Description | None]]] = {
    "message": _message,
    "wrapped-key": _wrapped,
    "signature": _signature,
    "public-key": _public_key,
    "key-info": _key_info,
    "errors": _errors,
}
