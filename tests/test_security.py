"""Attempts to get in, out or further than one should, each of them really made.

Others stand beside what they attack: names of parameters and networks in a model's folder (test_saved_whole.py), names
of notes and links in a corpus (test_store.py, test_tree.py), what cluster files open (test_clusters.py).
"""

import ast
import contextlib
import io
import ipaddress
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from search import comparison
from search.engine import Engine
from search.finish import finish
from search.mirror import Mirror
from search.options import parse, settle
from search.records import Journal
from search.study import StudySpec
from tests.autoscaling import end_all
from tests.search.conftest import DATA, SPACE
from trainables import checkpoint, saved, weights
from trainables.corpora import archive
from trainables.errors import UserError
from trainables.folder import open_folder

ROOT = Path(__file__).parent.parent
PACKAGES = ("analysis", "search", "spaces", "trainables")


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[Bomb]:
    """A bomb that works, which must not have gone off in the end."""
    test = Bomb(tmp_path / "test")
    pickle.loads(pickle.dumps(test))
    assert test.mark.is_dir(), "unpickled without care, it goes off"
    found = Bomb(tmp_path / "went off")
    yield found
    assert not found.mark.exists()


# What runs code that a file holds, or may: as "function" or "module.function".
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
    *("joblib.load", "pd.read_pickle", "pandas.read_pickle", "marshal.loads", "marshal.load", "shelve.open"),
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("np.load", "numpy.load", "tar.extract", "tar.extractall", "shutil.unpack_archive"),
}


def test_nothing_in_the_packages_runs_what_a_file_holds() -> None:
    found, loads = [], 0
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name == "torch.load":
                loads += 1
                if keywords.get("weights_only") != "True":
                    found.append(f"{path}:{node.lineno} {name} without weights_only")
            if (
                name in FORBIDDEN
                or name.endswith((".extractall", ".extract"))
                or keywords.get("allow_pickle") == "True"
            ):
                found.append(f"{path}:{node.lineno} {name}")
            if keywords.get("shell") == "True":
                found.append(f"{path}:{node.lineno} a shell")
    assert found == []
    assert loads == 2, "the scan sees the calls that there are"


def test_a_saved_training_state_from_elsewhere_runs_nothing(bomb: Bomb, tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    for content in ({"identity": "me", "evil": bomb}, bomb):
        torch.save(content, tmp_path / "trial" / "state.pt")
        assert checkpoint.load_state(tmp_path / "trial", "me") is None
    (tmp_path / "trial" / "state.pt").write_bytes(pickle.dumps({"identity": "me", "evil": bomb}, protocol=2))
    assert checkpoint.load_state(tmp_path / "trial", "me") is None
    torch.save({"identity": "me", "epoch": 3}, tmp_path / "trial" / "state.pt")
    assert checkpoint.load_state(tmp_path / "trial", "me") == {"epoch": 3}


def test_weights_from_elsewhere_run_nothing(bomb: Bomb, tmp_path: Path) -> None:
    file = tmp_path / "resnet50.pth"
    for write in (
        lambda: torch.save({"conv1.weight": bomb}, file),
        lambda: file.write_bytes(pickle.dumps(bomb, protocol=2)),
    ):
        write()
        with pytest.raises(UserError, match=r"resnet50\.pth"):
            weights.find(str(file), "resnet50")


def test_a_model_from_elsewhere_runs_nothing(bomb: Bomb, tmp_path: Path) -> None:
    """A pickle in place of the weights, whatever the rest says."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for content in (pickle.dumps(bomb), _torch_bytes(bomb)):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError):
            saved.load(folder)


def _torch_bytes(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def test_a_table_from_elsewhere_runs_nothing(bomb: Bomb, tmp_path: Path) -> None:
    """Arrow once unpickled what a column's metadata held under this name."""
    evil = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(bomb)}
    field = pa.field("name", pa.string(), metadata=evil)
    pq.write_table(pa.table([pa.array(["x"])], schema=pa.schema([field])), tmp_path / "table.parquet")
    assert pd.read_parquet(tmp_path / "table.parquet")["name"].tolist() == ["x"]


