"""``anykms sign`` and ``verify``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from anykms.cli import files
from anykms.cli.connecting import Stores
from anykms.cli.failures import usage
from anykms.cli.options import force_option, input_argument, json_option, output_option, stores_option
from anykms.cli.terminal import print_json, progress, shown

if TYPE_CHECKING:
    from anykms.algorithms import Algorithm

_PIECE: Final = 1024 * 1024
_LONGEST_SIGNATURE: Final = 65536
_LONGEST_KEY: Final = 65536

_encoding_option = click.option(
    "--encoding",
    type=click.Choice(["DER", "P1363"], case_sensitive=False),
    default="DER",
    show_default=True,
    help="Of an ECDSA signature. P1363 (r || s) is what JOSE and COSE use.",
)


@click.command()
@input_argument
@output_option
@stores_option
@click.option("--key", "name", metavar="NAME", required=True, help="Signing key: its name or URI.")
@_encoding_option
@force_option
@json_option
def sign(
    source: str, output: str, stores: Sequence[str], name: str, encoding: str, force: bool, as_json: bool
) -> None:
    """Sign FILE (default: standard input); the result is the bare signature.

    The signature is verified with the pinned public key before it is returned. A file of any size is signed by its
    digest; Ed25519 and ML-DSA sign at most 4096 bytes.

    \b
    Examples:
      anykms sign --key releases anykms-1.0.tar.gz -o anykms-1.0.tar.gz.sig
      anykms sign --key releases --json < notes.txt
    """
    files.check_output(output, force)
    with Stores(stores) as opened:
        client, info = opened.find(name)
        key = client.key(info)
        data, prehashed = _prepared(info.algorithm, source)
        signature = key.sign(data, encoding=encoding, prehashed=prehashed)
        if output != files.STANDARD or not as_json:
            files.write(output, signature, force=force, private=False)
        if as_json:
            print_json(
                {
                    "key": str(info.uri),
                    "algorithm": str(info.algorithm),
                    "encoding": encoding,
                    "signature": base64.b64encode(signature).decode(),
                    **({} if output == files.STANDARD else {"output": output}),
                }
            )


@click.command()
@input_argument
@click.option(
    "--signature", "signature_file", metavar="FILE", required=True, help="File with the bare signature."
)
@stores_option
@click.option("--key", "name", metavar="NAME", help="Signing key: its name or URI.")
@click.option(
    "--public-key",
    "public_key_file",
    metavar="FILE",
    help="Instead of --key: a PEM or JWK file; no keystore is needed.",
)
@click.option(
    "--algorithm", metavar="NAME", help="With --public-key: the algorithm it is for, for example ES256."
)
@_encoding_option
@json_option
def verify(
    source: str,
    signature_file: str,
    stores: Sequence[str],
    name: str | None,
    public_key_file: str | None,
    algorithm: str | None,
    encoding: str,
    as_json: bool,
) -> None:
    """Check that a signature is --key's for FILE (default: standard input). Exit code 3: it is not.

    With --key the key must be enabled now. With --public-key neither a keystore nor the key's state matters, and you
    say which algorithm the key is for: the file does not choose it.

    \b
    Examples:
      anykms verify --key releases --signature anykms-1.0.tar.gz.sig anykms-1.0.tar.gz
      anykms verify --public-key releases.pem --algorithm ES256 --signature notes.sig notes.txt
    """
    if (name is None) == (public_key_file is None) or (algorithm is None) != (public_key_file is None):
        raise usage("give either --key, or --public-key and --algorithm", "--help shows examples")
    signature = _read_short(signature_file, _LONGEST_SIGNATURE)
    if public_key_file is not None and algorithm is not None:
        from anykms.signing import PublicKey

        text = _read_short(public_key_file, _LONGEST_KEY)
        read = PublicKey.from_jwk if text.lstrip().startswith(b"{") else PublicKey.from_pem
        public_key = read(text, algorithm)
        data, prehashed = _prepared(public_key.algorithm, source)
        public_key.verify(data, signature, encoding=encoding, prehashed=prehashed)
        by, used = "sha256:" + public_key.fingerprint, public_key.algorithm
    else:
        with Stores(stores) as opened:
            client, info = opened.find(name or "")
            data, prehashed = _prepared(info.algorithm, source)
            client.key(info).verify(data, signature, encoding=encoding, prehashed=prehashed)
            by, used = str(info.uri), info.algorithm
    if as_json:
        print_json({"authentic": True, "key": by, "algorithm": str(used)})
    else:
        click.echo(f"Good {used} signature by {shown(by)}")


def _prepared(algorithm: Algorithm, source: str) -> tuple[bytes, bool]:
    """What is signed of a file, and whether it is a digest; a long file is not held in memory."""
    if not algorithm.spec.prehashable:
        with files.opened(source) as (file, _):
            # One byte more than allowed, so that the library refuses it.
            return file.read((algorithm.spec.max_message or 0) + 1), False
    digest = hashlib.new(str(algorithm.spec.digest))
    with files.opened(source) as (file, size), progress("hashing", size) as advance:
        while piece := file.read(_PIECE):
            digest.update(piece)
            advance(len(piece))
    return digest.digest(), True


def _read_short(path: str, longest: int) -> bytes:
    with Path(path).open("rb") as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise usage(
            f"{shown(path)} has more than {longest} bytes", "name the file with the signature or key alone"
        )
    return data
