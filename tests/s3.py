"""A real S3 server on this machine, for studies that lie in an object store."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs


@contextmanager
def server(folder: Path, host: str = "127.0.0.1") -> Iterator[fs.S3FileSystem]:
    """A store with a bucket `studies`, to which `s3://studies/…` leads for as long as it lives."""
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("w") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)], stdout=words, stderr=words
        )
    address = f"http://{host}:{port}"
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in variables}
    try:
        _wait_for(address, process, log)
        os.environ.update(variables)
        store = fs.S3FileSystem(endpoint_override=address, allow_bucket_creation=True)
        store.create_dir("studies")
        yield store
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        process.terminate()
        process.wait(timeout=30)


def _wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())
