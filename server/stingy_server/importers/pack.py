"""Writing of what an importer found as a bundle. Invariant: nothing is left of one that fails."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stingy_protection import BundleError, write_bundle
from stingy_server.importers.found import Found, NotImportable
from stingy_server.models.endpoints import close_endpoints, start_endpoints
from stingy_server.models.loading import LoadedModel, load_bundles
from stingy_server.settings import ModelSettings, Settings


def pack(
    found: Found, out: Path, *, name: str | None, version: str, policy: str, settings: Settings
) -> LoadedModel:
    """Write a bundle, try it as a start-up would, and move it to its place.

    Args:
        out: the folder of the bundle. It must be absent or empty.
        name: the name of the model; None for one made from the source's name.
        policy: the text of the policy.
        settings: the settings of the server that tries it.

    Returns:
        The bundle as it was loaded for its trial.

    Raises:
        NotImportable: if the bundle is faulty or fails its trial. Nothing is written then.
    """
    require_new(out)
    target = Path(os.path.realpath(out))  # a link to an empty folder stays one
    try:
        return _pack(found, target, name=name, version=version, policy=policy, settings=settings)
    except OSError as error:
        raise _not_writable(out, error) from None


def require_new(out: Path) -> None:
    """Check that a bundle can be made at a place.

    Raises:
        NotImportable: if something is there already, or no folder can be there.
    """
    try:
        _require_new(out)
    except OSError as error:
        raise _not_writable(out, error) from None


def _not_writable(out: Path, error: OSError) -> NotImportable:
    reason = error.strerror or type(error).__name__
    return NotImportable(f"--out: expected a folder that can be written, got {out}: {reason}")


def _require_new(out: Path) -> None:
    if out.is_dir():
        if any(out.iterdir()):
            raise NotImportable(
                f"--out: expected a new folder, got {out}, which has something in it"
            )
        if out.samefile(Path.cwd()):
            raise NotImportable(
                "--out: expected a folder that can be replaced, got the one you are in"
            )
    elif out.exists() or out.is_symlink():
        raise NotImportable(f"--out: expected a new folder, got {out}, which is none")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir():
        raise NotImportable(f"--out: expected a new folder, got {out}, but {place} is none")


def _pack(
    found: Found, out: Path, *, name: str | None, version: str, policy: str, settings: Settings
) -> LoadedModel:
    with _folder_beside(out) as folder:
        try:
            write_bundle(
                folder,
                model=found.model,
                name=name or model_name(found.name),
                version=version,
                classes=found.classes,
                preprocessing=found.preprocessing,
                policy=policy,
                factory=found.factory,
                arguments=found.arguments,
                outputs=found.outputs,
                source=found.source,
            )
        except BundleError as error:
            raise NotImportable(*error.faults) from None
        tried = try_bundle(folder, settings)
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.replace(out)  # an empty folder is replaced
    return tried


def try_bundle(folder: Path, settings: Settings) -> LoadedModel:
    """Load a bundle or an artefact and try it, as a start-up does.

    Raises:
        NotImportable: if it fails.
    """
    chosen = settings.model_copy(
        update={"models": (ModelSettings(bundle=folder),), "allow_open": True}
    )
    models, faults = load_bundles(chosen)
    endpoints, more = ([], []) if faults else start_endpoints(models, chosen, secret=bytes(16))
    close_endpoints(endpoints)
    if faults or more:
        raise NotImportable(*(fault.removeprefix(f"{folder}: ") for fault in (*faults, *more)))
    return models[0]


def model_name(text: str) -> str:
    """Make the name of a model from the name of a file or of an architecture."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return name[:128] or "model"


@contextlib.contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """Give a folder on the file system of `out`. Remove it at the end, if it is still there."""
    base = next(parent for parent in out.absolute().parents if parent.is_dir())
    temporary = Path(tempfile.mkdtemp(prefix=".stingy-", dir=base))
    try:
        yield temporary / "bundle"
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
