"""The cluster files are what Ray accepts, and keep to what they promise."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.validate import ParamValidator
from pyarrow import fs
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

from search import machines, options
from search.slots import Cluster, Machine, choose, machines_to_come

ROOT = Path(__file__).parent.parent
CLOUDS = ("cluster.yaml", "clusters/gcp.yaml")
FILES = (*CLOUDS, "clusters/local.yaml")
KUBERAY = "clusters/kuberay.yaml"
ALL = (*FILES, KUBERAY, "clusters/aws.json", "clusters/Dockerfile")
# What stands after "CHANGE" must be one of these: names of the user's own, and how much to spend.
OWN = re.compile(
    r"BUCKET|PROJECT|REGISTRY|region|availability_zone|max_workers|maxReplicas|InstanceType|machineType|head_ip"
    r"|worker_ips|ssh_user|ssh_private_key|namespace|nodeSelector|gke-spot|resources|~/data|diskType"
)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(name))
    return found


def kubernetes() -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster and who may speak to it."""
    cluster, policy = yaml.safe_load_all(text(KUBERAY))
    return cluster, policy


def commands(config: dict[str, Any]) -> list[str]:
    """All that is run on the nodes, Ray's own defaults included."""
    names = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return [command for name in names for command in config[f"{name}_commands"]]


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_it(name: str) -> None:
    config = prepare_config(content(name))
    validate_config(config)
    assert config["cluster_name"] == "etude"
    broken = {**content(name), "no_such_field": 1}
    with pytest.raises(Exception, match="no_such_field"):
        validate_config(prepare_config(broken))


def test_ray_accepts_what_it_makes_of_the_kubernetes_file() -> None:
    cluster, _ = kubernetes()
    config = prepare_config(_derive_autoscaling_config_from_ray_cr(cluster))
    validate_config(config)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert {name: types["gpu"][name] for name in ("min_workers", "max_workers")} == {"min_workers": 0, "max_workers": 4}
    assert (types["gpu"]["resources"]["CPU"], types["gpu"]["resources"]["GPU"]) == (4, 1)
    assert cluster["spec"]["rayVersion"] == importlib.metadata.version("ray"), "all pods and the driver must agree"


@pytest.mark.parametrize("name", [*CLOUDS, KUBERAY])
def test_a_study_asks_for_all_machines_that_it_may_have(name: str) -> None:
    """With nothing up but the head, four trials wait, each for a machine with a GPU."""
    made = content(name) if name != KUBERAY else _derive_autoscaling_config_from_ray_cr(kubernetes()[0])
    cluster = Cluster((Machine(0, 0),), *machines_to_come(prepare_config(made), 0))
    found = choose(cluster, 1, None, None)
    assert (found.gpus_per_trial, found.concurrency) == (1.0, 4)


def test_on_kubernetes_the_machines_that_may_come_are_asked_of_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a head pod, whose token may read the cluster's resource; without the right to, anything may come."""
    cluster, _ = kubernetes()

    class Kubernetes:
        def __init__(self, namespace: str) -> None:
            assert namespace == "default"

        def get(self, path: str) -> dict[str, Any]:
            assert path == "rayclusters/etude"
            return cluster

    monkeypatch.setenv("RAY_CLUSTER_NAME", "etude")
    monkeypatch.setattr("ray.autoscaler._private.kuberay.node_provider.KubernetesHttpApiClient", Kubernetes)
    (tmp_path / "namespace").write_text("default\n")
    monkeypatch.setattr(machines, "_POD", tmp_path / "namespace")
    found = json.loads(machines._read_config("6379"))
    assert machines_to_come(found, 0)[0] == (Machine(0, 0, 0), Machine(4, 1, 4))
    monkeypatch.setattr(machines, "_POD", tmp_path / "nowhere")
    assert json.loads(machines._read_config("6379")) == {}


