"""Signatures: who vouches for a file, and what is refused."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinedge.cli.keys
from kinedge.bundle import Bundle, read_bundle, write_bundle
from kinedge.cli.app import main
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig, load_gateway_config
from kinedge.edge.trusted import load_trusted
from kinedge.errors import BundleError, ConfigError
from kinedge.signing import (
    Signature,
    SigningKey,
    Trust,
    generate_key,
    load_signing_key,
    load_trust,
    load_verify_key,
    public_path,
    sign_archive,
)

_ = kinedge.cli.keys


def new_key(folder: Path, name: str = "k.pem") -> SigningKey:
    generate_key(folder / name)
    return load_signing_key(folder / name)


def trusting(*keys: SigningKey, allow_unsigned: bool = False) -> Trust:
    return Trust({k.verify_key.key_id: k.verify_key for k in keys}, allow_unsigned)


@pytest.fixture(scope="module")
def plain() -> bytes:
    return DEFAULT_BUNDLE.read_bytes()


def signed(plain: bytes, *keys: SigningKey) -> bytes:
    for key in keys:
        plain = sign_archive(plain, key, kind="bundle", digest=read_bundle(plain).digest)
    return plain


def test_a_signed_bundle_keeps_its_digest_and_parts_and_names_its_signers(plain: bytes, tmp_path: Path) -> None:
    a, b = new_key(tmp_path, "a.pem"), new_key(tmp_path, "b.pem")
    before, after = read_bundle(plain), read_bundle(signed(plain, a, b, a))
    assert (after.digest, after.parts, after.manifest) == (before.digest, before.parts, before.manifest)
    assert before.signatures == ()
    assert {s.key for s in after.signatures} == {a.verify_key.key_id, b.verify_key.key_id}
    with zipfile.ZipFile(io.BytesIO(signed(plain, a))) as archive:  # any reader of zips still reads it
        assert archive.testzip() is None
    assert signed(signed(plain, a), a) == signed(plain, a)


def check(trust: Trust, bundle: Bundle) -> str | None:
    return trust.check(bundle.signatures, kind="bundle", digest=bundle.digest, where="here")


def test_a_trusted_signature_is_needed_unless_unsigned_files_are_allowed(plain: bytes, tmp_path: Path) -> None:
    a, b = new_key(tmp_path, "a.pem"), new_key(tmp_path, "b.pem")
    bundle = read_bundle(signed(plain, a))
    assert check(trusting(a, b), bundle) == a.verify_key.key_id
    with pytest.raises(BundleError, match=f"signed by {a.verify_key.key_id}, which is not trusted"):
        check(trusting(b), bundle)
    with pytest.raises(BundleError, match="not signed; sign it"):
        check(trusting(a), read_bundle(plain))
    assert check(trusting(b, allow_unsigned=True), bundle) is None
    assert check(trusting(allow_unsigned=True), read_bundle(plain)) is None


def test_a_signature_of_another_file_or_kind_never_passes_even_where_unsigned_ones_do(
    plain: bytes, tmp_path: Path
) -> None:
    key = new_key(tmp_path)
    digest = read_bundle(plain).digest
    trust = trusting(key, allow_unsigned=True)
    for wrong in (key.sign("bundle", "0" * 64), key.sign("enrolment", digest)):
        with pytest.raises(BundleError, match="does not hold"):
            trust.check([wrong], kind="bundle", digest=digest, where="here")
    forged = Signature(key=key.verify_key.key_id, value="00" * 64)
    with pytest.raises(BundleError, match="does not hold"):
        trust.check([key.sign("bundle", digest), forged], kind="bundle", digest=digest, where="here")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_damage_to_a_signed_file_passes_as_signed_content(
    plain: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    key = new_key(tmp_path_factory.mktemp("k"))
    whole = bytearray(signed(plain, key))
    whole[-data.draw(st.integers(1, 400))] ^= data.draw(st.integers(1, 255))  # in the signature, or near it
    try:
        bundle = read_bundle(bytes(whole))
        signer = check(trusting(key), bundle)
    except BundleError:
        return
    assert signer == key.verify_key.key_id
    assert bundle.parts == read_bundle(plain).parts


def test_a_comment_that_is_no_list_of_signatures_is_refused(plain: bytes) -> None:
    out = io.BytesIO(plain)
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b'{"schema_version": "kinedge.signatures/2", "signatures": []}'
    with pytest.raises(BundleError, match="no list of signatures"):
        read_bundle(out.getvalue())


def test_a_secret_key_is_for_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    made = generate_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_signing_key(path).verify_key.key_id == load_verify_key(public_path(path)).key_id == made.key_id
    assert "PRIVATE" not in repr(load_signing_key(path))
    with pytest.raises(ConfigError, match="never overwritten"):
        generate_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_signing_key(path)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"secret key.*k\.pem\.pub"):
        load_trust([path])


def test_what_is_no_key_is_one_clear_error(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    other = generate_private_key(SECP256R1())
    path = tmp_path / "other.pem"
    path.write_bytes(other.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="another kind"):
        load_signing_key(path)
    path.write_bytes(other.public_key().public_bytes(to.Encoding.PEM, to.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="another kind"):
        load_verify_key(path)
    for content in (b"", b"nonsense", b"x" * 20_000):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"no (secret )?key"):
            load_signing_key(path)
        with pytest.raises(ConfigError, match=r"no (public )?key"):
            load_verify_key(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_verify_key(tmp_path / "absent.pub")


def test_keygen_sign_and_verify_go_together_on_the_command_line(
    plain: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, file = tmp_path / "clinic.pem", tmp_path / "m.kinedge"
    write_bundle(file, plain)
    assert main(["keygen", str(key), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    trusted = ["--trusted", made["public"]]
    assert main(["verify", str(file), *trusted]) == 1
    assert "not signed" in capsys.readouterr().err
    assert main(["sign", str(file), "--key", str(key)]) == 0
    capsys.readouterr()
    assert main(["verify", str(file), *trusted, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == made["key"]
    (tmp_path / "text").write_text("no zip")
    assert main(["sign", str(tmp_path / "text"), "--key", str(key)]) == 1
    assert "neither a bundle nor an enrolment" in capsys.readouterr().err


def test_a_gateway_needs_a_signature_for_every_model_but_the_shipped_one(plain: bytes, tmp_path: Path) -> None:
    key = new_key(tmp_path)
    write_bundle(tmp_path / "m.kinedge", plain)
    person = '[[people]]\nsubject = "p"\ndevices = [{ port = "/dev/null" }]\n'
    head = 'site = "s"\ngateway = "g"\n'
    (tmp_path / "shipped.toml").write_text(head + person)
    (tmp_path / "own.toml").write_text(head + 'bundle = "m.kinedge"\n' + person)
    (tmp_path / "keys.toml").write_text(head + 'bundle = "m.kinedge"\n' + person + '[trust]\nkeys = ["k.pem.pub"]\n')
    (tmp_path / "lax.toml").write_text(head + 'bundle = "m.kinedge"\n' + person + "[trust]\nallow_unsigned = true\n")

    def unsigned(name: str) -> tuple[str, ...]:
        config: GatewayConfig = load_gateway_config(tmp_path / name)
        return load_trusted(config)[1].bases[0].unsigned

    assert unsigned("shipped.toml") == ()
    with pytest.raises(BundleError, match="not signed"):
        unsigned("own.toml")
    with pytest.raises(BundleError, match="not signed"):
        unsigned("keys.toml")
    assert unsigned("lax.toml") == ("model",)
    write_bundle(tmp_path / "m.kinedge", signed(plain, key))
    assert unsigned("keys.toml") == ()
