"""A family's space made to fit a corpus and a user's wishes, before a study begins."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import spaces
from spaces.domains import Baseline, Choice, Domain, Float, Int, Param, Space, Value
from trainables.errors import UserError, guess

# From this length on a clip is more than its beginning: families that look at a few seconds see all of it, in pieces.
_LONG_CLIP_SECONDS = 8.0
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
SMALL_PICTURES = "picture_size=32,48,64"


def fitted(space: Space, clip_seconds: float) -> Space:
    """The space with `seconds` cut to what the corpus has: more would only be silence; long clips cut in segments."""
    if "excerpt" in space.settings and clip_seconds >= _LONG_CLIP_SECONDS:
        space = replace(space, settings={**space.settings, "excerpt": "segments"})
    seconds = next((param.domain for param in space.params if param.name == "seconds"), None)
    if not isinstance(seconds, Int):
        return space
    return space.narrowed("seconds", Int(seconds.low, min(seconds.high, max(seconds.low, round(clip_seconds)))))


def fixed(space: Space, wishes: Iterable[str]) -> Space:
    """The space restricted as in `picture_size=32,64` or `learning_rate=0.0005..0.005`; raises UserError.

    Published recipes and the default move to the nearest value that is left, and the recipes say so.
    """
    for wish in wishes:
        param = _param(space, parameter(wish), wish)
        space = _restricted(space, param, _domain(param, wish.partition("=")[2], wish))
    return space


def weighted(space: Space, source: str) -> Space:
    """The space with its network's initial weights named: "imagenet", "none" or a file; raises UserError.

    With none the network trains from scratch: nothing of it is frozen and all of it learns at one rate, in published
    recipes too. These say so, also where a file holds other weights than theirs, which were ImageNet's.
    """
    if not source:
        return space
    if source == "none":
        # The rate first, so that what freezing nothing brings in stands at it.
        for name, value in (("body_rate_factor", 1.0), ("frozen_stages", 0)):
            domain = _param(space, name, name).domain
            if value not in domain:
                raise UserError(
                    f"--weights none trains from scratch, so {name} must be {value:g}, but --fix asks for {domain}. "
                    f"Leave one of the two out."
                )
            space = fixed(space, (f"{name}={value:g}",))
        return _with_change(space, "weights ImageNet → random")
    from trainables.weights import find, is_imagenet  # only here: Torch takes seconds to import

    architecture = str(space.settings["architecture"])
    weights = find(source, architecture)
    space = replace(space, settings={**space.settings, "weights_file": weights.file, "weights_digest": weights.digest})
    if is_imagenet(weights.digest, architecture):
        return space
    return _with_change(space, f"weights ImageNet → {Path(weights.file).name}")


def _with_change(space: Space, change: str) -> Space:
    return replace(space, baselines=tuple(replace(b, changes=(*b.changes, change)) for b in space.baselines))


def small_pictures(space: Space, wishes: Iterable[str]) -> tuple[str, ...]:
    """What a study restricts by itself where there is no GPU: on cores those of 512 pixels take minutes an epoch."""
    asked = {parameter(wish) for wish in wishes}
    if "picture_size" in asked or not any(param.name == "picture_size" for param in space.params):
        return ()
    from trainables.data import choose_device  # only here: Torch takes seconds to import

    return (SMALL_PICTURES,) if choose_device().type == "cpu" else ()


def known(names: Iterable[str], wishes: Iterable[str]) -> None:
    """Raises UserError for a wish that concerns none of the parameters `names`."""
    names = sorted(set(names))
    for wish in wishes:
        name = parameter(wish)
        if owners := [other for other in spaces.names() if name not in names and _has(other, name)]:
            raise UserError(
                f"--fix must name a parameter of the space, but {name} belongs to {', '.join(owners)}. Leave it out."
            )
        if name not in names:
            raise UserError(
                f"--fix must name a parameter of the space, one of {', '.join(names)}, not {name!r}."
                f"{guess(name, names)}"
            )


def _has(family: str, name: str) -> bool:
    return any(param.name == name for param in spaces.load(family).params)


def parameter(wish: str) -> str:
    """The name of the parameter that a wish concerns."""
    return wish.partition("=")[0].strip()


def _param(space: Space, name: str, wish: str) -> Param:
    known((param.name for param in space.params), (wish,))
    return next(param for param in space.params if param.name == name)


def _domain(param: Param, wanted: str, wish: str) -> Domain:
    low, dots, high = wanted.partition("..")
    values = [_value(text.strip(), param.domain) for text in ((low, high) if dots else wanted.split(","))]
    if dots:
        return _range(param, values, wish)
    if bad := [value for value in values if value not in param.domain]:
        raise UserError(
            f"--fix keeps to the range of {param.name}, {param.domain}, but {wish!r} asks for {bad[0]!r}. Stay within."
        )
    return Choice(tuple(dict.fromkeys(values)))


def _range(param: Param, limits: list[Value], wish: str) -> Domain:
    low, high = limits
    if isinstance(low, str) or isinstance(high, str) or low > high:
        raise UserError(f"--fix takes NAME=LOW..HIGH with two numbers in this order, but {wish!r} came. Give both.")
    if isinstance(param.domain, Choice):
        within = tuple(
            option for option in param.domain.options if not isinstance(option, str) and low <= option <= high
        )
        if within:
            return Choice(within)
    elif low in param.domain and high in param.domain:
        return replace(param.domain, low=low, high=high)  # type: ignore[arg-type]
    raise UserError(f"--fix keeps to the range of {param.name}, {param.domain}, but {wish!r} leaves it. Stay within.")


def _value(text: str, domain: Domain) -> Value:
    """The text as the domain has it: 0 is 0.0 where that is an option, 32.0 is 32 where whole numbers are meant."""
    value: Value = text
    if _NUMBER.fullmatch(text):
        value = float(text) if re.search("[.eE]", text) else int(text)
        options = domain.options if isinstance(domain, Choice) else ()
        value = next((option for option in options if option == value), value)
        if isinstance(domain, Float):
            value = float(value)
        elif isinstance(domain, Int) and isinstance(value, float) and value.is_integer():
            value = int(value)
    return value


def _restricted(space: Space, param: Param, domain: Domain) -> Space:
    narrowed = space.narrowed(param.name, domain)
    return replace(
        narrowed,
        default=narrowed.nearest(space.default),
        baselines=tuple(_moved(baseline, narrowed, param.name, domain) for baseline in space.baselines),
    )


def _moved(baseline: Baseline, space: Space, name: str, domain: Domain) -> Baseline:
    """The recipe with one parameter at the nearest value of `domain`, and whatever depends on it."""
    before = baseline.params.get(name)
    if before is None or before in domain:
        return baseline
    params = {**baseline.params, name: domain.nearest(before)}
    # What applies only under the new value stands at its first one; what no longer applies goes.
    params = space.walk(lambda param: params.get(param.name, param.domain.corners()[0]))
    changes = (*baseline.changes, f"{name} {before} → {params[name]}")
    return replace(baseline, params=params, changes=changes, trainable_parameters=None)
