"""A family's space made to fit a corpus and a user's wishes, before a study begins."""

import difflib
from collections.abc import Iterable
from dataclasses import replace

from spaces.domains import Baseline, Choice, Domain, Int, Param, Space, Value
from trainables.errors import UserError

# From this length on a clip is more than its beginning: families that look at a few seconds see all of it, in pieces.
_LONG_CLIP_SECONDS = 8.0
_SMALL_PICTURES = "picture_size=32,48,64"


def fitted(space: Space, clip_seconds: float) -> Space:
    """The space with `seconds` cut to what the corpus has: more would only be silence; long clips cut in segments."""
    if "excerpt" in space.settings and clip_seconds >= _LONG_CLIP_SECONDS:
        space = replace(space, settings={**space.settings, "excerpt": "segments"})
    seconds = next((param.domain for param in space.params if param.name == "seconds"), None)
    if not isinstance(seconds, Int):
        return space
    return space.narrowed("seconds", Int(seconds.low, min(seconds.high, max(seconds.low, round(clip_seconds)))))


def fixed(space: Space, wishes: Iterable[str]) -> Space:
    """The space with parameters restricted as in `picture_size=32,64` or `batch_size=64..256`; raises UserError.

    Published recipes and the default move to the nearest value that is left, and the recipes say so.
    """
    for wish in wishes:
        param = _param(space, _name(wish), wish)
        space = _restricted(space, param, _domain(param, wish.partition("=")[2], wish))
    return space


def weighted(space: Space, source: str) -> Space:
    """The space with its network's initial weights named: "imagenet", "none" or a file; raises UserError.

    With none the network trains from scratch, so nothing of it is frozen, not in published recipes either.
    """
    if not source:
        return space
    if source == "none":
        space = fixed(space, ("frozen_stages=0",))
        changed = tuple(replace(b, changes=(*b.changes, "weights ImageNet → random")) for b in space.baselines)
        return replace(space, baselines=changed)
    from trainables.weights import find  # only here: Torch takes seconds to import

    weights = find(source, str(space.settings["architecture"]))
    return replace(space, settings={**space.settings, "weights_file": weights.file, "weights_digest": weights.digest})


def small_pictures(space: Space, wishes: Iterable[str]) -> tuple[str, ...]:
    """What a study restricts by itself where there is no GPU: on cores, pictures of 512 pixels take hours an epoch."""
    asked = {_name(wish) for wish in wishes}
    if "picture_size" in asked or not any(param.name == "picture_size" for param in space.params):
        return ()
    from trainables.data import choose_device  # only here: Torch takes seconds to import

    return (_SMALL_PICTURES,) if choose_device().type == "cpu" else ()


def known(names: Iterable[str], wishes: Iterable[str]) -> None:
    """Raises UserError for a wish that concerns none of the parameters `names`."""
    names = sorted(set(names))
    for wish in wishes:
        name = _name(wish)
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"--fix must name a parameter of the space, one of {', '.join(names)}, not {name!r}.{hint}")


def _name(wish: str) -> str:
    return wish.partition("=")[0].strip()


def _param(space: Space, name: str, wish: str) -> Param:
    known((param.name for param in space.params), (wish,))
    return next(param for param in space.params if param.name == name)


def _domain(param: Param, wanted: str, wish: str) -> Domain:
    low, dots, high = wanted.partition("..")
    values = [_value(text.strip()) for text in ((low, high) if dots else wanted.split(","))]
    if bad := [value for value in values if value not in param.domain]:
        raise UserError(f"--fix keeps to the range of {param.name}, {param.domain}, but {wish!r} asks for {bad[0]!r}.")
    if not dots:
        return Choice(tuple(dict.fromkeys(values)))
    if isinstance(param.domain, Choice) or values[0] > values[1]:  # type: ignore[operator]
        raise UserError(
            f"--fix takes LOW..HIGH for numbers only and in this order, but {param.name} is one of {param.domain} and "
            f"{wish!r} came. List values with commas."
        )
    return replace(param.domain, low=values[0], high=values[1])  # type: ignore[arg-type]


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


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
