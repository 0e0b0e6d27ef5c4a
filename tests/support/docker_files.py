"""Parsers of the files in docker/: YAML documents and Dockerfile instructions."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml: Any = pytest.importorskip("yaml", reason="pyyaml is not installed")

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
EDGE_UID = 10001
Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    """Return the YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def compose() -> Document:
    (document,) = documents(DOCKER / "compose.yaml")
    return document


def manifests() -> dict[str, Document]:
    """Return every Kubernetes resource by folder and file; a file has one."""
    found = {}
    for path in sorted(KUBERNETES.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            (found[f"{path.parent.name}/{path.name}"],) = documents(path)
    return found


def pod_specs() -> Iterator[tuple[str, Document]]:
    """Return every pod of ours in the manifests, those inside of foreign kinds too."""
    for name, resource in manifests().items():
        spec = resource["spec"]
        match resource["kind"]:
            case "Deployment":
                yield name, spec["template"]["spec"]
            case "RayService":
                cluster = spec["rayClusterConfig"]
                yield f"{name}: head", cluster["headGroupSpec"]["template"]["spec"]
                for group in cluster["workerGroupSpecs"]:
                    yield f"{name}: {group['groupName']}", group["template"]["spec"]
            case "InferenceService":
                scaling = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
                transformer = spec["transformer"]
                yield name, {k: v for k, v in transformer.items() if k not in scaling}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def last_stage(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of the last stage, which make the image itself."""
    found = instructions(path)
    start = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def environment(path: Path) -> dict[str, str]:
    """Return the environment variables that a Dockerfile's image sets."""
    pairs = " ".join(value for name, value in last_stage(path) if name == "ENV").split()
    return dict(pair.split("=", 1) for pair in pairs)
