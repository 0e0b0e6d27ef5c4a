"""Why an address cannot be listened on, and what to do."""

import socket

from stingy_server.process.listening import cannot_listen


def said(host: str, port: int) -> str:
    with socket.socket() as listener:
        try:
            listener.bind((host, port))
        except OSError as error:
            return cannot_listen(host, port, error)
    raise AssertionError("expected an address that cannot be bound")


def test_taken_port_has_advice() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert said("127.0.0.1", port) == (
            f"127.0.0.1:{port}: cannot listen here: Address already in use; "
            "end the program that listens here, or name another port"
        )


def test_address_of_another_machine_has_advice() -> None:
    assert said("192.0.2.1", 0).endswith("; name an address of this machine")


def test_privileged_port_has_advice() -> None:
    error = PermissionError(13, "Permission denied")  # tests may run as root, who gets the port
    assert "name a port from 1024 on" in cannot_listen("127.0.0.1", 80, error)


def test_other_reasons_stand_alone() -> None:
    assert (
        cannot_listen("::1", 80, OSError(97, "No family"))
        == "::1:80: cannot listen here: No family"
    )