def test_nothing_is_written_where_a_link_in_an_archive_leads(tmp_path: Path) -> None:
    """A link to a folder and then a file below it: what unpacks such an archive writes into that folder."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    with tarfile.open(inside / "evil.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("nsynth-test/audio")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        for name in ("nsynth-test/audio/a.wav", "../outside/b.wav", f"{outside}/c.wav"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"evil"))
        pipe = tarfile.TarInfo("nsynth-test/pipe")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
    seen = [(str(member.path), member.refusal.partition(":")[0]) for member in archive.members(inside / "evil.tar.gz")]
    assert seen == [
        ("nsynth-test/audio", "link"),
        ("nsynth-test/audio/a.wav", ""),
        ("../outside/b.wav", "unsafe path"),
        (f"{outside}/c.wav", "unsafe path"),
        ("nsynth-test/pipe", "not a file"),
    ]
    assert list(outside.iterdir()) == []
    assert [path.name for path in inside.iterdir()] == ["evil.tar.gz"]


NAMES = (
    "..",
    ".",
    "../x",
    "x/../../y",
    "/tmp/x",
    "a/b",
    "~",
    "~root",
    "-x",
    "",
    "x\n",
    "x\0y",
    "C:\\x",
    "..\\x",
    "é" * 101,
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["mlp", "mlp,lstm"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_study_cannot_be_named_out_of_its_folder(name: str, family: str, resume: bool, tmp_path: Path) -> None:
    """Not even where there is a study at the place that the name leads to."""
    root = tmp_path / "a" / "studies"
    root.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "a", tmp_path / "a" / "x", root):
        place.mkdir(exist_ok=True)
        (place / "families.json").write_text(json.dumps({"families": ["mlp", "lstm"], "options": {}}))
    arguments = ["--space", family, "--data", "demo", "--storage", str(root), "--name", name]
    before = sorted(tmp_path.rglob("*"))
    given = parse([*arguments, "--resume"] if resume else arguments)
    assert given is not None
    with pytest.raises(UserError, match="--name"):
        (comparison.settle if comparison.asked(given) else settle)(given, lambda *_: None)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_journal_cannot_name_a_recipe_that_leads_out(tmp_path: Path) -> None:
    """The scored models of recipes lie in folders of their names, which a study from elsewhere may have invented."""
    directory = tmp_path / "study"
    journal = Journal(directory)
    journal.started(0, params={"x": 0.5, "kind": "a"}, baseline="../../../evil", origin="published", seed=1)
    report = {"epoch": 1, "score": 0.5, "best_epoch": 1, "failure": None, "ended": False}
    journal.epoch(0, report, None, "complete")
    journal.ended(0, "complete", None)
    with pytest.raises(UserError, match=r"must be one of its family, but the journal .* names '\.\./\.\./\.\./evil'"):
        finish(Engine(StudySpec("study", SPACE, DATA, 1, 1, 1, 3, 0, 1, False), journal))
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


@pytest.mark.slow
def test_an_object_cannot_be_named_out_of_its_folder(s3: fs.S3FileSystem, tmp_path: Path) -> None:
    """Keys are free text: what would be another folder on a disk is refused before anything is written."""
    for key in ("best/../../evil.json", "best/..", "rows/..\\evil"):
        client = boto3.client("s3")
        client.put_object(Bucket="studies", Key="study/study.json", Body=b"{}")
        client.put_object(Bucket="studies", Key=f"study/{key}", Body=b"evil")
        local = tmp_path / "studies" / "study"
        local.mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match="must have plain names"):
            Mirror(local, open_folder("s3://studies/study")).fetch_study()
        assert {path.name for path in tmp_path.rglob("*")} <= {"studies", "study", "study.json"}
        client.delete_object(Bucket="studies", Key=f"study/{key}")


_LOCAL_RAY = """
import json, psutil, ray, sys
from search.cluster import cluster

def listening():
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [(c, p) for p in mine for c in p.net_connections("inet")]
    return [(c.laddr.ip, p.name()) for c, p in found if c.status == psutil.CONN_LISTEN]

@ray.remote(num_cpus=1)
class Worker:
    def ready(self):
        return True

with cluster(None):
    worker = Worker.remote()
    ray.get(worker.ready.remote())
    found = {
        "address": ray.get_runtime_context().gcs_address,
        "listening": listening(),
        "commands": [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)],
    }
    print(json.dumps(found), flush=True)
    sys.stdin.readline()
"""

_CLIENT = """
import sys
from ray._raylet import GcsClient
try:
    print(GcsClient(sys.argv[1]).internal_kv_get(b"session_name", b"session") is not None)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """What `search/cluster.py` starts for one machine, by a user without a token, and that user's home."""
    home = tmp_path_factory.mktemp("home")
    records = Path(tempfile.mkdtemp(prefix="etude-ray-"))
    environment = {**os.environ, "HOME": str(home), "RAY_TMPDIR": str(records), "RAY_raylet_start_wait_time_s": "120"}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", _LOCAL_RAY],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    guard = threading.Timer(300, process.kill)
    guard.start()
    try:
        said = next((line for line in process.stdout if line.startswith("{")), None)
        assert said, process.stderr.read()
        yield json.loads(said), home
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate("\n", timeout=120)
        process.kill()
        process.wait(timeout=30)
        guard.cancel()
        end_all(records)
        shutil.rmtree(records)


@pytest.mark.slow
def test_ray_on_one_machine_listens_to_nobody_else(local_ray: tuple[dict[str, Any], Path]) -> None:
    found = local_ray[0]["listening"]
    assert {name for _, name in found} >= {"gcs_server", "raylet"}, "the processes are seen"
    strangers = [(ip, name) for ip, name in found if not ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback]
    assert strangers == []
    assert not any("dashboard" in name.lower() for _, name in found)


@pytest.mark.slow
def test_ray_on_one_machine_starts_nothing_that_only_clusters_need(local_ray: tuple[dict[str, Any], Path]) -> None:
    """Autoscaler, log monitor, API server; nor workers ahead of need."""
    commands = local_ray[0]["commands"]
    assert sum("raylet/raylet " in command for command in commands) == 1, "the processes are seen"
    assert not [command for command in commands if re.search(r"monitor\.py|dashboard\.py", command)]
    workers = [command.split()[0] for command in commands if command.startswith("ray::") and "Agent" not in command]
    assert workers == ["ray::Worker"]


def knocks(address: str, **environment: str) -> str:
    """What a client hears that comes with that."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT, address],
        env={
            **clean,
            "RAY_gcs_rpc_server_reconnect_timeout_s": "2",
            "RAY_py_gcs_connect_timeout_s": "2",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_ray_on_one_machine_asks_for_the_token(local_ray: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    started, home = local_ray
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) >= 32
    nobody = {"HOME": str(tmp_path)}
    assert "AuthenticationError" in knocks(started["address"], **nobody)
    assert "AuthenticationError" in knocks(started["address"], **nobody, RAY_AUTH_MODE="disabled")
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    assert "AuthenticationError" in knocks(started["address"], **nobody, **wrong)
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token.read_text()}
    assert knocks(started["address"], **nobody, **right) == "True"
