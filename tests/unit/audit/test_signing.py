"""The key of the record: made once, for its owner alone, and what it signs holds by its public half only."""

from __future__ import annotations

import itertools
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from headgate.audit.checkpoints import WITNESS, Witness
from headgate.audit.signing import KEY_FILE, PublicKeys, Signer, public_key, public_key_in
from headgate.errors import ConfigError, OutboxError
from tests.unit.audit.trails import chain_of, keys_of


def test_the_key_is_made_when_it_is_first_needed_and_stays(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    assert not (tmp_path / KEY_FILE).exists() and public_key_in(tmp_path) is None
    signature = signer.sign(b"data")
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    keys = PublicKeys([public_key(Signer(tmp_path).public_pem())])
    assert keys.holds(signer.key_id, signature, b"data")
    assert not keys.holds(signer.key_id, signature, b"Data")
    assert not keys.holds("another", signature, b"data")
    assert [file.name for file in tmp_path.iterdir()] == [KEY_FILE], "no draft is left"


def test_of_many_that_need_it_at_once_all_get_the_same(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(Signer(tmp_path).key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


def test_a_key_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    Signer(tmp_path).sign(b"")
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError) as refused:
        Signer(tmp_path).sign(b"")
    assert str(tmp_path) not in refused.value.message
    (tmp_path / KEY_FILE).write_text("no key")
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(ConfigError):
        Signer(tmp_path).sign(b"")


@pytest.mark.parametrize("pem", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_public_key_is_refused(pem: str) -> None:
    with pytest.raises(ConfigError):
        public_key(pem)


def test_the_witness_keeps_the_newest_of_each_writer(tmp_path: Path) -> None:
    witness = Witness(tmp_path)
    assert witness.all() == []
    (first, second, last), (other, *_) = chain_of(tmp_path)[1], chain_of(tmp_path, "w-2")[1]
    for checkpoint in (second, first, other):
        witness.keep(checkpoint)
    assert witness.all() == [second, other]
    witness.keep(last)
    witness.forget(last.time_ms)
    assert witness.all() == [last, other]
    witness.forget(last.time_ms + 1)
    assert witness.all() == []
    assert stat.S_IMODE((tmp_path / "checkpoints.db").stat().st_mode) == 0o600


def test_a_witness_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "checkpoints.db").write_bytes(b"something else " * 100)
    with pytest.raises(OutboxError):
        Witness(tmp_path).all()


def test_no_byte_of_a_checkpoint_kept_apart_can_be_another(tmp_path: Path) -> None:
    """Nor the bits of base64 that mean nothing."""
    checkpoint = chain_of(tmp_path)[1][-1]
    witness, keys = Witness(tmp_path), keys_of(tmp_path)
    witness.keep(checkpoint)
    body = msgspec.json.encode(checkpoint)
    for place, bit in itertools.product(range(len(body)), (16, 128)):
        touched = body[:place] + bytes([body[place] ^ bit]) + body[place + 1 :]
        with closing(sqlite3.connect(tmp_path / WITNESS)) as database, database:
            database.execute("update checkpoint set body = ?", [touched])
        try:
            found = witness.all()
        except OutboxError:
            continue  # it says that others have changed the file
        assert not any(each.holds(keys) for each in found), (place, bit)
