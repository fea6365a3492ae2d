"""``kinedge keygen``, ``kinedge sign`` and ``kinedge verify``: who vouches for a model or an enrolment."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kinedge.bundle import read_bundle, write_bundle
from kinedge.cli.app import app
from kinedge.edge.enrolment import MANIFEST_NAME, read_enrolment
from kinedge.errors import BundleError
from kinedge.signing import Kind, Signature, generate_key, load_signing_key, load_trust, public_path, sign_archive

__all__ = ["keygen", "sign", "verify"]


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="Where the secret key goes; the public one beside it, with .pub.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make an ed25519 key to sign models and enrolments with. Keep the secret half off the boards.

    Example: kinedge keygen clinic.pem
    """
    key = generate_key(path)
    if as_json:
        typer.echo(json.dumps({"key": key.key_id, "secret": str(path), "public": str(public_path(path))}))
        return
    _say(f"key {key.key_id}: {path} is secret; put {public_path(path)} under [trust] keys of each gateway")


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="A .kinedge bundle or an enrolment.")],
    key: Annotated[Path, typer.Option("--key", help="The secret key.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a file and sign it in place; its digest and its parts stay the same.

    Example: kinedge sign wrists.kinedge --key clinic.pem
    """
    signing_key = load_signing_key(key)
    data = _read(file)
    kind, digest, _ = _what(data, file)
    write_bundle(file, sign_archive(data, signing_key, kind=kind, digest=digest))
    key_id = signing_key.verify_key.key_id
    if as_json:
        typer.echo(json.dumps({"file": str(file), "kind": kind, "digest": digest, "key": key_id}))
        return
    _say(f"{file}: {kind} {digest[:16]} is signed by key {key_id}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A .kinedge bundle or an enrolment.")],
    trusted: Annotated[list[Path], typer.Option("--trusted", help="A public key that is trusted; may be repeated.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check every digest of a file, and that a trusted key signed it. Fails when none did.

    Example: kinedge verify wrists.kinedge --trusted clinic.pem.pub
    """
    kind, digest, signatures = _what(_read(file), file)
    signer = load_trust(trusted).check(signatures, kind=kind, digest=digest, where=str(file))
    if as_json:
        typer.echo(json.dumps({"file": str(file), "kind": kind, "digest": digest, "signed_by": signer}))
        return
    _say(f"{file}: {kind} {digest[:16]} is whole, and signed by key {signer}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise BundleError(f"{file}: cannot be read ({e.strerror})") from e


def _what(data: bytes, file: Path) -> tuple[Kind, str, tuple[Signature, ...]]:
    """Return what a file is, its digest and its signatures, everything in it checked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            is_enrolment = MANIFEST_NAME in archive.namelist()
    except zipfile.BadZipFile as e:
        raise BundleError(f"{file}: neither a bundle nor an enrolment ({e})") from e
    if is_enrolment:
        enrolment = read_enrolment(data)
        return "enrolment", enrolment.digest, enrolment.signatures
    bundle = read_bundle(data)
    return "bundle", bundle.digest, bundle.signatures
