"""Hosts on one machine: each has an address on a bridge, processes, a home, /tmp and /dev/shm of its own.

A host is a set of Linux namespaces whose PID 1 is started here, so that ending that one ends all, as a power cut does.
All else of the disk is shared, as by NFS: a folder below the one given to `hosts` is the same everywhere. The
process that makes hosts reaches them, and they reach it, at `Host.outside`. Nothing is left when that process ends,
however it ends, but an empty bridge after a kill -9.
"""

import contextlib
import functools
import ipaddress
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parent.parent
HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
BOOT_SECONDS = 60
# Ray gives up on a node whose helpers do not answer within 15 s (ray-project/ray#65983), and many nodes share few cores
# here. Linux divides these among sessions before it does among processes, so both are told.
_FIRST = "renice -n -10 $$ > /dev/null 2>&1; echo -10 2> /dev/null > /proc/self/autogroup || true"
SHM_BYTES = 2**29

_TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "mount": "mount"}
_SSH_TOOLS = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "rsync": "rsync"}
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")

# PID 1: collects orphans, and ends, and with it all, when the process that made the host closes its end of the pipe.
_INIT = """
import os, signal, subprocess, sys
def collect(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, collect)
service = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL) if sys.argv[2:] else None
open(sys.argv[1], "w").close()
while os.read(0, 1):
    pass
"""

_SSHD = """
ListenAddress {address}
HostKey {folder}/ssh_host_key
AuthorizedKeysFile {key}.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
PrintMotd no
MaxStartups 100
MaxSessions 100
"""


@functools.cache
def reason(*, ssh: bool = False) -> str | None:
    """Why there can be no hosts here, `ssh` for such with sshd; None if there can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "hosts are made of Linux namespaces, which only root may make"
    needed = _TOOLS | _SSH_TOOLS if ssh else _TOOLS
    if missing := sorted({package for tool, package in needed.items() if _which(tool) is None}):
        return f"hosts need Debian's {', '.join(missing)}"
    try:
        _call("unshare", *_NAMESPACES, "--fork", "--mount-proc", "ip", "link", "add", "etude", "type", "bridge")
    except subprocess.CalledProcessError as error:
        return f"no namespaces or bridges can be made here ({error.stderr.strip()})"
    return None


@dataclass
class Host:
    """A host that is on, unless it was powered off. `key` is the file of the SSH key that root may come in with."""

    name: str
    address: str
    outside: str
    folder: Path
    key: Path
    bridge: str
    _link: str
    _keep: tuple[Path, ...]
    _ssh: bool
    _boot: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _one: int = field(default=0, init=False)

    @property
    def home(self) -> Path:
        """Where the home of root on this host lies, as seen from outside."""
        return self.folder / "home"

    def run(
        self, command: str, *, timeout: float, check: bool = True, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a shell command on the host, in root's home. Raises AssertionError with its words if it fails."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                code = subprocess.run(
                    self._inside(command, env),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    timeout=timeout,
                    start_new_session=True,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise AssertionError(f"{self.name}: {command}: over {timeout} s\n{_text(out)}\n{_text(err)}") from error
            done = subprocess.CompletedProcess(command, code, _text(out), _text(err))
        assert not check or code == 0, f"{self.name}: {command}: exit {code}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, command: str, *, log: Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Starts a shell command on the host. Ending what is returned kills the command, not what that started."""
        with log.open("ab") as words:
            return subprocess.Popen(
                self._inside(command, env),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )

    def processes(self, words: str = "") -> list[psutil.Process]:
        """The host's processes, but PID 1, whose command line contains `words`; by their ids outside of the host."""
        mine = _namespace(self._one, "pid")
        found = (p for p in psutil.process_iter() if p.pid != self._one and _namespace(p.pid, "pid") == mine)
        return [p for p in found if words in _command_line(p)] if mine else []

    def power_off(self) -> None:
        """Ends everything on the host at once, without a word to the others."""
        if self._boot is None:
            return
        _call("ip", "link", "set", self._link, "down", check=False)
        if self._one:
            os.kill(self._one, signal.SIGKILL)  # that of a process not waited for yet, and so of no other
        else:
            self._boot.kill()
        self._boot.wait(timeout=BOOT_SECONDS)  # for all that ran there
        assert self._boot.stdin
        self._boot.stdin.close()
        self._boot, self._one = None, 0
        _call("ip", "link", "del", self._link, check=False)

    def power_on(self) -> None:
        """Starts the host afresh, with the same disk and address."""
        assert self._boot is None, f"{self.name} is on"
        up = self.folder / "up"
        up.unlink(missing_ok=True)
        log = self.folder / "boot.log"
        with log.open("ab") as words:
            self._boot = subprocess.Popen(
                ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-e", self.folder / "boot"],
                stdin=subprocess.PIPE,
                stdout=words,
                stderr=words,
                env=_environment(),
                start_new_session=True,
            )
        boot, outer = self._boot, _namespace(os.getpid(), "net")
        self._wait(lambda: _namespace(boot.pid, "net") not in (outer, None), log)
        _call(
            *("ip", "link", "add", self._link, "type", "veth"),
            *("peer", "name", "eth0", "address", _hardware_address(self.address), "netns", str(boot.pid)),
        )
        _call("ip", "link", "set", self._link, "master", self.bridge, "up")
        self._wait(up.exists, log)
        (self._one,) = (child.pid for child in psutil.Process(boot.pid).children())
        if self._ssh:
            self._wait(lambda: _answers(self.address, 22), log)

    def cut(self) -> None:
        """Takes its link to all others down; what was sent is lost."""
        _call("ip", "link", "set", self._link, "down")

    def mend(self) -> None:
        """Takes the link up again."""
        _call("ip", "link", "set", self._link, "up")

    def _inside(self, command: str, env: Mapping[str, str] | None) -> list[str]:
        assert self._boot is not None, f"{self.name} is off"
        variables = [f"{name}={value}" for name, value in (_environment() | dict(env or {})).items()]
        # The second part sees to it that the command ends with the one outside that waits for it.
        return [
            *("nsenter", "--target", str(self._one), *_NAMESPACES),
            *("setpriv", "--pdeathsig", "KILL"),
            *("env", "-i", f"--chdir={HOME}", *variables),
            *("sh", "-c", f'{_FIRST}; exec bash -c "$1"', "sh", command),
        ]

    def _wait(self, done: Callable[[], bool], log: Path) -> None:
        assert self._boot is not None
        until = time.monotonic() + BOOT_SECONDS
        while not done():
            assert self._boot.poll() is None, f"{self.name} did not boot: {log.read_text()}"
            assert time.monotonic() < until, f"{self.name} did not boot in time: {log.read_text()}"
            time.sleep(0.02)

    def prepare(self, table: str) -> None:
        """Writes what the host boots from; `table` is the /etc/hosts of all."""
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{table}")
        (self.folder / "resolv.conf").write_text("")
        (self.folder / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
        (self.folder / "init.py").write_text(_INIT)
        (self.home / ".bashrc").write_text(f"{_FIRST}\n")  # read by each session that comes in through SSH
        service: list[str] = []
        if self._ssh:
            _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "ssh_host_key"))
            config = self.folder / "sshd_config"
            config.write_text(_SSHD.format(address=self.address, folder=self.folder, key=self.key))
            service = [_which("sshd") or "", "-D", "-e", "-f", str(config)]
        (self.folder / "boot").write_text(self._boot_script(service))

    def _boot_script(self, service: list[str]) -> str:
        """Shell lines for PID 1: network, own folders, and what of the outer disk they would hide put back."""
        mine = shlex.quote(str(self.folder))
        hidden = [path for path in self._keep if any(path.is_relative_to(top) for top in ("/tmp", HOME))]
        kept = [(f"/mnt/{number}", shlex.quote(str(path))) for number, path in enumerate(hidden)]
        init = [sys.executable, "-I", "-S", str(self.folder / "init.py"), str(self.folder / "up"), *service]
        return "\n".join(
            [
                _FIRST,
                f"hostname {self.name}",
                "ip link set lo up",
                "until ip link show eth0 > /dev/null 2>&1; do sleep 0.02; done",
                f"ip address add {self.address}/24 dev eth0",
                "ip link set eth0 up",
                f"ip route add default via {self.outside}",
                f"mount --bind {mine}/hosts /etc/hosts",
                "mount -t tmpfs tmpfs /run",
                "mkdir -p /run/sshd /run/lock",
                f"if [ -f /etc/resolv.conf ]; then mount --bind {mine}/resolv.conf /etc/resolv.conf; fi",
                f"mount --bind {mine}/shadow /etc/shadow",
                f"mount -t tmpfs -o size={SHM_BYTES} tmpfs /dev/shm",
                "mount -t tmpfs tmpfs /mnt",
                f"mkdir /mnt/mine && mount --bind {mine} /mnt/mine",
                *(f"mkdir {place} && mount --bind {path} {place}" for place, path in kept),
                "mount --bind /mnt/mine/tmp /tmp",
                f"mount --bind /mnt/mine/home {shlex.quote(str(HOME))}",
                *(f"mkdir -p {path} && mount --bind {place} {path}" for place, path in kept),
                "umount --lazy /mnt",
                f"exec {shlex.join(init)}",
                "",
            ]
        )


