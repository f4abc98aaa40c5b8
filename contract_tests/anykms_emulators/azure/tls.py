"""A throw-away certificate authority, so that clients check the emulator's TLS as they check the real one's.

The authority's private key is dropped as soon as it has signed, and the authority is constrained to the names
it signed for: whoever trusts its certificate trusts it for those names alone, and nobody can sign again.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import tempfile
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES: Final = ("*.vault.azure.net", "*.managedhsm.azure.net", "localhost", "127.0.0.1")
_LIFE: Final = timedelta(days=30)


class Certificates:
    """A server context for `names`, and the file of the authority that clients are to trust.

    The file is removed when this object is gone. Names are DNS names, wildcards included, or IP addresses.
    """

    def __init__(self, names: Sequence[str] = NAMES) -> None:
        directory = tempfile.mkdtemp(prefix="anykms-azure-emulator-")
        self._cleanup = weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self.ca_file = str(Path(directory, "ca.pem"))
        authority_key = ec.generate_private_key(ec.SECP256R1())
        authority = _authority(authority_key, names)
        server_key = ec.generate_private_key(ec.SECP256R1())
        server = _server(server_key, authority_key, authority, names)
        Path(self.ca_file).write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        chain = Path(directory, "server.pem")
        with os.fdopen(os.open(chain, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(
                server_key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            file.write(server.public_bytes(serialization.Encoding.PEM))
        self.context.load_cert_chain(chain)
        chain.unlink()


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _permitted(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_network(name))
    except ValueError:
        return x509.DNSName(name.removeprefix("*."))


def _builder(subject: str, issuer: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFE)
    )


_AUTHORITY: Final = "anykms emulator, not to be trusted"


def _authority(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> x509.Certificate:
    return (
        _builder(_AUTHORITY, _AUTHORITY, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.NameConstraints([_permitted(name) for name in names], None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    names: Sequence[str],
) -> x509.Certificate:
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder("anykms emulator", _AUTHORITY, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
