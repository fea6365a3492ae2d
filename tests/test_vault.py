"""Episodes sealed at rest: nothing readable on the disk, and a person is deleted by forgetting their key."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_episodes import sample_fields, sample_raw

from kinedge.cli.app import main
from kinedge.edge.checkpoint import checkpoint_path
from kinedge.edge.config import GatewayConfig, KeysConfig
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import Vault, is_sealed, read_master_key
from kinedge.errors import ConfigError, StoreError

MASTER = bytes(range(32))
MARK = "a sentence that nobody else says"


def open_store(folder: Path, *, sealed: bool = True, read_only: bool = False, master: bytes = MASTER) -> EpisodeStore:
    vault = Vault(folder / "edge.db.keys", master) if sealed else None
    return EpisodeStore(folder / "edge.db", vault=vault, read_only=read_only)


def fill(store: EpisodeStore, *, subjects: tuple[str, ...] = ("p01", "p02"), n: int = 6) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {s: [] for s in subjects}
    for i in range(n):
        subject = subjects[i % len(subjects)]
        raw = sample_raw(i, n_bytes=5000)
        ids[subject].append(
            store.commit(sample_fields(i, raw=raw, subject=subject, sentence=f"{MARK} {subject}"), raw).id
        )
    for s in subjects:
        store.save_draft(f"{s}:1", {"subject": s, "sentence": f"{MARK} {s}"}, b"draft-raw-" + s.encode() * 40)
    return ids


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def found(folder: Path, subject: str, numbers: range) -> list[str]:
    """What of a person can be read off the disk."""
    data = bytes_on_disk(folder)
    marks = {f"{MARK} {subject}": f"{MARK} {subject}".encode(), "draft": b"draft-raw-" + subject.encode() * 3}
    marks |= {f"raw {i}": sample_raw(i, n_bytes=5000)[:200] for i in numbers}
    return [name for name, mark in marks.items() if mark in data]


def test_nothing_of_a_sealed_store_can_be_read_off_the_disk_and_all_of_it_through_the_key(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store)
        assert found(tmp_path, "p01", range(6)) == []
        (row,) = [r for r in store.outbox.claim(0) if r.episode_id == ids["p01"][0]]
        assert MARK.encode() in (store.outbox.body(row) or b"")
    with open_store(tmp_path) as store:
        stored = store.episode(ids["p02"][0])
        assert stored is not None and stored.envelope.sentence == f"{MARK} p02"
        assert store.raw(ids["p02"][0]) == sample_raw(1, n_bytes=5000)
        assert {d.content["sentence"] for d in store.open_drafts()} == {f"{MARK} p01", f"{MARK} p02"}
        assert len(store.episodes()) == 6


def test_without_the_key_or_with_another_the_store_says_so(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store)
    with open_store(tmp_path, sealed=False) as store, pytest.raises(StoreError, match=r"sealed; give the key"):
        store.episodes()
    with (
        open_store(tmp_path, master=b"\1" * 32) as store,
        pytest.raises(StoreError, match="wrapped by another master key"),
    ):
        store.raw(ids["p01"][0])


@pytest.mark.parametrize("sealed", [True, False])
def test_a_forgotten_person_leaves_nothing_on_the_disk_and_the_others_stay(tmp_path: Path, sealed: bool) -> None:
    with open_store(tmp_path, sealed=sealed) as store:
        ids = fill(store)
        done = store.forget("p01")
        assert (done.key, done.episodes, done.raw_blobs, done.drafts, done.unsent) == (sealed, 3, 3, 1, 3)
        assert found(tmp_path, "p01", range(0, 6, 2)) == [], "while the store is open"
    assert found(tmp_path, "p01", range(0, 6, 2)) == []
    with open_store(tmp_path, sealed=sealed) as store:
        assert [s.envelope.subject for s in store.episodes()] == ["p02"] * 3
        assert store.raw(ids["p02"][0]) is not None
        assert [d.key for d in store.open_drafts()] == ["p02:1"]
        assert store.commit(sample_fields(9, subject="p01")).sequence == 4, "numbers go on, so that the gap shows"
        (told,) = store.audit_rows(event="subject_forgotten")
        assert told.detail["subject"] == "p01" and told.detail["episodes"] == 3
        store.verify_audit()


def test_a_copy_made_before_cannot_be_read_after_the_key_is_forgotten(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store)
    copy = (tmp_path / "edge.db").read_bytes()
    with open_store(tmp_path) as store:
        store.forget("p01")
    (tmp_path / "edge.db").write_bytes(copy)  # a backup comes back
    with open_store(tmp_path) as store:
        with pytest.raises(StoreError, match="this key was forgotten"):
            store.episode(ids["p01"][0])
        assert store.episode(ids["p02"][0]) is not None


def test_what_was_kept_in_the_clear_is_sealed_when_a_key_is_given(tmp_path: Path) -> None:
    with open_store(tmp_path, sealed=False) as store:
        ids = fill(store, n=250)
    assert found(tmp_path, "p01", range(0, 250, 2))
    with open_store(tmp_path) as store:
        for s in ("p01", "p02"):
            store.discard_draft(f"{s}:1", reason="test")
        (told,) = store.audit_rows(event="sealed")
        assert told.detail == {"rows": 500}
        assert store.raw(ids["p01"][7]) == sample_raw(14, n_bytes=5000)
    with open_store(tmp_path) as store:
        assert len(store.audit_rows(event="sealed")) == 1, "once"
    left = found(tmp_path, "p01", range(0, 250, 2))
    assert left in ([], ["draft", f"{MARK} p01"], [f"{MARK} p01", "draft"]), "drafts go as they are rewritten"


def test_rows_that_were_exchanged_or_changed_are_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store)
    a, b = ids["p01"][:2]
    with sqlite3.connect(tmp_path / "edge.db") as connection:
        connection.execute("UPDATE episodes SET body = (SELECT body FROM episodes WHERE id = ?) WHERE id = ?", (a, b))
        connection.execute("UPDATE raw_blobs SET data = CAST(data || x'00' AS BLOB) WHERE episode_id = ?", (a,))
    with open_store(tmp_path) as store:
        assert store.episode(a) is not None
        with pytest.raises(StoreError, match="belongs elsewhere"):
            store.episode(b)
        with pytest.raises(StoreError, match="was changed"):
            store.raw(a)


@settings(deadline=None, max_examples=50)
@given(
    data=st.binary(max_size=500),
    about=st.text(max_size=20).filter(lambda t: "\ud800" not in t),
    flip=st.integers(0, 2000),
)
def test_what_is_sealed_opens_to_the_same_bytes_and_one_bit_changed_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, about: str, flip: int
) -> None:
    vault = Vault(tmp_path_factory.getbasetemp() / "keys", MASTER)
    about = about.encode("utf-8", "ignore").decode()
    sealed = vault.seal("p", data, about=about)
    assert is_sealed(sealed) and vault.unseal(sealed, about=about) == data
    assert vault.seal("p", data, about=about) != sealed
    at = 32 + flip % (8 * (len(sealed) - 4))  # behind the mark
    broken = bytearray(sealed)
    broken[at // 8] ^= 1 << at % 8
    with pytest.raises(StoreError):
        vault.unseal(bytes(broken), about=about)
    with pytest.raises(StoreError):
        vault.unseal(sealed, about=about + "x")


def test_bytes_that_only_begin_like_sealed_ones_are_one_clear_error(tmp_path: Path) -> None:
    vault = Vault(tmp_path, MASTER)
    mark = vault.seal("p", b"", about="x")[:4]
    for n in range(40):
        with pytest.raises(StoreError):
            vault.unseal(mark + b"\0" * n, about="x")


def test_a_master_key_must_be_private_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "master.key"
    with pytest.raises(ConfigError, match="openssl rand 32"):
        read_master_key(path)
    path.write_bytes(MASTER)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_master_key(path)
    path.chmod(0o600)
    assert read_master_key(path) == MASTER
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="this has 5"):
        read_master_key(path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match="LoadCredential"):
        KeysConfig(credential="master.key").vault(tmp_path / "edge.db")
    path.write_bytes(MASTER)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    sealed = KeysConfig(credential="master.key").vault(tmp_path / "edge.db").seal("p", b"x", about="y")
    assert Vault(tmp_path / "edge.db.keys", MASTER).unseal(sealed, about="y") == b"x"
    with pytest.raises(ValueError, match="either file or credential"):
        KeysConfig()


def test_the_keys_lie_in_files_that_name_nobody_and_only_the_owner_reads(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
    keys = list((tmp_path / "edge.db.keys").iterdir())
    assert len(keys) == 2
    assert all(p.stat().st_mode & 0o077 == 0 for p in [*keys, tmp_path / "edge.db.keys"])
    assert all("p01" not in p.name and len(p.read_bytes()) == 60 for p in keys)


def test_the_commands_forget_a_person_and_prove_the_trail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "master.key").write_bytes(MASTER)
    os.chmod(tmp_path / "master.key", 0o600)
    (tmp_path / "gateway.toml").write_text(
        'site = "s"\ngateway = "g"\nstore = "edge.db"\n[[people]]\nsubject = "p01"\ndevices = [{ port = "/dev/x" }]\n'
        '[keys]\nfile = "master.key"\n[record]\nfolder = "recordings"\n'
    )
    with open_store(tmp_path) as store:
        fill(store)
        head = store.verify_audit().digest
    (tmp_path / "recordings" / "20270101T000000Z" / "p01").mkdir(parents=True)
    (tmp_path / "recordings" / "20270101T000000Z" / "p02").mkdir()
    recorded = b"every step that p01 took"
    (tmp_path / "recordings" / "20270101T000000Z" / "p01" / "segment-000000.parquet").write_bytes(recorded)
    assert recorded in bytes_on_disk(tmp_path), "recordings are not sealed; they are deleted"
    checkpoint = checkpoint_path(tmp_path / "edge.db")
    checkpoint.write_bytes(b"what scoring remembers of p01")
    command = ["forget", "p01", "--config", str(tmp_path / "gateway.toml"), "--yes", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert not checkpoint.exists() and recorded not in bytes_on_disk(tmp_path)
    assert (told["key"], told["episodes"], len(told["recordings"])) == (True, 3, 1)
    assert [p.name for p in (tmp_path / "recordings" / "20270101T000000Z").iterdir()] == ["p02"]
    database = str(tmp_path / "edge.db")
    assert main(["episodes", "--store", database, "--json"]) == 1
    assert "give the key" in capsys.readouterr().err.replace("\n", " ")
    assert main(["episodes", "--store", database, "--key", str(tmp_path / "master.key"), "--json"]) == 0
    assert {e["subject"] for e in json.loads(capsys.readouterr().out)} == {"p02"}
    assert main(["audit", "verify", database, "--head", head, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert main(["audit", "show", database, "--event", "subject_forgotten", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detail"]["subject"] == "p01"
    assert main(["audit", "show", database]) == 0
    assert "subject_forgotten" in capsys.readouterr().out
    assert main(["audit", "verify", database, "--head", "0" * 63 + "1"]) == 1
    assert "rows were cut off" in capsys.readouterr().err.replace("\n", " ")
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE audit SET detail = '{}' WHERE event = 'subject_forgotten'")
    assert main(["audit", "verify", database]) == 1
    assert "breaks at row" in capsys.readouterr().err


def test_the_settings_of_keys_stand_in_the_configuration_and_change_no_digest(tmp_path: Path) -> None:
    base = {"site": "s", "gateway": "g", "people": [{"subject": "p", "devices": [{"port": "/dev/x"}]}]}
    plain = GatewayConfig.model_validate(base)
    assert GatewayConfig.model_validate({**base, "keys": {"file": "k"}}).digest() == plain.digest()
