"""The Open Inference Protocol v2 over gRPC, on a port of its own, in front of the same service."""

import os

# gRPC's own log would have the text of clients, and a line for each handshake that fails. gRPC
# reads this when it is imported, which no module does before this one.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
