"""Where the time of an epoch goes, per family, as a table in Markdown.

python benchmarks/step.py [--data demo] [--families lstm,blstm,…] [--epochs 3]

The default point of each family trains for some epochs after one to warm up, one thread, no Ray. Processor time, by
part: `batches` (gathering examples or computing them), `augmentation`, `forward`, `backward`, `optimiser` (with
clipping of gradients), `scoring` (the forward passes over tune), `metrics` (losses and counts). The rest is Python
between them.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import spaces
from search import adapt
from spaces.domains import Space
from trainables import corpora, data, loop
from trainables.config import DataConfig, resolve
from trainables.data import Part

PARTS = ("batches", "augmentation", "forward", "backward", "optimiser", "scoring", "metrics")


class Clock:
    """Processor seconds by part. What one part calls of another counts as the inner one's."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._part, self._since = "rest", process_time()

    def timed(self, part: str | Callable[[], str], function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts as `part`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(part if isinstance(part, str) else part())
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        return call

    def switch(self, part: str) -> str:
        """Counts what follows as `part`; the part before."""
        now, before = process_time(), self._part
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before


def timed_part(clock: Clock, part: Part) -> Part:
    """A split whose batches are timed."""
    return replace(part, fetch=clock.timed("batches", part.fetch))


def epochs(space: Space, config: DataConfig, n: int) -> tuple[int, Counter[str]]:
    """Training steps of an epoch, and processor seconds by part of `n` of them."""
    trial = resolve(space, space.default, data=config, seed=0, max_epochs=n + 1, threads=1)
    torch.set_num_threads(1)
    inputs = data.trial_data(trial.data, trial.features, torch.device("cpu"))
    clock = Clock()
    run = loop._Run(trial, replace(inputs, parts={k: timed_part(clock, part) for k, part in inputs.parts.items()}))
    for module in (run.augment, run.mixup):
        module.forward = clock.timed("augmentation", module.forward)
    run.model.forward = clock.timed(lambda: "forward" if run.model.training else "scoring", run.model.forward)
    run._step = clock.timed("backward", run._step)  # type: ignore[method-assign]
    for name in ("step", "zero_grad"):
        setattr(run.optimiser, name, clock.timed("optimiser", getattr(run.optimiser, name)))
    run.loss = clock.timed("metrics", run.loss)
    clip, add = torch.nn.utils.clip_grad_norm_, loop._Outcome.add
    torch.nn.utils.clip_grad_norm_ = clock.timed("optimiser", clip)
    loop._Outcome.add = clock.timed("metrics", add)  # type: ignore[method-assign]
    try:
        run.epoch()
        clock.switch("rest")
        clock.seconds.clear()
        for _ in range(n):
            run.epoch()
        clock.switch("rest")
    finally:
        torch.nn.utils.clip_grad_norm_, loop._Outcome.add = clip, add  # type: ignore[method-assign]
    return -(-len(inputs.parts["train"].labels) // trial.training.batch_size), clock.seconds


def main() -> None:
    """Prints a row per family as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--families", default=",".join(spaces.names()))
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    named = corpora.absolute(given.data)
    store = corpora.open_corpus(named)
    config = DataConfig(named, store.digest, corpora.tasks(named)[0], False, corpora.splits_of(named)[0], 0)
    print(f"| family | steps | ms a step, all in | {' | '.join(f'{part} %' for part in (*PARTS, 'rest'))} |")
    print(f"|---|{'--:|' * (len(PARTS) + 3)}")
    for name in given.families.split(","):
        space = adapt.fitted(spaces.load(name), store.clip_seconds)
        steps, seconds = epochs(space, config, given.epochs)
        whole = sum(seconds.values())
        shares = " | ".join(f"{100 * seconds[part] / whole:.1f}" for part in (*PARTS, "rest"))
        print(f"| {name} | {steps} | {1e3 * whole / steps / given.epochs:.1f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