@pytest.mark.parametrize("name", FILES)
def test_the_token_is_shared_and_the_dashboard_is_for_the_head_alone(name: str) -> None:
    config = content(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert sum("ray start" in command for command in starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    (head,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert "ray-client-server" not in head, "the client's port is not opened"


def test_in_kubernetes_too() -> None:
    cluster, policy = kubernetes()
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    mine = {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}
    assert policy["spec"]["podSelector"] == mine
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": mine}]}]
    assert policy["metadata"]["namespace"] == cluster["metadata"]["namespace"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    for container in (one for pod in pods for one in [*pod["containers"], *pod["initContainers"]]):
        assert container["envFrom"] == [{"secretRef": {"name": "etude-storage"}}]
        assert "env" not in container
        assert "ports" not in container


@pytest.mark.parametrize("name", ALL)
def test_no_secret_stands_in_it_and_nothing_unreleased(name: str) -> None:
    lines = text(name)
    assert not re.search(r"[0-9a-fA-F]{32}|AKIA[0-9A-Z]|BEGIN .*PRIVATE|(SECRET_ACCESS_KEY|TOKEN)=[^…\s]", lines)
    assert not re.search(r"nightly|:latest\b|dev0|master", lines)


@pytest.mark.parametrize("name", [*FILES, KUBERAY])
def test_what_to_change_is_marked_and_nothing_else(name: str) -> None:
    marked = [line for line in text(name).splitlines() if re.search("# .*CHANGE", line) and not line.startswith("#")]
    assert len(marked) >= 4
    for line in marked:
        assert OWN.search(line), f"{line.strip()}: not a name of the user's own"
    placeholders = [line for line in text(name).splitlines() if re.search("BUCKET|PROJECT|REGISTRY|192\\.0\\.2", line)]
    for line in placeholders:
        assert "CHANGE" in line or line.lstrip().startswith("#"), f"{line.strip()}: must be marked"


@pytest.mark.parametrize("name", FILES)
def test_nodes_have_the_code_and_the_locked_environment(name: str) -> None:
    config = content(name)
    assert config["file_mounts"]["~/etude"] == "."
    assert {".git/config", ".venv", "studies/**"} <= {
        path if path == "studies/**" else path.removesuffix("/**") for path in config["rsync_exclude"]
    }
    assert any("make .venv" in command for command in config["setup_commands"])
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("~/etude/.venv/bin/ray" in command for command in starts)


@pytest.mark.parametrize("name", FILES)
def test_ray_adds_no_commands_of_its_own(name: str) -> None:
    """Its defaults install a library with the system's pip, which Ubuntu 24.04 refuses, or an unreleased Ray."""
    prepared = prepare_config(content(name))
    for command in commands(prepared):
        assert command in commands({**{key: [] for key in _COMMANDS}, **content(name)}), f"not ours: {command}"
        assert "pip install" not in command or "/etude/.venv/bin/python -m pip install" in command
        for package in re.findall(r"pip install (?:--quiet )?(.*)", command):
            assert all("==" in name for name in package.split()), f"{package}: versions must be fixed"


_COMMANDS = [
    f"{name}_commands"
    for name in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
]


@pytest.mark.parametrize("name", FILES)
def test_commands_are_what_a_shell_understands(name: str, tmp_path: Path) -> None:
    for command in commands(prepare_config(content(name))):
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=30)


@pytest.mark.parametrize("name", FILES)
def test_the_head_runs_no_trials_and_workers_go_when_idle(name: str) -> None:
    config = prepare_config(content(name))
    assert config["idle_timeout_minutes"] <= 10
    if config["provider"]["type"] == "local":
        assert "--num-cpus=0" in " ".join(config["head_start_ray_commands"])
        assert config["max_workers"] == len(config["provider"]["worker_ips"])
        return
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert "spot" not in str(types[config["head_node_type"]]["node_config"]).lower()
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["max_workers"] == config["max_workers"]


def test_workers_are_spot_machines() -> None:
    aws, gcp = (content(name)["available_node_types"]["gpu"]["node_config"] for name in CLOUDS)
    assert aws["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gcp["scheduling"]["provisioningModel"] == "SPOT"
    (group,) = kubernetes()[0]["spec"]["workerGroupSpecs"]
    assert "spot" in str(group["template"]["spec"]["nodeSelector"])


@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_amazon_would_understand_how_machines_are_started(kind: str) -> None:
    """Names and types of all fields, by the description of the service that comes with its library."""
    asked = {**content("cluster.yaml")["available_node_types"][kind]["node_config"], "MinCount": 1, "MaxCount": 1}
    client = boto3.client("ec2", region_name="us-west-2", aws_access_key_id="none", aws_secret_access_key="none")
    shape = client.meta.service_model.operation_model("RunInstances").input_shape
    assert not ParamValidator().validate(asked, shape).has_errors()
    broken = {**asked, "InstanceMarketOption": "spot"}
    assert ParamValidator().validate(broken, shape).has_errors()


def test_the_head_may_start_workers_with_the_role_that_they_have() -> None:
    """EC2 refuses both without being told: to give a role away, and to look up the newest image."""
    config = content("cluster.yaml")
    statements = json.loads(text("clusters/aws.json"))["Statement"]
    allowed = {statement["Action"]: statement["Resource"] for statement in statements if statement["Effect"] == "Allow"}
    role = config["available_node_types"]["gpu"]["node_config"]["IamInstanceProfile"]["Name"]
    assert allowed["iam:PassRole"].endswith(f":role/{role}")
    image = config["available_node_types"]["gpu"]["node_config"]["ImageId"].removeprefix("resolve:ssm:")
    assert image.startswith(allowed["ssm:GetParameters"].partition("parameter")[2].rstrip("*"))
    assert all("*" not in statement["Action"] for statement in statements)


@pytest.mark.slow
def test_the_corpus_is_fetched_once(s3: fs.S3FileSystem, tmp_path: Path) -> None:
    """The very command of cluster.yaml, with a server on loopback in place of Amazon's."""
    for name, words in (("nsynth-train.tar.gz", b"train"), ("nsynth-test.tar.gz", b"test")):
        with s3.open_output_stream(f"studies/nsynth/{name}", compression=None) as stream:
            stream.write(words)
    (fetch,) = (command for command in content("cluster.yaml")["setup_commands"] if "s3://" in command)
    home = tmp_path / "home"
    # The interpreter finds its environment by the name that it is called by.
    (home / "etude/.venv/bin").mkdir(parents=True)
    python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    (home / "etude/.venv/bin/python").write_text(python)
    (home / "etude/.venv/bin/python").chmod(0o755)
    server = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    here = f"'s3://studies/nsynth?scheme=http&endpoint_override={server}&region=us-east-1'"
    command = fetch.replace("s3://BUCKET/nsynth", here)
    for _ in range(2):
        subprocess.run(["bash", "-c", command], check=True, timeout=120, env={**os.environ, "HOME": str(home)})
        assert (home / "data/nsynth-train.tar.gz").read_bytes() == b"train"
        with s3.open_output_stream("studies/nsynth/nsynth-train.tar.gz", compression=None) as stream:
            stream.write(b"not fetched again")
    assert sorted(path.name for path in (home / "data").iterdir()) == [
        "nsynth-test.tar.gz",
        "nsynth-train.tar.gz",
    ]


def typed(name: str) -> list[list[str]]:
    """The commands that README or the head of a cluster file tells people to type, as words."""
    # What stands behind three spaces explains.
    whole = re.sub(r"\\\n#?\s*", "", text(name))
    lines = [line.removeprefix("#") for line in whole.splitlines()]
    shown = [re.split(r" {3,}|  #", line.strip())[0] for line in lines if line.startswith("   ")]
    wanted = ("ray ", "(umask 077; ray ", "RAY_UP_enable_autoscaler_v2=0 ray ", "aws ", "kubectl ", "docker ")
    typed = [
        line.removeprefix("(umask 077; ").removesuffix(" > /dev/null)") for line in shown if line.startswith(wanted)
    ]
    return [shlex.split(line) for line in typed]


@pytest.mark.parametrize("name", ["README.md", *FILES])
def test_ray_knows_the_commands_that_people_are_told_to_type(name: str) -> None:
    found = [words[words.index("ray") + 1 :] for words in typed(name) if "ray" in words[:2]]
    assert found or name in CLOUDS
    for command, *arguments in found:
        cli.commands[command].make_context(command, list(arguments))
        for word in (word for word in arguments if word.endswith(".yaml")):
            assert (ROOT / word).is_file(), word


def test_the_search_that_people_are_told_to_start_on_a_cluster_is_one() -> None:
    searches = [words for name in ("README.md", "clusters/local.yaml", KUBERAY) for words in typed(name)]
    lines = [word for words in searches for word in words if "search/run.py" in word]
    assert len(lines) == 3
    for line in lines:
        given = options.parse(shlex.split(line.partition("search/run.py")[2].partition(";")[0]))
        assert given is not None
        assert given.address == "auto"


def test_the_files_that_are_named_exist() -> None:
    policy = next(words for words in typed("README.md") if "put-role-policy" in words)
    assert (ROOT / policy[-1].removeprefix("file://")).is_file()
    assert policy[policy.index("--role-name") + 1] in text("cluster.yaml")
    build = next(words for words in typed(KUBERAY) if words[0] == "docker")
    assert (ROOT / build[build.index("-f") + 1]).is_file()


def test_the_image_holds_all_packages_and_nothing_else() -> None:
    copied = {words[-1] for line in text("clusters/Dockerfile").splitlines() if (words := line.split())[:1] == ["COPY"]}
    packages = tomllib.loads(text("pyproject.toml"))["tool"]["setuptools"]["packages"]
    assert copied == {"./", *(name for name in packages if "." not in name)}
