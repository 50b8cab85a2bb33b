"""Markdown tables of the runs: medians, with the lowest and the highest beside them."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
FLOOR = "plain loop"
OURS, STOCK, ALONE = "this project", "stock Ray Tune", "Optuna alone"
# Where the fixed score lies between nothing and the best of the list, trained in full.
TARGET_SHARE = 0.95


def spread(values: Sequence[float | None], digits: int = 1, factor: float = 1.0) -> str:
    """Median (lowest–highest); a dash where there is nothing, or a run that never got there."""
    if not values or any(value is None for value in values):
        return "–"
    low, middle, high = min(values), statistics.median(values), max(values)  # type: ignore[type-var]
    words = [f"{value * factor:.{digits}f}" for value in (middle, low, high)]  # type: ignore[operator]
    return words[0] if len(values) == 1 else f"{words[0]} ({words[1]}–{words[2]})"


def steady(row: Row) -> float:
    """Epochs a second and slot, between the first epoch and that with which nine tenths were done."""
    times = row["epoch_times"]
    last = max(1, int(0.9 * len(times)) - 1)
    return last / max(1e-9, times[last] - times[0]) / row["slots"] if len(times) > 1 else float("nan")


def reached(row: Row, target: float) -> float | None:
    """Seconds from the command until a trial had the score."""
    return next((seconds for seconds, best in row["best"] if best >= target), None)


def against(rows: Sequence[Row], tool: str, other: str, value: Callable[[Row], float]) -> list[float]:
    """One tool's value over another's, round by round."""
    others = {row["round"]: value(row) for row in rows if row["tool"] == other}
    return [value(row) / others[row["round"]] for row in rows if row["tool"] == tool and row["round"] in others]


def trials_per_hour(row: Row) -> float:
    """Trials of the list per hour of the whole command."""
    return float(3600 * len(row["scores"]) / row["wall_seconds"])


def table(rows: Sequence[Row]) -> str:
    """One table of a family, a size and a mode."""
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    floor = [row for row in rows if row["tool"] == FLOOR]
    full = [score for row in floor for score in row["scores"].values()]
    target = TARGET_SHARE * max(full) if full else None
    head = (
        "tool", "wall s", "trials/h", "CPU used %", "CPU s", "memory GB", "first epoch s",
        f"to {target:.3f} s" if target else "to score s", "epochs", "steady, of the loop %", "whole, of the loop %",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for tool in tools:
        own = [row for row in rows if row["tool"] == tool]
        cells = (
            tool,
            spread([row["wall_seconds"] for row in own]),
            spread([trials_per_hour(row) for row in own], 0),
            spread([row["cpu_seconds"] / row["wall_seconds"] / row["slots"] for row in own], 0, 100),
            spread([row["cpu_seconds"] for row in own], 0),
            spread([row["peak_bytes"] for row in own], 2, 1e-9),
            spread([row["epoch_times"][0] for row in own]),
            spread([reached(row, target) for row in own]) if target else "–",
            spread([len(row["epoch_times"]) for row in own], 0),
            spread(against(rows, tool, FLOOR, steady), 0, 100),
            spread(against(rows, tool, FLOOR, trials_per_hour), 0, 100),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join((*lines, "", *remarks(rows)))


def remarks(rows: Sequence[Row]) -> list[str]:
    """What the table says of this project against the others, and whether all trained the same."""
    found = []
    for other in (STOCK, ALONE):
        if ratios := against(rows, OURS, other, trials_per_hour):
            found.append(f"Trials per hour of this project over those of {other}: {spread(ratios, 2)}.")
    per_trial = [row["slots"] * row["train_seconds"] / len(row["scores"]) for row in rows if row["tool"] == FLOOR]
    if per_trial:
        found.append(f"A trial takes {spread(per_trial)} s in the plain loop, on average over the list.")
    if rows and not rows[0]["stopping"]:
        scores = {tuple(sorted(row["scores"].items())) for row in rows}
        found.append(
            "All tools reached the same score with every configuration."
            if len(scores) == 1
            else f"NOT all runs reached the same scores: {len(scores)} different lists."
        )
    return found


def memory_table(rows: Sequence[Row]) -> str:
    """This project's memory by the number of trials at a time."""
    slots = sorted({row["slots"] for row in rows})
    lines = ["| trials at a time | memory MB | one more MB |", "|--:|--:|--:|"]
    before: dict[int, float] = {}
    for n in slots:
        now = {row["round"]: row["peak_bytes"] for row in rows if row["slots"] == n}
        more = [now[key] - before[key] for key in now if key in before]
        lines.append(f"| {n} | {spread(list(now.values()), 0, 1e-6)} | {spread(more, 0, 1e-6)} |")
        before = now
    return "\n".join(lines)
