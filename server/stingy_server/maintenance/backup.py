"""A backup of the state: a folder with the database, the pepper, and a manifest of both.

The database is a file of SQLite, whatever the store is. A backup is one moment of the state, and is
there whole or not at all. The manifest finds a copy that is not whole. It finds no forgery, because
whoever can write a backup can write its manifest.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stingy_server.maintenance.opening import open_reader
from stingy_server.maintenance.reader import FileReader, Reader, open_file
from stingy_server.maintenance.verify import read_heads, verify
from stingy_server.store.backends.schema import FIRST_VERSION, VERSION
from stingy_server.store.backends.sqlite_failures import store_failure
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import FILE, pepper_failure
from stingy_server.store.pepper import PEPPER, check_pepper, read_pepper
from stingy_server.times import stamp

MANIFEST = "manifest.json"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BackupFile(_Model):
    """A file of a backup: its length in bytes, and its SHA-256 in hex."""

    bytes: int
    sha256: str


class BackupHead(_Model):
    """The head of a chain of the ledger, as `stingy ledger head` prints it."""

    writer: str
    number: int
    hash: str


class Manifest(_Model):
    """The description of a backup.

    Attributes:
        created: the time of the backup, in UTC.
        release: the release of Stingy that made it.
        version: the version of the schema.
        store: the store from which it was made.
        files: the files, by name.
        entries: the entries of the ledger.
        heads: the heads of the ledger's chains.
    """

    format: Literal[1] = 1
    created: str
    release: str
    version: int
    store: Literal["sqlite", "postgresql"]
    files: dict[str, BackupFile]
    entries: int
    heads: list[BackupHead]


def back_up(state: Path, store: str | None, target: Path) -> Manifest:
    """Copy the state into a new folder while servers run.

    Args:
        target: a folder that does not exist yet, on the disk of its parent.

    Raises:
        StoreUnavailable: the state is damaged or has another pepper, or the copy cannot be written.
            There is no new folder then.
    """
    if os.path.lexists(target):
        raise StoreUnavailable(f"expected a folder that does not exist yet, got {target}")
    pepper = _present_pepper(state)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with closing(open_reader(state, store)) as reader:
            _check_pepper(pepper, reader)
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.mkdir(mode=0o700)
            _write_copy(reader, draft, pepper)
            manifest = _describe(draft, reader.kind)
        _write_private(draft / MANIFEST, manifest.model_dump_json(indent=1).encode())
        _sync(draft)
        draft.rename(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else store_failure(error)
        raise StoreUnavailable(f"cannot write a backup to {target}: {reason}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def read_backup(folder: Path) -> Manifest:
    """Read the manifest of a backup, and compare the files with it.

    Raises:
        StoreUnavailable: the backup is not whole, was changed, or a later release made it.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        raise StoreUnavailable(
            f"expected a backup with a {MANIFEST} in {folder} that this user can read, got none: "
            "it is not whole, or it is another folder"
        ) from None
    except ValidationError:
        raise StoreUnavailable(
            f"{folder / MANIFEST}: expected a manifest that this release can read, got another: "
            "the backup is not whole, or a later release made it"
        ) from None
    if manifest.version not in range(FIRST_VERSION, VERSION + 1):
        raise StoreUnavailable(
            f"expected a backup of version {FIRST_VERSION} to {VERSION}, got {manifest.version}"
        )
    for name in (FILE, PEPPER):
        found = _file(folder / name)
        if found is None or found != manifest.files.get(name):
            raise StoreUnavailable(
                f"{folder / name}: expected the file of the manifest, got "
                f"{'none' if found is None else 'another'}: the backup is not whole, or was changed"
            )
    return manifest


def open_backup(folder: Path, manifest: Manifest) -> FileReader:
    """Open the database of a backup that `read_backup` has found whole.

    Raises:
        StoreUnavailable: it is damaged, or it was not made under the backup's pepper.
    """
    reader = open_file(folder / FILE, mode="ro")
    try:
        _check_pepper(_present_pepper(folder), reader)
        heads = [BackupHead(**head.fields()) for head in read_heads(reader)]
        if reader.damage() or (reader.version, heads) != (manifest.version, manifest.heads):
            raise StoreUnavailable(f"{folder / FILE}: expected what the manifest says, got another")
    except BaseException:
        reader.close()
        raise
    return reader


def broken_chains(folder: Path) -> list[str]:
    """Return where the chains of a backup's ledger are broken, as `stingy ledger verify` does.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    with closing(open_file(folder / FILE, mode="ro")) as reader:
        return verify(reader).broken


def write_pepper(state: Path, pepper: bytes) -> None:
    """Write the pepper of a state folder, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    draft = state / f"{PEPPER}.{secrets.token_hex(4)}"
    try:
        _write_private(draft, pepper)
        draft.replace(state / PEPPER)
        _sync(state)
    finally:
        draft.unlink(missing_ok=True)


def _present_pepper(folder: Path) -> bytes:
    try:
        return read_pepper(folder, create=False)
    except OSError as error:
        raise pepper_failure(folder, error) from None


def _check_pepper(pepper: bytes, reader: Reader) -> None:
    if reader.pepper_digest is not None:  # a file of release 0.1.0 does not know its pepper
        check_pepper(pepper, reader.pepper_digest)


def _write_copy(reader: Reader, draft: Path, pepper: bytes) -> None:
    """Write the database and the pepper into the new folder.

    Raises:
        StoreUnavailable: the copy is damaged, so the state is.
    """
    _write_private(draft / FILE, b"")
    reader.copy_to(draft / FILE)
    _write_private(draft / PEPPER, pepper)
    with closing(open_file(draft / FILE, mode="ro")) as copy:
        if copy.damage():
            raise StoreUnavailable("the state is damaged, see: stingy state check")
    _sync(draft / FILE)


def _describe(draft: Path, kind: str) -> Manifest:
    with closing(open_file(draft / FILE, mode="ro")) as copy:
        ((entries,),) = copy.rows("SELECT COUNT(*) FROM ledger")
        return Manifest.model_validate(
            {
                "created": stamp(),
                "release": version("stingy"),
                "version": copy.version,
                "store": kind,
                "files": {name: _file(draft / name) for name in (FILE, PEPPER)},
                "entries": entries,
                "heads": [BackupHead(**head.fields()) for head in read_heads(copy)],
            }
        )


def _file(path: Path) -> BackupFile | None:
    """Return the length and the digest of a file, or None if it cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return BackupFile(bytes=os.fstat(file.fileno()).st_size, sha256=digest.hexdigest())
    return None


def _write_private(path: Path, content: bytes) -> None:
    """Write a new file that its owner alone can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
