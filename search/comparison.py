"""Several families on one corpus: a study of each under equal budgets, on one cluster, and one leaderboard.

    studies/NAME/families.json    which families
    studies/NAME/FAMILY/          a study each, as if it had been run alone
    studies/NAME/leaderboard.*    what came out, as JSON and CSV

Families never share a bracket of ASHA: slow starters would lose at equal epochs. They are compared across studies.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import spaces
from search import adapt, options, places
from search.mirror import address_of, mirror_of
from search.options import Corpus, Options
from search.progress import Terminal, duration, trial_name, unbroken
from search.records import BASELINES, EPOCHS, FAMILIES, SPEC, TRIALS, locked
from search.study import StudySpec, choose
from trainables.errors import UserError
from trainables.files import read_json, write_json

# What a comparison takes over when it is resumed: everything that its studies are made of.
KEPT = (
    *("data", "task", "split", "fix", "weights", "keep_synth_lead"),
    *("trials", "max_epochs", "grace_epochs", "reduction_factor", "no_baselines", "seed", "budget"),
    *("concurrency", "cpus_per_trial", "gpus_per_trial", "address"),
)

Settled = tuple[Options, StudySpec, Path, Corpus]


def asked(given: Options) -> bool:
    """Whether the options ask for several families, or to go on with such a comparison."""
    if given.space is not None:
        return given.space == "all" or "," in given.space
    return given.resume and given.name is not None and (places.storage(given) / given.name / FAMILIES).exists()


def settle(given: Options, progress: Callable[[str, int, int], None]) -> tuple[Path, Options, list[Settled]]:
    """The comparison's directory, its options and each family's study, all checked first; raises UserError."""
    if given.baseline:
        came = "--space came too" if given.space else f"{given.name} is a comparison of families"
        raise UserError(f"--baseline runs one recipe alone, but {came}. Leave one out.")
    given = _as_before(given)
    root, names = _place(given)
    adapt.known((param.name for name in names for param in spaces.load(name).params), given.fix)
    studies = []
    for name in names:
        own = _of_family(given, root, name, len(names))
        studies.append((own, *options.settle(own, progress)))
    # As the studies have it, so that it means the same wherever they are gone on with.
    weights = next((spec.weights for _, spec, _, _ in studies if spec.weights), given.weights)
    return root, replace(given, data=studies[0][1].data.corpus, weights=weights), studies


def run(root: Path, given: Options, studies: list[Settled], terminal: Terminal) -> dict[str, Any]:
    """Runs what is left of each study; the leaderboard. Its `state` is "finished", "failed" or "interrupted"."""
    with locked(root):
        before = read_json(root / FAMILIES) if (root / FAMILIES).exists() else None
        if before is not None and not given.resume:
            raise UserError(
                f"A study's name must be new, but another process has begun {address_of(root)} meanwhile. Choose "
                f"another --name."
            )
        lengths = _lengths(studies)
        families = [spec.space.name for _, spec, _, _ in studies]
        _note(root, {"families": families, "options": {name: getattr(given, name) for name in KEPT}})
        try:
            return _run(root, given, studies, terminal)
        except UserError:
            if before and _lengths(studies) == lengths:  # nothing was trained with what was asked for this time
                _note(root, before)
            raise


def _run(root: Path, given: Options, studies: list[Settled], terminal: Terminal) -> dict[str, Any]:
    from search.session import run_session, running_ray
    from search.summary import describe, resume_command

    summaries: dict[str, dict[str, Any]] = {}
    with running_ray(given.address, root / "logs" / "search.log", terminal):
        for number, (own, spec, directory, corpus) in enumerate(studies, start=1):
            terminal.say("")
            terminal.say(f"{spec.space.title}: study {number} of {len(studies)}")
            found = run_session(own, spec, directory, corpus, terminal)
            summaries[spec.space.name] = found
            if found["state"] == "interrupted":
                return {"state": "interrupted", "directory": address_of(root), "resume": resume_command(root)}
            terminal.show(describe(found, corpus.split))
    board = leaderboard(root, summaries, studies[0][3].split.doubts())
    write_json(root / "leaderboard.json", board)
    pd.DataFrame(board["rows"]).to_csv(root / "leaderboard.csv", index=False)
    if mirror := mirror_of(root):
        mirror.push("leaderboard.json", "leaderboard.csv")
    return board


def _note(root: Path, record: dict[str, Any]) -> None:
    """Writes which families a comparison has, and with which options."""
    write_json(root / FAMILIES, record)
    if mirror := mirror_of(root):
        mirror.push(FAMILIES)


def _lengths(studies: list[Settled]) -> list[int]:
    """How much of each study's journal tells of epochs."""
    files = [directory / EPOCHS for _, _, directory, _ in studies]
    return [path.stat().st_size if path.exists() else 0 for path in files]