@contextlib.contextmanager
def hosts(folder: Path, n: int, *, ssh: bool = False) -> Iterator[list[Host]]:
    """`n` hosts which keep their disks in `folder`, each with an sshd if `ssh`; they end with the context."""
    assert 0 < n < 200 and reason(ssh=ssh) is None, reason(ssh=ssh)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    network = _free_network()
    outside, bridge = str(network[254]), f"et{secrets.token_hex(3)}"
    key = folder / "key"
    if ssh:
        _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    keep = (folder, ROOT, Path(sys.prefix), Path(sys.base_prefix))
    made = [
        Host(f"host{i}", str(network[i + 1]), outside, folder / f"host{i}", key, bridge, f"{bridge}-{i}", keep, ssh)
        for i in range(n)
    ]
    table = "".join(f"{host.address} {host.name}\n" for host in made)
    with contextlib.ExitStack() as stack:
        _call("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(_call, "ip", "link", "del", bridge, check=False)
        _call("ip", "address", "add", f"{outside}/24", "dev", bridge)
        _call("ip", "link", "set", bridge, "up")
        for host in made:
            host.prepare(table)
            stack.callback(host.power_off)
            host.power_on()
        yield made


def _environment() -> dict[str, str]:
    path = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"HOME": str(HOME), "USER": "root", "LOGNAME": "root", "PATH": path, "LANG": "C.UTF-8", "SHELL": "/bin/bash"}


def _free_network() -> ipaddress.IPv4Network:
    """A network of 256 addresses that no route of this machine leads to yet."""
    routes = _call("ip", "-4", "-o", "route", "show", "table", "all").stdout
    while True:
        network = ipaddress.IPv4Network(f"10.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}.0/24")
        if str(network[0]) not in routes:
            return network


def _hardware_address(address: str) -> str:
    """Always the same for an address, so that the neighbours of a host that comes back find it."""
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _namespace(pid: int, kind: str) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return None


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=_environment()["PATH"])


def _call(*command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, check=check, capture_output=True, text=True, timeout=BOOT_SECONDS, env=os.environ | _environment()
    )


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
