"""What a worker process does: one trial after another, a step for all epochs that are saved together.

All it needs to go on with a trial lies in the trial's checkpoint folder, so a restarted worker, a resumed study
and an undisturbed run are the same to it.
"""

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
import torch

from search.claim import Claim, SupersededError, check_mark
from search.slots import share_of_memory
from trainables import data, heap, loop
from trainables.config import resolve
from trainables.errors import UserError
from trainables.files import BEST_WEIGHTS, STATE, read_json, replace_file, write_json
from trainables.folder import Folder, open_folder, patiently
from trainables.footprint import footprint

OBITUARY = "failure.json"
log = logging.getLogger(__name__)
_WATCH_SECONDS = 0.1
_SCARCE_PERCENT = 90  # of the node's memory in use, by whomever
_OUT_OF_GPU_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class Trials:
    """The trials of one worker process, whose memory `memory_bytes` bounds; None means its share of the node.

    Of what a trial is given, `point` is what its configuration is made of, `gpus` how many it has, `folder` that of its
    checkpoint, `remote` the address of the latter in an object store, if the study lies in one. `mark` is the
    session's, which `study`, its directory, must bear if it does not. `reported` is the last epoch that the journal
    has; earlier ones are not reported again. After an epoch in `rungs` the trial may be stopped.
    """

    def __init__(self, memory_bytes: int | None) -> None:
        if not ray.get_gpu_ids():
            # Ray leaves the node's GPUs in sight of a worker that has none (ray-project/ray#54868).
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        heap.keep_freed()
        self._memory_bytes = memory_bytes or memory_share_bytes()
        self._watch = MemoryWatch(self._memory_bytes)
        self._remote: Folder | None = None

    def begin(self, given: dict[str, Any]) -> None:
        """Begins a trial; the one before is over."""
        if self._remote:
            self._clear()
        self._folder, self._session, self._gpus = Path(given["folder"]), given["mark"], given["gpus"]
        self._remote = open_folder(given["remote"]) if given["remote"] else None
        self._there: dict[str, tuple[int, int]] = {}
        self._claim = Claim(self._folder, self._remote)
        self._watch.guard(self._claim, self._session)
        self._reports = self._train(given)

    def _clear(self) -> None:
        """Removes the last trial's folder: its checkpoint is in the object store, and nobody else would do it here."""
        with contextlib.suppress(SupersededError, OSError):
            self._claim.check()
            shutil.rmtree(self._folder)

    def step(self) -> dict[str, Any]:
        """The `reports` of the next epochs that were saved, as flat rows, or the reason why there are none.

        All at once: each answer costs the search time, and this worker waits meanwhile for the next question.
        """
        try:
            if reason := self._obituary():
                return _failed(reason)
            reports = next(self._reports)
            here = {
                "trainable_parameters": self._size.trainable_parameters,
                "memory_bytes": self._watch.used(),
                "gpu_share": gpu_memory_share() if self._gpus == 1 else None,
                "node": ray.util.get_node_ip_address(),
            }
        except OSError as error:
            # Not the trial's fault: a full disk or a lost mount must not mark good settings as failures.
            return _aborted(f"{error.strerror or error} ({error.filename or self._folder})")
        except UserError as error:
            return _aborted(str(error))
        except SupersededError:
            raise  # nobody waits for this worker any more
        except MemoryError as error:
            return _failed(f"out of memory: {_first_line(error)}")
        except Exception as error:
            if not _is_out_of_gpu_memory(error):
                return _failed(f"{type(error).__name__}: {_first_line(error)}")
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()  # others share the GPU
            return _failed(f"out of GPU memory: {_first_line(error)}", crowded=True)
        if self._remote and (problem := self._put_away()):
            return problem
        return {"reports": [{**report, **here} for report in reports]}

    def _obituary(self) -> str | None:
        """Why an earlier worker of this session ended itself over this trial, if one did."""
        path = self._folder / OBITUARY
        record = read_json(path) if path.exists() else {}
        return record["reason"] if record.get("session") == self._session else None

    def _put_away(self) -> dict[str, Any] | None:
        """Puts what is new of the checkpoint into the object store; the reason to stop where that cannot be done."""
        try:
            for name in (BEST_WEIGHTS, STATE):
                path = self._folder / name
                if path.exists() and (version := _version(path)) != self._there.get(name):
                    patiently(partial(self._put, name), log.warning, name)
                    self._there[name] = version
        except UserError as error:
            return _aborted(str(error))
        return None

    def _put(self, name: str) -> None:
        """Puts a file of the checkpoint there, unless the trial is another worker's, by the time the store answers."""
        assert self._remote
        self._claim.check_remote()
        self._remote.write(name, (self._folder / name).read_bytes())

    def _take_up(self) -> None:
        """Brings the checkpoint of an earlier worker here; what lies here may be older, from before the trial moved."""
        assert self._remote
        patiently(self._claim.stake_remote, log.warning, "taking up a trial")
        for name in (STATE, BEST_WEIGHTS):
            if patiently(partial(self._remote.has, name), log.warning, name):
                content = patiently(partial(self._remote.read, name), log.warning, name)
                replace_file(self._folder / name, partial(_write, content))

    def _train(self, given: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        if not self._remote:
            check_mark(Path(given["study"]), given["mark"])
        trial = resolve(given["point"])
        device = data.choose_device()
        data.release(trial.data, trial.features)
        heap.tidy()  # of the trial before; how much is free decides whether this one's inputs stay in memory
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the last trial took is not this one's
            torch.cuda.reset_peak_memory_stats()
        dataset = data.load(trial.data)
        self._size = footprint(trial, data.input_shape(dataset, trial.features), len(dataset.split.classes))
        spare = self._check_memory() if device.type == "cpu" else None
        self._claim.stake()
        if self._remote:
            self._take_up()
        torch.set_num_threads(trial.threads)  # preparing inputs takes them too
        inputs = data.trial_data(trial.data, trial.features, device, spare, shared=True)
        heap.tidy()  # of preparing them
        for reports in loop.train_by_save(
            trial, inputs, self._folder, self._claim.check, given["rungs"], before_epoch=self._go_on
        ):
            if new := [asdict(report) for report in reports if report.epoch > given["reported"]]:
                yield new

    def _go_on(self) -> None:
        """Raises SupersededError where the trial was given away, before another epoch is trained for nobody."""
        self._claim.check()
        if self._remote:
            patiently(self._claim.check_remote, log.warning, "going on with a trial")

    def _check_memory(self) -> int:
        """The bytes of this trial's share that training leaves for its data.

        Raises MemoryError, with numbers, for a network that could not be trained in the share. What the worker trained
        before counts for nothing, so that the same trial meets the same answer whenever it comes.
        """
        needed = self._size.process_bytes
        if needed > self._memory_bytes:
            raise MemoryError(
                f"needs about {needed / 1e9:.1f} GB, a trial's share is {self._memory_bytes / 1e9:.1f} GB "
                f"(more with a larger --cpus-per-trial)"
            )
        return self._memory_bytes - needed


def gpu_memory_share() -> float | None:
    """The part of its GPU's memory that this process, alone there, took at its peak; None where Torch sees no GPU."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    given_back = torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()
    return (total - free + given_back) / total


def _version(path: Path) -> tuple[int, int]:
    """What tells a file from the one that it replaced, also where both were written within a tick of the clock."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _aborted(reason: str) -> dict[str, Any]:
    """A result that stops the study and not the trial: the node or the storage is at fault."""
    return {"abort": reason, "node": ray.util.get_node_ip_address()}


def _failed(reason: str, *, crowded: bool = False) -> dict[str, Any]:
    """A result that ends the trial; where a GPU was too `crowded`, a larger share of one may help."""
    return {"lost": reason, "crowded": crowded}


def _is_out_of_gpu_memory(error: Exception) -> bool:
    """Whether a GPU had too little memory left; CUDA and its libraries say so in words of their own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_GPU_MEMORY)
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def memory_share_bytes() -> int:
    """What this worker may use of its node's memory: its share of the node's cores or GPUs, less a reserve."""
    resources = ray.get_runtime_context().get_assigned_resources()
    node_id = ray.get_runtime_context().get_node_id()
    node = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == node_id)
    share = max((amount / node[name] for name, amount in resources.items() if name in ("CPU", "GPU")), default=1.0)
    return share_of_memory(share)


class MemoryWatch:
    """Ends this process, with the reason in the trial's folder, before it takes more memory than its share.

    Ray's own monitor would end it too, but with it the whole search; a worker that merely died is replaced.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._guarded: tuple[Claim, str] | None = None
        self._limit, self._process = limit_bytes, psutil.Process()
        threading.Thread(target=self._run, daemon=True).start()

    def guard(self, claim: Claim, session: str) -> None:
        """Names the trial that this process works on, and the session in which it does."""
        self._guarded = claim, session

    def used(self) -> int:
        """Bytes of memory of this process alone; the mapped corpus, shared by all, does not count."""
        memory = self._process.memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))

    def _run(self) -> None:
        while True:
            used = self.used()
            if used > self._limit or psutil.virtual_memory().percent > _SCARCE_PERCENT:
                heap.give_back()
                used = self.used()
            if used > self._limit and self._guarded is not None:
                claim, session = self._guarded
                reason = f"out of memory: {used / 1e9:.1f} GB used, {self._limit / 1e9:.1f} GB is a trial's share"
                with contextlib.suppress(SupersededError, OSError):
                    claim.check()
                    write_json(claim.folder / OBITUARY, {"reason": reason, "session": session})
                os._exit(1)
            time.sleep(_WATCH_SECONDS)
