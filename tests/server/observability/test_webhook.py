"""Webhooks: signed, tried a few times, and never awaited by the caller."""

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stingy_server import ConfigurationError
from stingy_server.observability import webhook
from stingy_server.observability.webhook import QUEUED, Webhook, read_secret
from webhook_receiver import receiver, silent_receiver, wait_for

SECRET = b"a secret of 24 bytes ..."


@contextmanager
def sending(url: str, *delays_s: float) -> Iterator[tuple[Webhook, Counter[str]]]:
    counts: Counter[str] = Counter()

    def count(outcome: str) -> None:
        counts[outcome] += 1

    sender = Webhook(url, SECRET, count=count, delays_s=delays_s)
    yield sender, counts
    sender.close()


def test_O6_webhook_is_signed_with_its_timestamp() -> None:
    with receiver() as received, sending(received.url) as (sender, counts):
        sender.put({"event": "budget_80", "used": 80})
        wait_for(lambda: counts["delivered"] == 1)
    ((headers, body),) = received.posts
    assert body == b'{"event":"budget_80","used":80}'
    timestamp = headers["X-Stingy-Timestamp"]
    assert abs(time.time() - int(timestamp)) < 60
    signed = hmac.new(SECRET, timestamp.encode() + b"." + body, hashlib.sha256)
    assert headers["X-Stingy-Signature"] == signed.hexdigest()
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [302, 400, 429, 500, 503])
def test_O6_refused_webhook_is_sent_once_more(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        receiver(status, status) as received,
        sending(received.url, 0.01, 0.01) as (sender, counts),
    ):
        sender.put({"number": 1})
        sender.put({"number": 2})
        wait_for(lambda: counts["delivered"] == 2)
    assert [document["number"] for document in received.documents] == [1, 1, 1, 2]
    assert f"a webhook was answered with status {status}" in caplog.text


def test_O6_refused_webhook_is_given_up_after_its_tries() -> None:
    with receiver(*[500] * 3) as received, sending(received.url, 0.01, 0.01) as (sender, counts):
        sender.put({"number": 1})
        sender.put({"number": 2})
        wait_for(lambda: counts.total() == 2)
    assert counts == {"failed": 1, "delivered": 1}
    assert [document["number"] for document in received.documents] == [1, 1, 1, 2]


def test_O6_silent_receiver_delays_nobody_and_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook, "CLOSE_S", 0.2)
    with silent_receiver() as url, sending(url, 0.01) as (sender, counts):
        began = time.monotonic()
        for number in range(QUEUED + 50):
            sender.put({"number": number})
        assert time.monotonic() - began < 1.0
        assert counts["dropped"] in (49, 50)  # the thread has taken one from the queue, or not yet
        began = time.monotonic()
        sender.close()
        assert time.monotonic() - began < 2.0


def test_O6_silent_receiver_is_left_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.1)
    with silent_receiver() as url, sending(url, 0.01) as (sender, counts):
        sender.put({})
        wait_for(lambda: counts["failed"] == 1, seconds=5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://[::1/", "https://127.0.0.1:1/"])
def test_receiver_that_cannot_be_reached_fails_a_webhook(url: str) -> None:
    with sending(url) as (sender, counts):
        sender.put({})
        wait_for(lambda: counts["failed"] == 1)


def test_stop_sends_what_is_queued_without_further_delay() -> None:
    with receiver(500) as received, sending(received.url, 60.0) as (sender, counts):
        sender.put({"number": 1})
        sender.put({"number": 2})
        wait_for(lambda: bool(received.posts))
        sender.close()
        assert counts == {"failed": 1, "delivered": 1}


def test_secret_is_read_without_white_space_at_its_ends(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    assert read_secret(file) == SECRET


@pytest.mark.parametrize("content", [None, b"", b"short\n", b"x" * 5000])
def test_secret_that_cannot_sign_is_a_fault(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="webhook_secret_file"):
        read_secret(file)
