"""The vocabulary of a search space: domains, conditions, baselines. All of it is data and survives JSON."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

Value = float | int | str
Params = dict[str, Value]


class Asker(Protocol):
    """What a space needs of the trial that it asks: Optuna's three suggest methods."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float:
        """A float in [low, high]."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...) -> int:
        """An int in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""
        ...


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], sampled on a logarithmic scale where `log`."""

    low: float
    high: float
    log: bool = False

    def ask(self, trial: Asker, name: str) -> Value:
        """The value that `trial` proposes under `name`."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __contains__(self, value: object) -> bool:
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def corners(self) -> tuple[Value, ...]:
        """Both ends of the range."""
        return (self.low, self.high)

    def nearest(self, value: Value) -> Value:
        """The value of the range that is closest."""
        return min(max(float(value), self.low), self.high) if _is_number(value) else self.low

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}" + (" (log)" if self.log else "")


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high] in steps of `step`, or on a logarithmic scale where `log`."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def ask(self, trial: Asker, name: str) -> Value:
        """The value that `trial` proposes under `name`."""
        if self.log:
            return trial.suggest_int(name, self.low, self.high, log=True)
        return trial.suggest_int(name, self.low, self.high, step=self.step)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            return False
        return self.log or (value - self.low) % self.step == 0

    def corners(self) -> tuple[Value, ...]:
        """Both ends of the range."""
        return (self.low, self.high)

    def nearest(self, value: Value) -> Value:
        """The value of the range that is closest."""
        if not _is_number(value):
            return self.low
        step = 1 if self.log else self.step
        inside = min(max(float(value), self.low), self.high)
        return self.low + round((inside - self.low) / step) * step

    def __str__(self) -> str:
        how = " (log)" if self.log else f" (step {self.step})" if self.step != 1 else ""
        return f"{self.low} … {self.high}{how}"


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    options: tuple[Value, ...]

    def ask(self, trial: Asker, name: str) -> Value:
        """The value that `trial` proposes under `name`."""
        value: Value = trial.suggest_categorical(name, self.options)
        return value

    def __contains__(self, value: object) -> bool:
        return any(value == option and type(value) is type(option) for option in self.options)

    def corners(self) -> tuple[Value, ...]:
        """Every option."""
        return self.options

    def nearest(self, value: Value) -> Value:
        """The value itself, the closest number, or the first option."""
        numbers = [option for option in self.options if _is_number(option)]
        if value in self or not _is_number(value) or not numbers:
            return value if value in self else self.options[0]
        return min(numbers, key=lambda option: abs(float(option) - float(value)))

    def __str__(self) -> str:
        return " | ".join(str(option) for option in self.options)


Domain = Float | Int | Choice
_KINDS: dict[str, type[Domain]] = {"float": Float, "int": Int, "choice": Choice}


@dataclass(frozen=True)
class Param:
    """One hyperparameter: its name, its domain and when it exists at all.

    `when` maps the name of an earlier parameter to the values under which this one is asked for; every entry
    must hold. One name has one domain, whatever the condition: samplers and importances rely on it.
    """

    name: str
    domain: Domain
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def applies(self, params: Mapping[str, Value]) -> bool:
        """Whether this parameter exists beside the values chosen so far."""
        return all(params.get(name) in values for name, values in self.when.items())


