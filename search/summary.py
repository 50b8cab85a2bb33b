"""What came out of a study, as one record and as words for the terminal."""

import math
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.engine import Engine, State
from search.mirror import address_of
from search.progress import duration, trial_name, unbroken
from search.records import FAMILIES, SUBMISSION
from search.study import METRIC
from trainables.corpora.splits import Split
from trainables.corpora.wording import counted


def summary(engine: Engine, state: str, *, finished: dict[str, Any] | None, wall_seconds: float) -> dict[str, Any]:
    """How a study stands. `best` and `baselines` hold what `metrics.json` holds for each, once they are scored."""
    spec, states = engine.spec, Counter(trial.state for trial in engine.trials)
    stopped = Counter(trial.epoch for trial in engine.trials if trial.state is State.PRUNED)
    return {
        "name": spec.name,
        "state": state,
        "directory": address_of(engine.journal.directory),
        "resume": resume_command(engine.journal.directory),
        "space": spec.space.name,
        "data": spec.data.corpus,
        "task": spec.data.task,
        "metric": METRIC,
        "trials": {**{str(s): states[s] for s in State}, "to_start": engine.to_start, "asked": spec.trials},
        "stopped_at": {str(epoch): n for epoch, n in sorted(stopped.items())},
        "max_epochs": spec.max_epochs,
        "epochs": sum(trial.epoch for trial in engine.trials),
        "wall_seconds": round(wall_seconds, 1),
        "failures": {str(t.number): t.reason for t in engine.trials if t.state is State.FAILED},
        "best": finished and finished["best"],
        "baselines": (finished or {}).get("baselines", {}),
        "against_baselines": (finished or {}).get("against_baselines", {}),
        "submission": (engine.journal.directory / "best" / SUBMISSION).exists(),
    }


def resume_command(directory: Path) -> str:
    """The command that goes on with a study, or with the comparison that it is part of, to be pasted as it is."""
    if (directory.parent / FAMILIES).exists():
        directory = directory.parent
    command = [_python(), _from_here(Path(__file__).with_name("run.py")), "--resume", "--name", directory.name]
    if directory.parent != Path("studies").absolute():
        command += ["--storage", address_of(directory.parent)]
    return shlex.join(command)


def report_command(directory: str) -> str:
    """The command that draws a study's figures, to be pasted as it is."""
    return shlex.join([_python(), "-m", "analysis", directory])


def _python() -> str:
    """This Python as a command: its name alone where that finds it, as in an active environment."""
    name = Path(sys.executable).name
    return name if shutil.which(name) == sys.executable else _from_here(Path(sys.executable))


