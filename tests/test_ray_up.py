"""`ray up`, a study and `ray down` over SSH, as clusters/local.yaml says in its comments, on hosts of tests/hosts.py.

One of four is the user's laptop. The cluster file is as shipped, but for the lines marked CHANGE; each machine is found
with an environment that `make .venv` takes for its own work, since to install one thrice is out of proportion.
"""

import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from search.records import EPOCHS, TRIALS, read_rows
from search.study import commit
from tests.hosts import HOME, ROOT, Host, hosts, reason
from tests.tiny import write_corpus
from trainables.files import read_json

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason(ssh=True)), reason=reason(ssh=True) or "")]

FILE = "clusters/local.yaml"
NOT_COPIED = (".venv", ".*_cache", "__pycache__", "studies", "results")
# Says each time that a corpus is decoded, and by which file.
COUNTED = """

_counted = _import_alone


def _import_alone(request: Request, progress: Progress) -> Store:
    with from_home("~/decoded").open("a") as file:
        print(__file__, file=file)
    return _counted(request, progress)
"""


@dataclass(frozen=True)
class Site:
    """Machines of one's own: the head, the workers, and a laptop with the project; `shared` is a folder of all."""

    head: Host
    workers: list[Host]
    laptop: Host
    shared: Path

    @property
    def nodes(self) -> list[Host]:
        """The head and the workers."""
        return [self.head, *self.workers]

    def say(self, command: str, *, check: bool = True) -> tuple[int, str]:
        """Runs a command in the project's folder on the laptop: its exit code and all that it said."""
        done = self.laptop.run(f"cd etude; {command}", timeout=300, check=check)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with hosts(tmp_path / "hosts", 4, ssh=True) as (head, *workers, laptop):
        for node in (head, *workers):
            _environment(node)
        project = laptop.home / "etude"
        shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(*NOT_COPIED))
        with (project / "trainables/corpora/store.py").open("a") as store:
            store.write(COUNTED)
        write_corpus(laptop.home / "data/nsynth")
        (laptop.home / ".ssh").mkdir(mode=0o700)
        shutil.copy(laptop.key, laptop.home / ".ssh/id_ed25519")
        changes = {
            "max_workers": "2",
            "head_ip": head.address,
            "worker_ips": f"[{', '.join(worker.address for worker in workers)}]",
            "ssh_user": "root",
            "ssh_private_key": "~/.ssh/id_ed25519",
            "~/data": "~/data",
        }
        (project / FILE).write_text(_changed((ROOT / FILE).read_text(encoding="utf-8"), changes), encoding="utf-8")
        shared = tmp_path / "hosts" / "shared"
        yield Site(head, workers, laptop, shared)


def test_a_cluster_over_ssh_from_ray_up_to_ray_down(site: Site) -> None:
    site.say(_documented("get-auth-token"))
    site.say(_documented("ray up").replace("ray up", "ray up -y"))
    _wait_for_all(site)

    study = _documented("search/run.py").replace("/data/studies", str(site.shared))
    study = study.replace("--space blstm", "--space lstm --trials 8 --max-epochs 2 --no-baselines --name STUDY")
    site.say(study.replace("STUDY", "whole"))
    _check_study(site, site.shared / "whole")
    _check_commit(site, site.shared / "whole")
    _check_each_node_decoded_once(site)

    code, words = site.say(study.replace("STUDY", "apart").replace(str(site.shared), "~/studies"), check=False)
    assert code == 1 and "Traceback" not in words, words
    assert "s3://bucket/prefix" in " ".join(words.split()), words

    site.say(_over_ssh(site, site.workers[0], "ray stop"))
    site.say(_over_ssh(site, site.workers[0], "ray start"))
    _wait_for_all(site)
    _check_ports(site)
    _check_strangers_are_refused(site)

    site.say(_documented("ray rsync-down").replace("/data/studies/", f"{site.shared}/"))
    assert _same(site.shared / "whole", site.laptop.home / "etude/studies/whole")

    site.say(_documented("ray down").replace("ray down", "ray down -y"))
    site.say(" & ".join(_over_ssh(site, worker, "ray stop") for worker in site.workers) + "; wait")
    assert {node.name: _of_ray(node) for node in site.nodes} == {node.name: [] for node in site.nodes}


def _environment(node: Host) -> None:
    """An environment as `make .venv` leaves it: the code in ~/etude and what it needs, which is that of the tests."""
    packages = sysconfig.get_path("purelib")
    node.run(f"{sys.executable} -m venv --without-pip etude/.venv && touch etude/.venv/installed", timeout=60)
    (own,) = (node.home / "etude/.venv").glob("lib/python*/site-packages")
    (own / "etude.pth").write_text(f"{packages}\n{HOME}/etude\n")
    ray = node.home / "etude/.venv/bin/ray"
    ray.write_text(f'#!/bin/sh\nexec {HOME}/etude/.venv/bin/python -m ray.scripts.scripts "$@"\n')
    ray.chmod(0o755)


def _changed(text: str, values: dict[str, str]) -> str:
    """The cluster file with values of one's own in the lines marked CHANGE, which must be just these."""
    found = []

    def change(line: re.Match[str]) -> str:
        found.append(line[2])
        return f"{line[1]}{line[2]}: {values[line[2]]}"

    text = re.sub(r"^( *)(\S+): .* # CHANGE.*$", change, text, flags=re.MULTILINE)
    assert sorted(found) == sorted(values)
    return text


