"""The start of gRPC: the faults of its port, which are found before gRPC is imported."""

from importlib.util import find_spec

from stingy_server.settings import Settings


def rpc_faults(settings: Settings) -> list[str]:
    """Return the faults of the port of gRPC, if there is one."""
    port = settings.grpc_port
    if port is None:
        return []
    faults = []
    if not (find_spec("grpc") and find_spec("google.protobuf")):
        faults.append("grpc_port: expected the extra grpc, got none; pip install 'stingy[grpc]'")
    if port and port in (settings.port, settings.metrics_port):
        faults.append(f"grpc_port: expected a port of its own, got {port}, which has another use")
    return faults
