"""Which trials are the best: overall, per family, per loss, under a limit; and which are on the Pareto front."""

import pandas as pd

from trainables.errors import UserError

# What is better when it is smaller; all other numbers are better when they are larger.
_COSTS = ("loss", "cross_entropy", "seconds", "parameters", "bytes", "epochs", "_ms", "gpu_share")


def best(
    trials: pd.DataFrame,
    by: str = "score",
    per: str | list[str] | None = None,
    where: str | None = None,
    n: int = 1,
    partial: bool = False,
) -> pd.DataFrame:
    """The `n` best trials of a trial dataframe, best first, with all their columns; raises UserError.

    `by` names the column that decides: higher is better, but lower for losses, times, sizes and memory. `per` names
    columns by whose values the trials are grouped, with `n` of each group (`per="family"`, `per="param.loss"`); rows
    without a value there form no group. `where` is a condition in the words of `DataFrame.query`, for example
    `"trainable_parameters < 100_000"` or ``"`param.loss` == 'ce'"``.

    Only trials at full length count, since scores after different numbers of epochs cannot be compared; `partial`
    lets in those that were stopped, are still running, or failed after some epochs. A trial that misses a value in
    `by`, or one that `where` asks for, is never among the best. Of equals the one with the lower number comes first,
    then the study's name.
    """
    wanted = [by, *([per] if isinstance(per, str) else per or [])]
    for name in wanted:
        if name not in trials:
            near = sorted((str(c) for c in trials if name in str(c)), key=lambda c: not c.startswith("param."))[:3]
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise UserError(f"A column of the trial dataframe must be named, but there is no {name!r}.{hint}")
    found = trials if partial else trials[trials["full"]]
    if where:
        try:
            found = found.query(where)
        except Exception as error:  # pandas passes on whatever the expression raises
            raise UserError(
                f"`where` must be a condition for DataFrame.query, but {where!r} is not ({type(error).__name__}: "
                f"{error}). Names with a dot stand in backquotes: `param.loss`."
            ) from error
    found = found.dropna(subset=wanted)
    found = found.sort_values([by, "trial", "study"], ascending=[lower_is_better(by), True, True], kind="stable")
    if per is None:
        return found.head(n)
    return found.groupby(per, sort=False, observed=True).head(n)


def lower_is_better(column: str) -> bool:
    """Whether a column holds a cost."""
    return column.endswith(_COSTS)


def pareto(trials: pd.DataFrame, cost: str, gain: str = "score") -> "pd.Series[bool]":
    """Whether each trial is on the front: no other costs at most as much and gains at least as much, unless equal.

    Of trials equal in both, all are on it or none. Trials that miss either value are not.
    """
    known = trials[[cost, gain]].dropna().sort_values([cost, gain], ascending=[True, False], kind="stable")
    best_so_far = known[gain].cummax()
    before = known.groupby(cost, sort=True)[gain].max().cummax().shift()
    least_before = known[cost].map(before).astype("float64").fillna(float("-inf"))
    at_cost = known.groupby(cost)[gain].transform("max")
    front = (known[gain].astype("float64") > least_before) & known[gain].eq(at_cost) & known[gain].eq(best_so_far)
    return front.reindex(trials.index, fill_value=False).astype(bool)
