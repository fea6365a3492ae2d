"""A store that is encrypted as a whole: nothing of it can be read without the key, and no key is guessed at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("sqlcipher3", reason="the extra 'sqlcipher' is not installed")

from sample_episodes import sample_fields

from kinedge.cli import main
from kinedge.edge.config import KeysConfig
from kinedge.edge.feedback import answer_episode, answers_in
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import WHOLE_FILE, Vault
from kinedge.errors import ConfigError, StoreError

KEY, OTHER = bytes(range(32)), bytes(32)
RAW = b"samples" * 10


def vault(store: Path, key: bytes = KEY, *, whole_file: bool = True) -> Vault:
    return Vault(Path(f"{store}.keys"), key, whole_file=whole_file)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store that holds three episodes of p-secret."""
    path = tmp_path / "edge.db"
    with EpisodeStore(path, vault=vault(path)) as store:
        for i in range(3):
            store.commit(sample_fields(i, subject="p-secret", raw=RAW), RAW)
    return path


def test_no_byte_of_the_file_tells_whose_it_is_and_all_comes_back_with_the_key(path: Path) -> None:
    for file in path.parent.glob("edge.db*"):
        if file.is_file() and not file.name.endswith(".lock"):
            content = file.read_bytes()
            assert b"SQLite format" not in content and b"p-secret" not in content and b"episodes" not in content, file
    with EpisodeStore(path, read_only=True, vault=vault(path, whole_file=False)) as store:
        kept = store.episodes()
        assert [s.envelope.subject for s in kept] == ["p-secret"] * 3
        assert store.raw(kept[0].envelope.id) == RAW
        store.verify_audit()
    with EpisodeStore(path, vault=vault(path)) as store:
        assert store.commit(sample_fields(9, subject="p-secret")).sequence == 4


def test_without_the_key_or_with_another_nothing_is_opened_and_nothing_moved_aside(path: Path) -> None:
    before = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises(StoreError, match="encrypted as a whole; give the key"):
        EpisodeStore(path)
    with pytest.raises(StoreError, match="another master key"):
        EpisodeStore(path, vault=vault(path, OTHER))
    with pytest.raises(StoreError, match="give the key"):
        EpisodeStore(path, read_only=True)
    assert sorted(p.name for p in path.parent.iterdir()) == before
    with EpisodeStore(path, vault=vault(path)) as store:
        assert len(store.episodes()) == 3


def test_a_store_that_was_begun_plainly_is_not_taken_for_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    with EpisodeStore(path, vault=vault(path, whole_file=False)) as store:
        store.commit(sample_fields(1))
    with pytest.raises(StoreError, match=r"was begun without keys\.whole_file"):
        EpisodeStore(path, vault=vault(path))
    assert not (tmp_path / "edge.db.keys" / WHOLE_FILE).exists()


def test_a_damaged_file_is_kept_aside_and_its_successor_is_encrypted_too(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 512] = os.urandom(512)
    path.write_bytes(content)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    with EpisodeStore(path, vault=vault(path)) as store:
        store.commit(sample_fields(5, subject="p-secret"))
    assert len(list(path.parent.glob("edge.db.corrupt-*Z"))) == 1
    assert b"SQLite format" not in path.read_bytes()


def test_answers_and_the_audit_take_the_key(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "master.key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    with EpisodeStore(path, read_only=True, vault=vault(path)) as store:
        (first, *_) = store.episodes()
    with pytest.raises(StoreError, match="give the key"):
        answer_episode(path, first.envelope.id, "confirmed")
    answer_episode(path, first.envelope.id, "confirmed", vault=vault(path))
    with EpisodeStore(path, read_only=True, vault=vault(path)) as store:
        (answer,) = answers_in(store)
        assert answer.answer == "confirmed"
    assert main(["audit", "verify", str(path), "--key", str(key)]) == 0
    assert "unbroken" in capsys.readouterr().out
    assert main(["audit", "verify", str(path)]) != 0
    opened = KeysConfig(file=key, whole_file=True).vault(path)
    assert opened.whole_file and opened.file_key(make=False) == vault(path).file_key(make=False)


def test_a_missing_library_is_said_with_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sqlcipher3", None)
    with pytest.raises(ConfigError, match=r"pip install 'kinedge\[sqlcipher\]'"):
        EpisodeStore(path, vault=vault(path))
