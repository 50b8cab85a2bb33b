"""What several packages' tests share: a tiny corpus and one Ray for all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from tests.s3 import server
from tests.tiny import write_corpus

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of decoded corpora for the whole run, so that no test touches the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny corpus; read only."""
    return write_corpus(tmp_path_factory.mktemp("tiny") / "corpus")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fs.S3FileSystem]:
    """A store with a bucket `studies`, to which `s3://studies/…` leads while the fixture lives."""
    with server(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture(scope="session")
def shared_ray(cache: Path) -> Iterator[None]:
    """One local Ray of two cores for all tests that need one."""
    import ray

    os.environ["ETUDE_CACHE"] = str(cache)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    yield
    ray.shutdown()
    del os.environ["ETUDE_CACHE"]
