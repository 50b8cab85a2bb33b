"""Machines, links, disks and stores that fail under a running study, for real, on hosts of this machine."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from search.records import SPEC
from search.study import StudySpec
from tests import hosts
from tests.faults.checks import history, tally, undisturbed
from tests.faults.nodes import Cluster, Study, running, wait_until
from tests.hosts import Host
from tests.s3 import server
from tests.tiny import write_corpus
from trainables.files import read_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(hosts.reason() is not None, reason=str(hosts.reason())),
]

SMALL = ("--trials", "6", "--max-epochs", "9", "--grace-epochs", "2", "--reduction-factor", "3")


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A disk of its own that all hosts share."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="faults-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4G", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(cache))


@pytest.fixture(scope="module")
def cluster(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head that runs no trials and two machines that run one each."""
    folder = tmp_path_factory.mktemp("faults")
    write_corpus(folder / "corpus")
    store = folder / "store"
    store.mkdir()
    with (
        hosts.hosts(folder, 3) as made,
        server(store, made[0].outside),
        running(
            made, folder, **{name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        ) as found,
    ):
        yield found


@pytest.fixture
def study(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Study]:
    """A study whose epochs take half a second; its session is ended with the test."""
    name = re.sub(r"\W+", "-", request.node.name)
    found = Study(cluster, cluster.folder / "corpus", name, 0.5, SMALL)
    yield found
    if found.process and found.process.poll() is None:
        found.kill()


def busy(cluster: Cluster) -> Host:
    """The machine that trains, once there is one."""
    wait_until(lambda: any(map(cluster.trial_processes, cluster.workers)), "a trial on any machine")
    return next(host for host in cluster.workers if cluster.trial_processes(host))


def assert_as_if_undisturbed(study: Study, tmp_path: Path, *, faults: int, before: list[dict[str, bytes]]) -> None:
    """One worker: the journal is that of a study that nobody disturbed, and at most the epochs in flight were lost."""
    found = tally(study.directory, study.trained(), before)
    assert found.violations == ()
    assert found.repeated <= faults
    undisturbed(StudySpec.from_json(read_json(study.directory / SPEC)), tmp_path / "undisturbed")
    assert history(study.directory) == history(tmp_path / "undisturbed")


def test_workers_machines_links_and_drivers_are_lost_one_after_the_other(
    cluster: Cluster, study: Study, tmp_path: Path
) -> None:
    before = []
    study.start(cluster.head, "--concurrency 1")
    study.wait_for_epochs(2)
    before.append(study.history())
    for process in map(psutil.Process, cluster.trial_processes(busy(cluster))):
        process.kill()
    study.wait_for_epochs(2)
    study.kill()
    before.append(study.history())
    study.start(cluster.head, "--resume")
    study.wait_for_epochs(2)
    cut = busy(cluster)
    (other,) = (host for host in cluster.workers if host is not cut)
    cut.cut()
    study.wait_for_epochs(2)
    cut.mend()
    wait_until(lambda: not cut.processes("raylet/raylet"), "the node that was cut off to learn that it is lost")
    before.append(study.history())
    other.power_off()
    wait_until(lambda: "Waiting for a machine" in study.log.read_text(), "word that there is no machine left")
    before.append(study.history())
    other.power_on()
    cluster.join(other)
    words = study.wait()
    cluster.join(cut)
    assert "Trials run again" in words and "Everything lies in" in words
    assert_as_if_undisturbed(study, tmp_path, faults=4, before=before)
    assert {row["node"] for row in study.rows()} == {host.address for host in cluster.workers}


def test_the_head_is_lost(cluster: Cluster, study: Study, tmp_path: Path) -> None:
    """The driver, on another machine, says so and how to go on; a new head knows nothing of the old one's study."""
    study.start(cluster.workers[0], "--concurrency 1")
    study.wait_for_epochs(3)
    began = time.monotonic()
    cluster.head.power_off()
    words = study.wait(code=2)
    assert time.monotonic() - began < 60, "before Ray ends the process without a word"
    assert "The cluster's head, at" in words and "--resume --name study" in words
    before = [study.history()]
    for host in cluster.workers:
        host.power_off()
        host.power_on()
    cluster.head.power_on()
    cluster.start()
    study.start(cluster.head, "--resume")
    study.wait()
    assert_as_if_undisturbed(study, tmp_path, faults=1, before=before)


def test_the_disk_is_full(cluster: Cluster, study: Study, disk: Path, tmp_path: Path) -> None:
    study.storage = str(disk / "studies")
    study.start(cluster.head, "--concurrency 1")
    study.wait_for_epochs(3)
    resize(disk, shutil.disk_usage(disk).used)
    words = study.wait(code=1)
    assert "No space left" in words and "--resume" in words
    before = [study.history()]
    resize(disk, 4 * 2**30)
    study.start(cluster.head, "--resume")
    study.wait()
    assert_as_if_undisturbed(study, tmp_path, faults=1, before=before)


def resize(disk: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes // 1024}k", disk], check=True)


def test_the_store_is_unreachable_while_machines_are_lost(cluster: Cluster, study: Study) -> None:
    """Two trials at a time in an object store: the journal's order is its own, all else as if undisturbed."""
    study.storage = "s3://studies/faults"
    study.start(cluster.head)
    study.wait_for_epochs(3)
    (store,) = (p for p in psutil.Process().children() if "moto.server" in p.cmdline())
    store.suspend()
    time.sleep(5)
    first, second = cluster.workers
    for process in map(psutil.Process, cluster.trial_processes(first)):
        process.kill()
    store.resume()
    study.wait_for_epochs(2)
    before = [study.history()]
    second.cut()  # also off the store, which it goes on trying to reach
    wait_until(lambda: cluster.lost(second), "the head to miss the node that was cut off")
    study.wait_for_epochs(1)
    second.mend()
    wait_until(lambda: not second.processes("raylet/raylet"), "the node that was cut off to learn that it is lost")
    cluster.join(second)
    study.wait()
    found = tally(study.directory, study.trained(), before)
    assert found.violations == ()
    assert found.repeated <= 2


def test_a_machine_that_does_not_see_the_study_says_so(cluster: Cluster, study: Study) -> None:
    """Storage on the head's own disk."""
    study.storage = "/root/studies"
    study.start(cluster.head)
    words = study.wait(code=1)
    assert re.search(
        r"trial \d on 10\.\d+\.\d+\.\d+ could not: /root/studies/study is not the study's directory", words
    )
    assert "--storage must lie on a disk that all nodes share, or be an address such as s3://" in words
    for host in cluster.workers:
        assert not (host.home / "studies").exists(), "made nothing there"