def _as_before(given: Options) -> Options:
    """The options; on a resume, what is left out is as it was, also for families that have not begun."""
    record = places.storage(given) / (given.name or "") / FAMILIES
    if not given.resume or not record.is_file():
        return given
    before = _read(record)["options"]
    kept = {name: before[name] for name in KEPT if name in before and getattr(given, name) in (None, ())}
    return replace(given, **{**kept, "fix": tuple(kept.get("fix", given.fix))})


def _read(record: Path) -> dict[str, Any]:
    """The families and options of a comparison; raises UserError."""
    try:
        content = read_json(record)
        if all(isinstance(name, str) for name in content["families"]) and isinstance(content["options"], dict):
            return dict(content)
        problem = "it names no families or options"
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise UserError(
        f"A comparison's {FAMILIES} must be readable, but {record} is not ({problem}). Restore it from a copy."
    )


def _place(given: Options) -> tuple[Path, list[str]]:
    """The directory and the families; raises UserError where the one is taken or the others are unknown."""
    storage = places.storage(given)
    if given.resume:
        if given.name is None or not (storage / given.name / FAMILIES).exists():
            known = ", ".join(sorted(path.parent.name for path in storage.glob(f"*/{FAMILIES}"))) or "none"
            raise UserError(
                f"--resume needs the --name of a comparison of families. In {address_of(storage)} there are: {known}."
            )
        before: list[str] = _read(storage / given.name / FAMILIES)["families"]
        if given.space is not None and _families(given.space) != before:
            raise UserError(
                f"A comparison keeps to its families, {', '.join(before)}, but --space is {given.space!r}. "
                f"Leave it out."
            )
        return storage / given.name, before
    names = _families(str(given.space))
    data = given.data or "demo"
    return places.directory(replace(given, baseline=None), "all" if given.space == "all" else "families", data), names


def _families(space: str) -> list[str]:
    """The families that `--space` names, in the order in which they are searched; raises UserError."""
    wanted = spaces.names() if space == "all" else [name.strip() for name in space.split(",")]
    return [choose("space", name, spaces.names()) for name in dict.fromkeys(wanted)]


def _of_family(given: Options, root: Path, name: str, count: int) -> Options:
    """The options of one family's study: an equal part of the budget, and what concerns it."""
    _clear_half_made(root / name)
    space = spaces.load(name)
    params = {param.name for param in space.params}
    return replace(
        given,
        space=name,
        name=name,
        storage=str(root),
        resume=(root / name / SPEC).exists(),
        budget=given.budget / count if given.budget else None,
        fix=tuple(wish for wish in given.fix if adapt.parameter(wish) in params),
        weights=given.weights if "weights_file" in space.settings else None,
    )


def _clear_half_made(directory: Path) -> None:
    """Removes the empty journals of a family's study that was killed before it began; raises UserError if it had begun.

    Whatever else lies there is not ours to remove: a folder that is not empty is refused as for any new study.
    """
    if not directory.is_dir() or (directory / SPEC).exists():
        return
    journals = [directory / name for name in (TRIALS, EPOCHS) if (directory / name).exists()]
    if any(path.stat().st_size for path in journals):
        raise UserError(
            f"A study's {SPEC} must be there, but it is missing in {directory}, which holds trials. Restore it from a "
            f"copy, or remove the folder to search that family anew."
        )
    for path in journals:
        path.unlink()


