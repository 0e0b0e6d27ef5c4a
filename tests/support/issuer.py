"""An identity provider on a real port, which signs tokens and can lie, hang and fail."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from stingy_server.web_settings import OidcSettings

AUDIENCE = "stingy"
JWKS, DISCOVERY = "/keys", "/.well-known/openid-configuration"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def make_private(algorithm: str) -> Private:
    """Make a private key for an algorithm of signatures."""
    if algorithm.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        return ec.generate_private_key(curves[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def public_jwk(private: Private, algorithm: str, **members: Any) -> dict[str, Any]:
    """Return the entry of a key set for a private key."""
    kind = jwt.get_algorithm_by_name(algorithm)
    entry: dict[str, Any] = json.loads(kind.to_jwk(private.public_key()))
    return {name: value for name, value in entry.items() if name != "key_ops"} | members


def public_pem(private: Private) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def encode_part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def forge(head: dict[str, Any], claims: dict[str, Any], *, secret: bytes | None) -> str:
    """Write a token by hand: signed with HMAC by any secret, or not at all."""
    text = ".".join(encode_part(json.dumps(part).encode()) for part in (head, claims))
    signature = b"" if secret is None else hmac.digest(secret, text.encode(), hashlib.sha256)
    return f"{text}.{encode_part(signature)}"


class Issuer:
    """An identity provider.

    Attributes:
        url: its address, which is also its name.
        requests: the paths that were requested.
        answers: for a path, the status and the body to answer in place of the true ones.
        hanging: whether it accepts requests and never answers.
    """

    def __init__(self, url: str, *, algorithm: str = "ES256") -> None:
        self.url = url
        self.algorithm = algorithm
        self.requests: list[str] = []
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.hanging = False
        self.privates: dict[str, Private] = {}
        self.add_key("first")

    def add_key(self, key_id: str) -> None:
        self.privates[key_id] = make_private(self.algorithm)

    def key_set(self) -> dict[str, Any]:
        keys = [
            public_jwk(private, self.algorithm, kid=key_id)
            for key_id, private in self.privates.items()
        ]
        return {"keys": keys}

    def claims(self, subject: str = "alice", **changes: Any) -> dict[str, Any]:
        """Return good claims with some changes. A claim changed to None is left out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600}
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(
        self,
        subject: str = "alice",
        *,
        key_id: str | None = "first",
        private: Private | None = None,
        algorithm: str | None = None,
        head: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """Sign a token with good claims, or with some changed."""
        named = {} if key_id is None else {"kid": key_id}
        # Without PyJWT's checks of claims, which an issuer may get wrong.
        return jwt.api_jws.encode(
            json.dumps(self.claims(subject, **changes)).encode(),
            private or self.privates[key_id or "first"],
            algorithm=algorithm or self.algorithm,
            headers=named | (head or {}),
        )

    def settings(self, **changes: Any) -> OidcSettings:
        options: dict[str, Any] = {
            "issuer": self.url,
            "audience": AUDIENCE,
            "jwks_url": self.url + JWKS,
            "total_budget": 1_000_000,
        }
        return OidcSettings(**options | changes)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path in self.answers:
            return self.answers[path]
        if path == JWKS:
            return 200, json.dumps(self.key_set()).encode(), {}
        if path == DISCOVERY:
            document = {"issuer": self.url, "jwks_uri": self.url + JWKS}
            return 200, json.dumps(document).encode(), {}
        return 404, b"", {}


@contextmanager
def running_issuer(*, algorithm: str = "ES256") -> Iterator[Issuer]:
    """Run an identity provider on a free port of this machine."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests.append(self.path)
            while issuer.hanging and not over.is_set():
                time.sleep(0.02)
            status, body, headers = issuer.answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the server has read enough
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        issuer = Issuer(f"http://127.0.0.1:{server.server_port}", algorithm=algorithm)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            over.set()
            server.shutdown()
            thread.join(10)
