"""The cluster files are what Ray accepts, and keep to what they promise."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
FILES = ("cluster.yaml", "clusters/gcp.yaml", "clusters/local.yaml")


def content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_it(name: str) -> None:
    config = prepare_config(content(name))
    validate_config(config)
    assert config["cluster_name"] == "etude"
    broken = {**content(name), "no_such_field": 1}
    with pytest.raises(Exception, match="no_such_field"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", FILES)
def test_the_token_is_shared_and_in_no_file_and_the_dashboard_is_for_the_head_alone(name: str) -> None:
    config, text = content(name), (ROOT / name).read_text(encoding="utf-8")
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    (head,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert not re.search(r"[0-9a-f]{32}|AKIA|BEGIN .*PRIVATE", text)


@pytest.mark.parametrize("name", FILES)
def test_nodes_have_the_code_and_the_locked_environment(name: str) -> None:
    config = content(name)
    assert config["file_mounts"]["~/etude"] == "."
    assert {".git/**", ".venv/**", "studies/**"} <= set(config["rsync_exclude"])
    assert any("make .venv" in command for command in config["setup_commands"])
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("~/etude/.venv/bin/ray" in command for command in starts)


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
    assert types["gpu"]["resources"]["GPU"] == 1 and types["gpu"]["min_workers"] == 0
    assert "spot" in str(types["gpu"]["node_config"]).lower()
    assert types["gpu"]["max_workers"] == config["max_workers"]
