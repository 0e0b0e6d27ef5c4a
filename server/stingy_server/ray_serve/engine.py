"""Both sides of the boundary between an edge replica and a model replica on Ray.

Only a sparse answer or the code of a refusal crosses the boundary. The edge verifies each answer
against the policy before it returns it.
"""

import logging
from typing import Any, TypeAlias

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from stingy_protection import (
    BundleManifest,
    NoisyPolicy,
    Policy,
    PolicyViolation,
    leak_bits,
)
from stingy_protection.answers import SparseLogits
from stingy_protection.gate.promises import verify_answer
from stingy_protection.ordering import Floats32, Ints
from stingy_server.codec.images import Pixels
from stingy_server.errors import (
    DRAINING,
    INTERNAL,
    OVERLOADED,
    REFUSED,
    UPSTREAM_FAILED,
    ConfigurationError,
    Refusal,
    ServiceError,
)
from stingy_server.identity import model_fingerprint
from stingy_server.inference.batch_queue import Answered
from stingy_server.inference.engine import refusal_of
from stingy_server.inference.flags import Flags
from stingy_server.models.endpoints import close_endpoints, start_endpoints
from stingy_server.models.loading import load_bundles
from stingy_server.process.core_dumps import forbid_core_dumps
from stingy_server.settings import Settings
from stingy_server.upstream.readiness import Readiness

log = logging.getLogger("stingy")

# The model fingerprint, indices int64 [batch, N], scores float32 [batch, N]; or a code.
ReplicaAnswer: TypeAlias = tuple[str, Ints, Floats32 | None] | str

REFUSALS = {refusal.code: refusal for refusal in (DRAINING, OVERLOADED, REFUSED)}
TRIES = 3  # a query has no side effect, so it can be sent again, to another replica


class ModelReplica:
    """One model with its gate, in its own process.

    Args:
        settings: the settings with this model alone.

    Raises:
        ConfigurationError: if the model cannot be loaded or does not answer a trial image.
    """

    def __init__(self, settings: Settings) -> None:
        forbid_core_dumps()
        models, faults = load_bundles(settings)
        secret = b""
        if any(isinstance(model.policy, NoisyPolicy) for model in models):
            try:
                secret = _pepper(settings)
            except ConfigurationError as error:
                faults += error.faults
        endpoints, start_faults = start_endpoints(models, settings, secret=secret)
        faults += start_faults
        if faults:
            close_endpoints(endpoints)
            raise ConfigurationError(faults)
        (endpoint,) = endpoints
        self._name = endpoint.name
        self._engine = endpoint.engine
        self._fingerprint = model_fingerprint(endpoint.manifest, endpoint.policy)

    async def predict(self, images: Pixels, caller: str) -> ReplicaAnswer:
        """Answer images, or return the code of a refusal.

        Args:
            images: RGB [batch, height, width, 3], of the model's input size.
            caller: the id of the key.
        """
        try:
            answer, _ = await self._engine.predict(images, caller=caller)
        except ServiceError as error:
            return error.refusal.code
        except Exception as error:  # noqa: BLE001  Ray would send its text to the edge and the log
            log.error("%s: no answer: %s", self._name, type(error).__name__)
            return refusal_of(error).code
        scores = None if answer.scores is None else answer.scores.numpy()
        return self._fingerprint, answer.indices.numpy(), scores

    async def ready(self) -> bool:
        """Return true, because a replica runs only after its trial."""
        return True


def _pepper(settings: Settings) -> bytes:
    """Read the key of the noise. It must exist before the replicas, because they share it.

    Raises ConfigurationError if the state folder has no pepper.
    """
    try:
        return (settings.state / "pepper").read_bytes()
    except OSError:
        raise ConfigurationError(
            ["state: expected a pepper, got none; make a key first: stingy keys create"]
        ) from None


class RayEngine:
    """The engine of an edge replica, which sends queries to the model replicas.

    Args:
        name: the endpoint's name, for the log.
        handle: the handle of a `ModelReplica` deployment.
    """

    def __init__(
        self, name: str, handle: DeploymentHandle, *, manifest: BundleManifest, policy: Policy
    ) -> None:
        self._name = name
        self._handle = handle
        self._policy = policy
        self._fingerprint = model_fingerprint(manifest, policy)
        self._readiness = Readiness(self._probe_replica)

    async def predict(self, images: Pixels, *, caller: str, flags: Flags | None = None) -> Answered:
        """Return the answer of a live replica that has this bundle and policy.

        Raises:
            ServiceError: overloaded, upstream_failed, or the replica's own refusal; refused, if
                there are flags, which do not cross the boundary.
        """
        if flags is not None:
            raise ServiceError(REFUSED)
        refusal: Refusal = UPSTREAM_FAILED
        for _ in range(TRIES):
            try:
                reply = await self._handle.predict.remote(images, caller)
            except BackPressureError:
                raise ServiceError(OVERLOADED) from None
            except RayActorError as error:
                log.warning("%s: a model replica is gone: %s", self._name, type(error).__name__)
                continue
            except (RayError, RayServeException) as error:
                log.error("%s: no answer: %s", self._name, type(error).__name__)
                raise ServiceError(UPSTREAM_FAILED) from None
            if isinstance(reply, str):
                raise ServiceError(REFUSALS.get(reply, INTERNAL))
            if reply[0] == self._fingerprint:
                answer = self._verify(reply, rows=len(images))
                return Answered(answer, leak_bits(answer))
            log.warning("%s: a model replica has another bundle or policy", self._name)
            refusal = OVERLOADED  # during an upgrade; the next try may reach the right replica
        raise ServiceError(refusal)

    async def ready(self) -> bool:
        """Return whether a replica answers."""
        return await self._readiness.check()

    async def close(self) -> None:
        """Do nothing, because Ray ends the replicas."""

    async def _probe_replica(self) -> bool:
        try:
            return bool(await self._handle.ready.remote())
        except BackPressureError:
            return True  # the replicas are at work
        except (RayError, RayServeException) as error:
            log.warning("%s: no replica is ready: %s", self._name, type(error).__name__)
            return False

    def _verify(self, reply: tuple[str, Any, Any], *, rows: int) -> SparseLogits:
        _, indices, scores = reply
        try:
            answer = verify_answer(self._policy, indices, scores)
        except PolicyViolation as error:
            log.error("%s: a promise of the policy is broken: %s", self._name, error)
            raise ServiceError(REFUSED) from None
        if len(answer) != rows:
            log.error("%s: expected %d answers, got %d", self._name, rows, len(answer))
            raise ServiceError(REFUSED)
        return answer