def _from_here(path: Path) -> str:
    """A path as it is shortest for the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def describe(found: dict[str, Any], split: Split) -> RenderableType:
    """The end of a run on the terminal."""
    parts: list[RenderableType] = [Text(f"{_trials(found)}; {duration(found['wall_seconds'])}.")]
    if found["failures"]:
        number, reason = next(iter(found["failures"].items()))
        parts.append(Text(f"{len(found['failures'])} failed; trial {number}: {reason}"))
    if found["state"] == "interrupted":
        parts += [Text("Interrupted. Go on with:"), unbroken(f"  {found['resume']}", style="bold")]
        return Group(*parts)
    best = found["best"]
    if best is None:
        parts.append(Text("No trial reached full length, so none can be chosen."))
        if found["trials"]["running"] or found["trials"]["to_start"]:
            parts.append(Text("The budget was spent before; go on with a larger one, such as:"))
            hours = max(2, math.ceil(4 * found["wall_seconds"] / 3600))
            parts.append(unbroken(f"  {found['resume']} --budget {hours}h", style="bold"))
        else:
            parts.append(Text("A trial that failed is not tried again: put right what made them fail, and begin anew."))
        return Group(*parts)
    parts += ["", _table(best, found["baselines"]), "", *_words(found, split), "", unbroken(_where(found))]
    return Group(*parts)


def _trials(found: dict[str, Any]) -> str:
    trials = found["trials"]
    stopped = ", ".join(f"{n} at {epoch}" for epoch, n in found["stopped_at"].items())
    text = (
        f"{counted(sum(trials[s] for s in State), 'trial', 'trials')}, {counted(found['epochs'], 'epoch', 'epochs')}: "
    )
    text += f"{trials['complete']} trained in full (to epoch {found['max_epochs']} or their own end)"
    text += f", {trials['pruned']} stopped early ({stopped})" if stopped else ""
    if trials["running"]:
        text += f", {trials['running']} unfinished"
    return text


def _table(best: dict[str, Any], baselines: dict[str, dict[str, Any]]) -> Table:
    """Balanced accuracy on every split and accuracy on test; fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("balanced accuracy", no_wrap=True)
    for name in ("tune", "valid", "test", "interval", "accuracy", "weights"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in ((trial_name(best), best), *((k, v) for k, v in baselines.items() if v["trial"] != best["trial"])):
        splits = row["splits"]
        table.add_row(
            name,
            *(f"{splits[split]['balanced_accuracy']:.4f}" for split in ("tune", "valid", "test")),
            interval(splits["test"]["balanced_accuracy_interval"]),
            f"{splits['test']['accuracy']:.4f}",
            f"{row['trainable_parameters']:,}",
            style="bold" if row is best else "",
        )
    return table


def interval(limits: list[float] | None) -> str:
    """An interval of scores, or a dash where there is none."""
    return "–" if limits is None else f"{limits[0]:.2f} … {limits[1]:.2f}"


def verdict(name: str, row: dict[str, Any]) -> str:
    """How a model compares with the one of that `name`, from their paired difference."""
    gap = f"{row['difference']:+.3f}"
    if row["interval"] is None:
        return f"{gap} from {name}, no interval: some class has a single clip there."
    low, high = row["interval"]
    words = "above" if low > 0 else "below" if high < 0 else "not distinguishable from"
    return f"{words} {name}: {gap} (95 % interval {low:+.3f} to {high:+.3f})."


def _words(found: dict[str, Any], split: Split) -> list[Text]:
    best, test = found["best"], found["best"]["splits"]["test"]
    params = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in best["params"].items())
    when = f"epoch {best['best_epoch']} of {best['epochs']}"
    words = [Text(f"Chosen by its tune score: {trial_name(best)}, as of {when}: {params}")]
    if (again := best.get("score_again")) is not None:
        words.append(
            Text(
                f"Its weights were lost and trained again, on another kind of machine or a GPU: what is scored has "
                f"{again:.4f} on tune where {best['score']:.4f} was chosen.",
                style="bold",
            )
        )
    words += [Text(f"On test it is {verdict(name, row)}") for name, row in found["against_baselines"].items()]
    words.append(
        Text(
            f"Interval (95 %) and accuracy are of test, scored after the choice. Intervals resample "
            f"{counted(test['groups'], 'group', 'groups')} (instruments, artists and the like) and the clips in them; "
            f"chance is {split.chance('test'):.3f}."
        )
    )
    if found["baselines"]:
        words.append(
            Text(
                f"Baselines trained on the same data for up to {found['max_epochs']} epochs; figures published for "
                f"them are of another corpus."
            )
        )
        words += [
            Text(f"{name} was changed for this study: {', '.join(row['changes'])}.")
            for name, row in found["baselines"].items()
            if row["changes"]
        ]
    return words + [Text(f"Warning: {doubt}", style="bold") for doubt in _doubts(found, split)]


def _doubts(found: dict[str, Any], split: Split) -> Iterator[str]:
    """What a reader should know before believing the numbers; the report's page says more."""
    best = found["best"]
    sampled = sum(found["trials"][state] for state in State) > len(found["baselines"]) + 1
    if best["origin"] != "sampled" and sampled:
        what = f"published recipe {best['baseline']}" if best["baseline"] else "family's default"
        yield f"the search found nothing better than the {what}; more --trials or --max-epochs may."
    for name in ("tune", "test"):
        score, chance = best["splits"][name]["balanced_accuracy"], split.chance(name)
        if chance == 1:
            yield f"{name} holds a single class, so that scores on it say nothing."
        elif score <= 1.2 * chance:
            how = "hardly" if score > chance + 1e-9 else "no"
            yield f"{score:.3f} on {name} is {how} better than chance, {chance:.3f}."
    accuracy, share = best["splits"]["test"]["accuracy"], split.majority_share("test")
    if accuracy <= share < 1:
        yield f"an accuracy of {accuracy:.3f} on test is no more than always naming its largest class has, {share:.3f}."
    yield from (doubt[0].lower() + doubt[1:] for doubt in split.doubts())


def _where(found: dict[str, Any]) -> str:
    folder = found["directory"]
    lines = [
        f"Everything lies in {folder}:",
        "  best/            weights, config, metrics, predictions of the chosen model",
    ]
    if found["baselines"]:
        lines.append("  best/baselines/  the same of each baseline")
    if found["submission"]:
        lines.append("  best/submission.csv  its answers for the unlabelled clips")
    own_words = "" if "://" in folder else "; logs/ Ray's own words"
    lines += [
        "  study.json       what was asked; trials.jsonl, epochs.jsonl what happened",
        f"  quarantine.csv   recordings left out, with reasons{own_words}",
        "Every figure and table on one page:",
        f"  {report_command(folder)}",
    ]
    return "\n".join(lines)
