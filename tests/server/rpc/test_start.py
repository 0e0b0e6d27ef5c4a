"""The start of gRPC: the faults of its port."""

from pathlib import Path

from serving import make_settings
from stingy_server.rpc.start import rpc_faults


def test_grpc_port_that_has_another_use_is_a_fault(tmp_path: Path) -> None:
    (found,) = rpc_faults(make_settings(tmp_path, grpc_port=8080, port=8080))
    assert "a port of its own" in found
    assert rpc_faults(make_settings(tmp_path, grpc_port=8081)) == []