@dataclass(frozen=True)
class Baseline:
    """A published recipe as a point of the space, so that every study measures itself against it.

    `settings` override the space's own (never sampled) settings; `epochs` is the published length of training,
    used when the baseline is run alone. `task` and `corpus` name what it was published on. The number of trainable
    parameters is None where it depends on the corpus, published scores where none was published. `changes` names
    what a study had to change, such as "picture_size 512 → 64".
    """

    name: str
    source: str = field(compare=False)  # words for the reader, by which no two recipes differ
    corpus: str
    task: str
    trainable_parameters: int | None
    epochs: int
    published_accuracy: float | None
    params: Mapping[str, Value]
    settings: Mapping[str, Value] = field(default_factory=dict)
    published_balanced_accuracy: float | None = None
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    """A family's search space: the network it searches, what is fixed, what may vary, what was published.

    `default` is a sound configuration to begin with, and the yardstick of the search itself: about one search in
    ten ends worse than the default (Schneider et al. 2025). Called with an Optuna trial the space asks for every
    parameter that applies and returns them (define-by-run).
    """

    name: str
    title: str
    network: str
    settings: Mapping[str, Value]
    params: tuple[Param, ...]
    default: Mapping[str, Value]
    baselines: tuple[Baseline, ...] = ()

    def __post_init__(self) -> None:
        known: set[str] = set()
        for param in self.params:
            assert param.name not in known, f"{self.name}: parameter {param.name} is declared twice"
            assert "/" not in param.name, f"{self.name}: a slash in {param.name} would nest the configuration"
            assert known >= set(param.when), f"{self.name}: {param.name} depends on a parameter declared later"
            known.add(param.name)
        assert not known & set(self.settings), f"{self.name}: sampled values and settings never share a name"

    def __call__(self, trial: Asker) -> Params:
        """Asks `trial` for every parameter that applies."""
        return self.walk(lambda param: param.domain.ask(trial, param.name))

    def walk(self, choose: Callable[[Param], Value]) -> Params:
        """The params that result where `choose` decides each one that applies, in order."""
        params: Params = {}
        for param in self.params:
            if param.applies(params):
                params[param.name] = choose(param)
        return params

    def why_outside(self, params: Mapping[str, Value]) -> str | None:
        """A sentence about the first way in which `params` is no point of this space; None where it is one."""
        expected = self.walk(lambda param: params.get(param.name, math.nan))
        if missing := [name for name in expected if name not in params]:
            return f"{missing[0]} is missing"
        if extra := [name for name in params if name not in expected]:
            return f"{extra[0]} does not apply here"
        for param in self.params:
            if param.name in params and params[param.name] not in param.domain:
                return f"{param.name} must lie in {param.domain}, but is {params[param.name]!r}"
        return None

    def corner(self, *, high: bool) -> Params:
        """The point where every parameter stands at its first (low) or last (high) value."""
        return self.walk(lambda param: param.domain.corners()[-1 if high else 0])

    def nearest(self, params: Mapping[str, Value]) -> Params:
        """The point of this space closest to `params`, value by value; what is missing stands at its first value."""
        return self.walk(
            lambda param: (
                param.domain.nearest(params[param.name]) if param.name in params else param.domain.corners()[0]
            )
        )

    def narrowed(self, name: str, domain: Domain) -> "Space":
        """This space with one parameter's domain replaced, as when a corpus is shorter than the range allows."""
        assert any(param.name == name for param in self.params)
        params = tuple(replace(param, domain=domain) if param.name == name else param for param in self.params)
        return replace(self, params=params)

    def baselines_for(self, task: str) -> tuple[Baseline, ...]:
        """The recipes published for one task, or all where none was, in the order in which a study tries them."""
        return tuple(baseline for baseline in self.baselines if baseline.task == task) or self.baselines

    def describe(self) -> list[tuple[str, str, str]]:
        """One row per parameter for people: name, range, condition."""
        return [
            (param.name, str(param.domain), " and ".join(f"{k} {_either(v)}" for k, v in param.when.items()))
            for param in self.params
        ]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record from which `from_json` makes an equal space."""
        return {
            "name": self.name,
            "title": self.title,
            "network": self.network,
            "settings": dict(self.settings),
            "params": [
                {
                    "name": param.name,
                    "kind": type(param.domain).__name__.lower(),
                    **{k: list(v) if isinstance(v, tuple) else v for k, v in vars(param.domain).items()},
                    "when": {name: list(values) for name, values in param.when.items()},
                }
                for param in self.params
            ],
            "default": dict(self.default),
            "baselines": [
                {**vars(baseline), "params": dict(baseline.params), "settings": dict(baseline.settings)}
                for baseline in self.baselines
            ],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Space":
        """The space that `to_json` recorded."""
        return cls(
            name=record["name"],
            title=record["title"],
            network=record["network"],
            settings=record["settings"],
            params=tuple(_param_from_json(row) for row in record["params"]),
            default=record["default"],
            baselines=tuple(Baseline(**{**row, "changes": tuple(row["changes"])}) for row in record["baselines"]),
        )


def _either(values: tuple[Value, ...]) -> str:
    return " or ".join(map(str, values))


def _param_from_json(row: Mapping[str, Any]) -> Param:
    fields = {k: v for k, v in row.items() if k not in ("name", "kind", "when")}
    if "options" in fields:
        fields["options"] = tuple(fields["options"])
    domain = _KINDS[row["kind"]](**fields)
    return Param(row["name"], domain, {name: tuple(values) for name, values in row["when"].items()})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
