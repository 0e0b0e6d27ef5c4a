"""The manifests: valid, closed, and consistent with each other and with the image."""

import shutil
import subprocess
from typing import Any

import pytest

from docker_files import DOCKER, EDGE_UID, KUBERNETES, documents, environment, manifests, pod_specs
from docker_files import yaml as parser

MANIFESTS = manifests()
PODS = dict(pod_specs())
FOREIGN = {"InferenceService", "RayService"}  # custom kinds, whose pods are checked instead
KUBERNETES_VERSION = "1.33"
every_pod = pytest.mark.parametrize("name", PODS)


@pytest.mark.parametrize(
    "name", [name for name, resource in MANIFESTS.items() if resource["kind"] not in FOREIGN]
)
def test_manifest_is_valid(name: str) -> None:
    validator = _validator()
    validator.validate(MANIFESTS[name], KUBERNETES_VERSION, strict=True)


@every_pod
def test_pod_is_valid(name: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": PODS[name]}
    _validator().validate(pod, KUBERNETES_VERSION, strict=True)


@every_pod
def test_U4_pod_has_no_rights(name: str) -> None:
    spec = PODS[name]
    assert spec["automountServiceAccountToken"] is False
    # Links set STINGY_PORT for a service named stingy. The server refuses unknown settings.
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == EDGE_UID
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert not any("hostPort" in port for port in container["ports"])


@every_pod
def test_U4_secrets_are_read_only_files_and_not_variables(name: str) -> None:
    spec = PODS[name]
    kinds = {volume["name"]: next(iter(set(volume) - {"name"})) for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert not any("valueFrom" in variable for variable in container.get("env", []))
        for mount in container["volumeMounts"]:
            assert mount.get("readOnly", False) == (kinds[mount["name"]] == "secret")
        writable = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/state", "/tmp"} <= writable  # noqa: S108


def test_edge_manifest_has_the_ports_of_the_image() -> None:
    (container,) = PODS["edge/deployment.yaml"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {
        "http": 8080,
        "metrics": int(environment(DOCKER / "server.Dockerfile")["STINGY_METRICS_PORT"]),
    }
    annotations = MANIFESTS["edge/deployment.yaml"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


def test_every_selector_finds_the_edge() -> None:
    deployment = MANIFESTS["edge/deployment.yaml"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["edge/service.yaml"]["spec"]["selector"] == labels
    assert MANIFESTS["edge/disruption.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["edge/network.yaml"]["spec"]["podSelector"]["matchLabels"] == labels
    target = MANIFESTS["edge/autoscaler.yaml"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    # A number of replicas in the manifest would undo the autoscaling at each apply.
    assert "replicas" not in deployment["spec"]


def test_U1_network_policy_leaves_nothing_open() -> None:
    for name in ("edge/network.yaml", "kserve/network.yaml", "kuberay/network.yaml"):
        spec = MANIFESTS[name]["spec"]
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
        for rule in spec["ingress"]:
            assert rule["from"]
        for rule in spec.get("egress", []):
            assert rule["to"]


def test_U1_only_the_transformer_reaches_kserves_model() -> None:
    service, policy = MANIFESTS["kserve/inferenceservice.yaml"], MANIFESTS["kserve/network.yaml"]
    name = service["metadata"]["name"]
    owner = {"serving.kserve.io/inferenceservice": name}
    assert policy["spec"]["podSelector"]["matchLabels"] == owner | {"component": "predictor"}
    ((peer,),) = [rule["from"] for rule in policy["spec"]["ingress"]]
    assert peer["podSelector"]["matchLabels"] == owner | {"component": "transformer"}
    assert "logger" not in service["spec"]["predictor"]
    assert "egress" not in policy["spec"]


def test_arguments_added_by_kserve_do_not_reach_the_server() -> None:
    (container,) = PODS["kserve/inferenceservice.yaml"]["containers"]
    assert container["name"] == "kserve-container"
    (script,) = container["args"]
    printing = script.replace("from stingy_clients.cli import main", "").replace(
        "main()", "print(sys.argv[1:])"
    )
    done = subprocess.run(
        [*container["command"], printing, "--model_name", "pets", "--predictor_host", "there"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "['serve', '--config', '/etc/stingy/stingy.toml']"


def test_ray_serves_by_haproxy_and_not_from_the_head() -> None:
    spec = MANIFESTS["kuberay/rayservice.yaml"]["spec"]
    (application,) = parser.safe_load(spec["serveConfigV2"])["applications"]
    assert application["import_path"].startswith("stingy_server.ray_serve.app:")
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for name in ("kuberay/rayservice.yaml: head", "kuberay/rayservice.yaml: cpu"):
        (container,) = PODS[name]["containers"]
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_ray_requires_a_token_to_run_code() -> None:
    cluster = MANIFESTS["kuberay/rayservice.yaml"]["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    # Older versions have no such mode, and the operator refuses it for them.
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)


@pytest.mark.parametrize("folder", ["edge", "kserve", "kuberay"])
def test_kustomization_names_every_file(folder: str) -> None:
    (kustomization,) = documents(KUBERNETES / folder / "kustomization.yaml")
    existing = {path.name for path in (KUBERNETES / folder).iterdir()} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == existing


@pytest.mark.parametrize("folder", ["edge", "kserve", "kuberay"])
def test_kustomize_builds_the_folder(folder: str) -> None:
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", KUBERNETES / folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    built = [document for document in parser.safe_load_all(done.stdout) if document]
    named = [name for name in MANIFESTS if name.startswith(f"{folder}/")]
    assert len(built) == len(named)


def _validator() -> Any:
    return pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
