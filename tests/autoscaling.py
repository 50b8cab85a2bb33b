"""A real Ray on this machine that starts machines when there is work and lets them go: Ray's own fake provider.

A "machine" is a raylet with as many cores and GPUs as its type says; the GPUs are bookkeeping only.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from ray.util import get_node_ip_address

ROOT = Path(__file__).parent.parent
HEAD = "ray.head.default"  # the provider's own name for it
RAY = ROOT / ".venv" / "bin" / "ray"


@contextlib.contextmanager
def autoscaling(
    types: dict[str, dict[str, Any]], *, max_workers: int, head_cpus: int = 0, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """The address of such a cluster, for as long as it is used; `types` as in a cluster file."""
    # Sockets lie in it, whose paths may not be long.
    folder = Path(tempfile.mkdtemp(prefix="etude-ray-"))
    host = get_node_ip_address()
    with socket.socket() as free:
        free.bind((host, 0))
        address = f"{host}:{free.getsockname()[1]}"
    config = {
        "cluster_name": "fake",
        "max_workers": max_workers,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 10.0,
        "provider": {
            # By its class: what Ray needs to know it as `fake_multinode` is not in its package.
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "available_node_types": {
            HEAD: {"resources": {"CPU": head_cpus}, "node_config": {}, "min_workers": 0, "max_workers": 0},
            **{name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in types.items()},
        },
        "head_node_type": HEAD,
        "auth": {},
        "file_mounts": {},
        **{f"{kind}_commands": [] for kind in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
    }
    (folder / "cluster.json").write_text(json.dumps(config))
    command = [str(RAY), "start", "--head", "--block", f"--port={address.rpartition(':')[2]}"]
    command += [f"--num-cpus={head_cpus}", "--num-gpus=0", "--include-dashboard=false", "--disable-usage-stats"]
    command += ["--dashboard-agent-listen-port=0", f"--temp-dir={folder}", "--object-store-memory=100000000"]
    command += [f"--autoscaling-config={folder / 'cluster.json'}"]
    variables = {
        **os.environ,
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` sets it
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_raylet_start_wait_time_s": "120",
        "PYTHONPATH": str(ROOT),
        **(environment or {}),
    }
    try:
        try:
            process = _start(command, variables, folder)
        except AssertionError:
            # A raylet gives its agents fifteen seconds, which a busy machine may need longer for.
            process = _start(command, variables, folder)
        try:
            yield address
        finally:
            _end(process, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], variables: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    with (folder / "words").open("w") as words:
        process = subprocess.Popen(command, env=variables, stdout=words, stderr=words)
    try:
        _wait_for(process, folder / "words")
    except BaseException:
        _end(process, folder)
        raise
    return process


def _wait_for(process: "subprocess.Popen[bytes]", words: Path) -> None:
    for _ in range(1800):
        assert process.poll() is None, words.read_text()
        if "Ray runtime started" in words.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(words.read_text())


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=30)
    end_all(folder)


def end_all(folder: Path) -> None:
    """Ends every process of the Ray that has its records in this folder, and of no other."""
    mine = [process for process in psutil.process_iter() if _belongs(process, str(folder))]
    for process in mine:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(mine, timeout=30)


def _belongs(process: psutil.Process, folder: str) -> bool:
    """Whether the folder was named to it or it has a file open there: some processes of Ray overwrite the former."""
    with contextlib.suppress(psutil.Error):
        named = any(folder in word for word in process.cmdline())
        return named or any(file.path.startswith(folder) for file in process.open_files())
    return False
