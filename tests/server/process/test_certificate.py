"""The server's certificate: read as a pair, renewed as a pair, and never half of one."""

import asyncio
import logging
import os
import ssl
from pathlib import Path

import pytest

from certificates import Authority
from stingy_server.errors import ConfigurationError
from stingy_server.process.certificate import Certificate, make_context
from web_checks import assert_renewed_as_a_pair, serial_of


def test_T3_new_certificate_without_its_key_leaves_the_old_pair(tmp_path: Path) -> None:
    assert_renewed_as_a_pair(Certificate, tmp_path)


@pytest.mark.parametrize("name", ["localhost", None])
def test_T3_renewed_pair_is_used_whatever_host_is_named(tmp_path: Path, name: str | None) -> None:
    authority = Authority()
    files = authority.issue().write(tmp_path)
    certificate = Certificate(*files)
    new = authority.issue()
    new.write(tmp_path)
    certificate.renew()
    assert serial_of(certificate.context, authority, name=name) == new.serial


@pytest.mark.parametrize(
    "broken", [b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\n", None, b"\x00" * 2**21]
)
@pytest.mark.parametrize("place", [0, 1])
def test_T3_broken_file_is_logged_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: bytes | None, place: int
) -> None:
    authority = Authority()
    old = authority.issue()
    files = old.write(tmp_path)
    certificate = Certificate(*files)
    if broken is None:
        files[place].unlink()
    else:
        files[place].write_bytes(broken)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            certificate.renew()
    assert len(caplog.records) == 1
    assert "the old certificate stays in use" in caplog.text
    assert serial_of(certificate.context, authority, name="localhost") == old.serial
    new = authority.issue()
    new.write(tmp_path)
    certificate.renew()
    assert serial_of(certificate.context, authority, name="localhost") == new.serial


def test_T3_files_are_watched_until_the_task_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stingy_server.process.certificate.POLL_S", 0.01)
    authority = Authority()
    certificate = Certificate(*authority.issue().write(tmp_path))
    new = authority.issue()

    async def renew_while_watched() -> None:
        watching = asyncio.create_task(certificate.watch())
        new.write(tmp_path)
        async with asyncio.timeout(20):
            while serial_of(certificate.context, authority, name="localhost") != new.serial:
                await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(renew_while_watched())


def test_key_with_a_passphrase_is_a_fault_and_waits_for_no_one() -> None:
    pair = Authority().issue(passphrase=b"secret")
    with pytest.raises(ConfigurationError) as error:
        make_context(pair.chain, pair.key)
    assert "without a passphrase" in str(error.value)


def test_P6_file_that_is_no_regular_file_is_a_fault(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    _, key = Authority().issue().write(tmp_path)
    with pytest.raises(ConfigurationError) as error:
        Certificate(pipe, key)
    assert error.value.faults[0].startswith("tls_cert: expected a readable file")


def test_T1_context_takes_no_version_before_1_2() -> None:
    pair = Authority().issue()
    context = make_context(pair.chain, pair.key)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode is ssl.CERT_NONE
