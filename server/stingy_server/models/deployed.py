"""The versions that were deployed beside those of the settings, and bundles that were replaced."""

from collections.abc import Iterable, Mapping

from stingy_server.identity import bundle_digest
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.fleet import looser_faults
from stingy_server.models.loading import LoadedModel, load_bundles
from stingy_server.settings import Settings
from stingy_server.store.deployments import Deployment


def load_deployed(
    deployed: list[Deployment], models: list[LoadedModel], settings: Settings
) -> tuple[list[LoadedModel], list[str]]:
    """Load the versions that were deployed to a running server, so that a restart serves them.

    Args:
        models: the models of the settings. No deployment is looser than these without permission.
    """
    desired = tuple(deployment.settings for deployment in deployed)
    loaded, faults = load_bundles(settings.model_copy(update={"models": desired}))
    faults += replaced_bundles(deployed, loaded)
    allowed = {(each.name, each.version) for each in deployed if each.looser}
    in_service = [*models]

    def place(model: LoadedModel) -> tuple[bool, bool]:
        """Put what was allowed first, then the version with which the others were compared."""
        return not is_allowed(model), model.settings.share is not None

    def is_allowed(model: LoadedModel) -> bool:
        return (model.name, model.manifest.version) in allowed

    for model in sorted(loaded, key=place):
        faults += [] if is_allowed(model) else looser_faults(model, in_service)
        in_service.append(model)
    return loaded, [f"{fault} (deployed; see: stingy models unload)" for fault in faults]


def replaced_bundles(deployed: Iterable[Deployment], models: Iterable[LoadedModel]) -> list[str]:
    """Report deployments whose bundle was replaced by another since they were requested."""
    requested = {(each.name, each.version): each.bundle for each in deployed}
    return [
        f"{model.name} {model.manifest.version}: expected the bundle that was loaded, got another; "
        "unload it, and load it under another version"
        for model in models
        if requested.get((model.name, model.manifest.version))
        not in (None, bundle_digest(model.manifest, model.policy))
    ]


def bundle_digests(models: Iterable[LoadedModel | Endpoint]) -> dict[tuple[str, str], str]:
    """Return the `bundle_digest` of each model, by its name and version."""
    return {
        (model.name, model.manifest.version): bundle_digest(model.manifest, model.policy)
        for model in models
    }


def changed_bundles(
    models: Iterable[LoadedModel], expected: Mapping[tuple[str, str], str]
) -> list[str]:
    """Report models whose bundle changed since the server started."""
    return [
        f"{name}: the bundle changed since the start: restart to serve it"
        for (name, version), bundle in bundle_digests(models).items()
        if bundle != expected.get((name, version))
    ]
