"""Hosts made of namespaces are what the tests of clusters take them for."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.hosts import HOME, Host, hosts, reason

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason()), reason=reason() or "")]


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout


def serve(host: Host, folder: Path) -> "subprocess.Popen[bytes]":
    """Something on the host that answers at port 8000, once it does."""
    server = host.start(f"exec python -m http.server 8000 --bind {host.address}", log=folder / "log")
    until = time.monotonic() + 30
    while ":8000" not in host.run("ss -Hltn", timeout=30).stdout:
        assert time.monotonic() < until and server.poll() is None, (folder / "log").read_text()
    return server


def reaches(one: Host, other: Host) -> bool:
    done = one.run(f"timeout 2 bash -c 'exec 3<> /dev/tcp/{other.address}/8000'", timeout=30, check=False)
    return done.returncode == 0


def test_each_has_its_own_name_address_home_and_processes_and_all_share_the_disk(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as (one, other):
        for host in (one, other):
            host.run(f"for at in ~ /tmp /dev/shm; do hostname > $at/me; done; hostname >> {tmp_path}/all", timeout=30)
        for host in (one, other):
            assert host.run("cat ~/me /tmp/me /dev/shm/me", timeout=30).stdout.split() == [host.name] * 3
            assert host.address in host.run("ip -4 -o address show dev eth0", timeout=30).stdout
            assert host.run(f"cat {tmp_path}/all", timeout=30).stdout.split() == [one.name, other.name]
            assert (host.home / "me").read_text().strip() == host.name
        assert not any(Path(folder, "me").exists() for folder in (HOME, "/tmp", "/dev/shm")), "nor outside"
        with pytest.raises(AssertionError, match="exit 3"):
            one.run("echo no; exit 3", timeout=30)
        sleeper = one.start("exec sleep 1000", log=tmp_path / "log")
        try:
            one.run("until pgrep sleep; do sleep 0.1; done", timeout=30)
            assert other.run("pgrep sleep", timeout=30, check=False).stdout == ""
            (seen,) = one.processes("sleep 1000")
            assert other.processes("sleep 1000") == []
        finally:
            sleeper.kill()
            sleeper.wait(timeout=30)
        assert psutil.wait_procs([seen], timeout=30)[1] == []


def test_cut_links_and_power_cuts_are_like_real_ones(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as (one, other):
        server = serve(other, tmp_path)
        assert reaches(one, other)
        other.cut()
        assert not reaches(one, other)
        assert other.processes("http.server"), "what runs there runs on"
        other.mend()
        assert reaches(one, other)

        other.run("touch ~/kept /dev/shm/lost", timeout=30)
        ran = other.processes()
        other.power_off()
        server.wait(timeout=30)
        assert not any(process.is_running() for process in ran)
        assert not reaches(one, other)
        other.power_on()
        assert other.run("ls ~; ls /dev/shm", timeout=30).stdout.split() == ["kept"]
        assert not other.processes("http.server")
        again = serve(other, tmp_path)
        assert reaches(one, other)
        other.power_off()
        again.wait(timeout=30)


def test_nothing_is_left_even_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hosts(tmp_path, 2) as (one, _):
        bridge = one.bridge
        assert links().count(f": {bridge}") == 3, "the bridge itself and a link to each"
        sleeper = one.start("exec sleep 1000", log=tmp_path / "log")
        one.run("until pgrep sleep; do sleep 0.1; done", timeout=30)
        ran = one.processes()
        raise ZeroDivisionError
    sleeper.wait(timeout=30)
    assert ran and not any(process.is_running() for process in ran)
    assert bridge not in links()