def _documented(words: str) -> str:
    """The one command in the comments of the cluster file in which this pattern is found."""
    lines = re.findall(r"^#   (.*)$", (ROOT / FILE).read_text(encoding="utf-8"), flags=re.MULTILINE)
    commands = [re.sub(r"   +\S.*$", "", line) for line in re.sub(r"\\\n +", "", "\n".join(lines)).split("\n")]
    (found,) = (command for command in commands if re.search(words, command))
    return found


def _wait_for_all(site: Site, patience_seconds: float = 60) -> None:
    """Asks as the comments say until four cores are there; who did not come in time is brought in by hand."""
    begun, words = time.monotonic(), ""
    while "/4.0 CPU" not in words:
        elapsed = time.monotonic() - begun
        assert elapsed < 600, f"the nodes did not join: {words}"
        for worker in site.workers:
            if elapsed > patience_seconds and not worker.processes("/raylet/raylet"):
                site.say(_over_ssh(site, worker, "ray start"), check=False)
        _, words = site.say(_documented("ray status"), check=False)


def _over_ssh(site: Site, worker: Host, words: str) -> str:
    """The command with these words, for one of the workers."""
    command = _documented(f"ssh you@192.0.2.2 .*{words}").replace("ssh you@", "ssh -o StrictHostKeyChecking=no ")
    return command.replace("192.0.2.2", worker.address).replace("192.0.2.1", site.head.address)


def _check_study(site: Site, directory: Path) -> None:
    """All trials ended, on the workers and on no other machine, and the winner is there."""
    ended = [row for row in read_rows(directory / TRIALS) if row["event"] == "ended"]
    assert sorted(row["trial"] for row in ended) == list(range(8))
    assert {row["state"] for row in ended} <= {"complete", "pruned"}
    assert {row["node"] for row in read_rows(directory / EPOCHS)} == {worker.address for worker in site.workers}
    assert read_json(directory / "summary.json")["state"] == "finished"
    assert (directory / "best" / "model.safetensors").exists()


def _check_commit(site: Site, directory: Path) -> None:
    """The study knows its code, here that of this checkout with changes; what might hold a password was not copied."""
    here = commit()
    assert read_json(directory / "study.json")["commit"] == (here and here.removesuffix("-dirty") + "-dirty")
    assert not any((node.home / "etude/.git/config").exists() for node in site.nodes)


def _check_each_node_decoded_once(site: Site) -> None:
    """By the code that was copied there, into a store of its own; the laptop did nothing."""
    assert not (site.laptop.home / "decoded").exists()
    for node in site.nodes:
        assert (node.home / "decoded").read_text().split() == [f"{HOME}/etude/trainables/corpora/store.py"], node.name
        stores = node.home / ".cache/etude/stores"
        assert len(list(stores.glob("*/samples.i16"))) == 1 and not list(stores.glob("*.partial")), node.name


def _check_ports(site: Site) -> None:
    """Only SSH and, on the head, Ray's own port can be reached from elsewhere, beside those that the system chose.

    The dashboard would be 8265, the client server 10001; workers take ports from 10002 on.
    """
    for node in site.nodes:
        listening = {line.split()[3] for line in node.run("ss -Hltn", timeout=30).stdout.splitlines()}
        outward = {place.rpartition(":") for place in listening}
        ports = {int(port) for address, _, port in outward if address.strip("[]") not in ("127.0.0.1", "::1")}
        chosen = {port for port in ports if 10002 <= port < 20000 or port >= 32768}
        assert ports - chosen == ({22, 6379} if node is site.head else {22}), node.name


def _check_strangers_are_refused(site: Site) -> None:
    """Neither a node nor a program without the token, or with another one, gets in."""
    place = f"{site.head.address}:6379"
    enter = f"python -c 'import ray; ray.init(\"{place}\", log_to_driver=False)'"
    join = f"ray start --address={place} --disable-usage-stats"
    ways = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
    logs = [site.shared / f"stranger-{number}" for number in range(4)]
    attempts = [
        site.laptop.start(f"exec {what}", log=log, env=how)
        for log, (how, what) in zip(logs, product(ways, (join, enter)), strict=True)
    ]
    try:
        for attempt, log in zip(attempts, logs, strict=True):
            assert attempt.wait(timeout=300) != 0, log.read_text()
            assert "Unauthenticated" in log.read_text() and "token" in log.read_text(), log.read_text()
    finally:
        for attempt in attempts:
            attempt.kill()
            attempt.wait(timeout=30)
    assert "/4.0 CPU" in site.say(_documented("ray status"))[1]


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (one, other)
    ]
    return files[0] == files[1] and bool(files[0])


def _of_ray(node: Host) -> list[str]:
    """The processes of Ray on a machine, once those that are about to end had a minute for it."""
    until = time.monotonic() + 60
    while True:
        lines = node.run("ps -axwwo args", timeout=60).stdout.splitlines()
        found = [line for line in lines if re.search(r"site-packages/ray/|^ray::", line)]
        if not found or time.monotonic() > until:
            return found
        time.sleep(1)