def leaderboard(root: Path, summaries: dict[str, dict[str, Any]], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Every family's chosen model and its baselines, by tune score, and how the first compares on test."""
    asked = {family: found["trials"]["asked"] for family, found in summaries.items()}
    if len(set(asked.values())) > 1:
        counts = ", ".join(f"{family} {trials}" for family, trials in asked.items())
        warnings = [f"These searches are not equal, they were given different numbers of trials: {counts}.", *warnings]
    rows = [row for family, found in summaries.items() for row in _rows(family, found)]
    rows.sort(key=lambda row: -row["tune_balanced_accuracy"])
    best = [row for row in rows if row["chosen"]]
    baselines = [row for row in rows if not row["chosen"]]
    return {
        "state": "finished" if best else "failed",
        "directory": address_of(root),
        "rows": rows,
        "first_against": _against(root, best[0], best[1:], "family") if best else {},
        "first_against_baselines": _against(root, best[0], baselines, "baseline") if best else {},
        "warnings": list(warnings),
        "failed": sorted(family for family, found in summaries.items() if not found["best"]),
        "wall_seconds": sum(found["wall_seconds"] for found in summaries.values()),
    }


def _rows(family: str, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    baselines = list(found["baselines"].values())
    for entry in ([found["best"]] if found["best"] else []) + baselines:
        chosen = entry is found["best"]
        if not chosen and found["best"] and entry["trial"] == found["best"]["trial"]:
            continue
        splits = entry["splits"]
        limits = splits["test"]["balanced_accuracy_interval"]
        yield {
            "family": family,
            "name": "default" if entry["origin"] == "default" else trial_name(entry),
            "chosen": chosen,
            "baseline": entry["baseline"],
            "changes": "; ".join(entry["changes"]),
            **{f"{name}_balanced_accuracy": splits[name]["balanced_accuracy"] for name in ("tune", "valid", "test")},
            **dict(zip(("test_interval_low", "test_interval_high"), limits or (None, None), strict=True)),
            "test_accuracy": splits["test"]["accuracy"],
            "test_macro_f1": splits["test"]["macro_f1"],
            "trainable_parameters": entry["trainable_parameters"],
            "training_seconds": entry["training_seconds"],
            "prediction_ms": entry["prediction_ms"],
        }


def _against(root: Path, first: dict[str, Any], others: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """A model's lead on test over others, from the stored predictions."""
    from trainables.scoring import difference

    table = _predictions(root, first)
    return {row[key]: difference(table, _predictions(root, row), "test") for row in others}


def _predictions(root: Path, row: dict[str, Any]) -> pd.DataFrame:
    best = root / row["family"] / "best"
    return pd.read_parquet((best if row["chosen"] else best / BASELINES / row["baseline"]) / "predictions.parquet")


def describe_leaderboard(board: dict[str, Any]) -> RenderableType:
    """The end of a comparison on the terminal; fits 80 columns."""
    from search.summary import interval, report_command, verdict  # only here: Optuna takes its time to import

    if board["state"] == "interrupted":
        return Group("", Text("Interrupted. Go on with:"), unbroken(f"  {board['resume']}", style="bold"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("balanced accuracy", overflow="fold")
    for name in ("tune", "valid", "test", "interval", "weights", "train", "ms"):
        table.add_column(name, justify="right", no_wrap=True, min_width=5)
    for row in board["rows"]:
        changed = " *" if row["changes"] else ""
        limits = [row["test_interval_low"], row["test_interval_high"]]
        table.add_row(
            (f"{row['family']} {row['name']}" if row["chosen"] else f"  {row['name']}") + changed,
            *(f"{row[f'{split}_balanced_accuracy']:.3f}" for split in ("tune", "valid", "test")),
            interval(None if None in limits else limits).replace(" ", ""),
            _short(row["trainable_parameters"]),
            duration(row["training_seconds"]),
            f"{row['prediction_ms']:.1f}",
            style="bold" if row["chosen"] else "",
        )
    words = [f"{family} has no trial at full length." for family in board["failed"]]
    words += [f"* {name}: {changes}" for name, changes in _changes(board["rows"]).items()]
    first = next((row["family"] for row in board["rows"] if row["chosen"]), "")
    words += [f"On test {first} is {verdict(family, row)}" for family, row in board["first_against"].items()]
    words += [f"On test {first} is {verdict(name, row)}" for name, row in board["first_against_baselines"].items()]
    words += [f"Warning: {warning[0].lower()}{warning[1:]}" for warning in board["warnings"]]
    words.append(
        f"Sorted by tune, by which each was chosen; intervals (95 %) are of test; train is the time training took, ms "
        f"the time to score a clip. {duration(board['wall_seconds'])} in "
        f"all. Everything lies in {board['directory']}. Every figure and table on one page:"
    )
    report = unbroken(f"  {report_command(board['directory'])}")
    return Group("", table, "", *(Text(word) for word in words), report)


def _changes(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {row["name"]: row["changes"] for row in rows if row["changes"]}


def _short(count: int) -> str:
    """A number of weights in four characters or so."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
