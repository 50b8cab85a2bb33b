"""Where the time of an epoch goes, per family, as a table in Markdown.

python benchmarks/step.py [--data demo] [--families lstm blstm …] [--epochs 3] [--fix picture_size=64 …]

The default point of each family, moved to what is fixed, trains for some epochs after one to warm up, one thread, no
Ray. Processor time, by part: `batches` (gathering examples or computing them), `augmentation`, `forward`, `backward`,
`optimiser` (with clipping of gradients), `scoring` (the forward passes over tune), `metrics` (losses and counts). The
rest is Python between them. Networks that are made to be pretrained train from random weights, nothing frozen.
"""

import argparse
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from meter import Meter

sys.path.insert(0, str(Path(__file__).parent.parent))

import spaces
from search import adapt
from spaces.domains import Space
from trainables import corpora, data, loop
from trainables.config import DataConfig, point, resolve
from trainables.data import Part
from trainables.errors import UserError

PARTS = ("batches", "augmentation", "forward", "backward", "optimiser", "scoring", "metrics")


def metered(meter: Meter, part: Part) -> Part:
    """A split whose batches are counted."""
    return replace(part, fetch=meter.counted(part.fetch, "batches"))


def epochs(space: Space, config: DataConfig, n: int) -> tuple[int, Counter[str]]:
    """Training steps of an epoch, and processor seconds by part of `n` of them."""
    trial = resolve(point(space, space.default, data=config, seed=0, max_epochs=n + 1, threads=1))
    torch.set_num_threads(1)
    inputs = data.trial_data(trial.data, trial.features, torch.device("cpu"))
    meter = Meter()
    run = loop._Run(trial, replace(inputs, parts={k: metered(meter, part) for k, part in inputs.parts.items()}))
    for module in (run.augment, run.mixup):
        meter.wrap(module, "forward", part="augmentation")
    meter.wrap(run.model, "forward", part=lambda: "forward" if run.model.training else "scoring")
    meter.wrap(run, "_step", part="backward")
    meter.wrap(run.optimiser, "step", "zero_grad", part="optimiser")
    meter.wrap(run, "loss", part="metrics")
    clip, add = torch.nn.utils.clip_grad_norm_, loop._Outcome.add
    meter.wrap(torch.nn.utils, "clip_grad_norm_", part="optimiser")
    meter.wrap(loop._Outcome, "add", part="metrics")
    try:
        run.epoch()
        meter.switch("rest")
        meter.seconds.clear()
        for _ in range(n):
            run.epoch()
        meter.switch("rest")
    finally:
        torch.nn.utils.clip_grad_norm_, loop._Outcome.add = clip, add  # type: ignore[method-assign]
    return -(-len(inputs.parts["train"].labels) // trial.training.batch_size), meter.seconds


def main() -> None:
    """Prints a row per family as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--families", nargs="+", choices=spaces.names(), default=spaces.names())
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--fix", action="append", default=[])
    given = parser.parse_args()
    named = corpora.absolute(given.data)
    store = corpora.open_corpus(named)
    config = DataConfig(named, store.digest, corpora.tasks(named)[0], False, corpora.splits_of(named)[0], 0)
    print(f"| family | steps | ms a step, all in | {' | '.join(f'{part} %' for part in (*PARTS, 'rest'))} |")
    print(f"|---|{'--:|' * (len(PARTS) + 3)}")
    for name in given.families:
        space = adapt.fitted(spaces.load(name), store.clip_seconds)
        space = adapt.fixed(adapt.weighted(space, "none" if space.network == "pretrained" else ""), given.fix)
        steps, seconds = epochs(space, config, given.epochs)
        whole = sum(seconds.values())
        shares = " | ".join(f"{100 * seconds[part] / whole:.1f}" for part in (*PARTS, "rest"))
        print(f"| {name} | {steps} | {1e3 * whole / steps / given.epochs:.1f} | {shares} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
