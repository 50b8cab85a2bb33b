"""The versions of Ray and Optuna that the coupling between them was tested with."""

from importlib import metadata

from trainables.errors import UserError

# Half-open windows, equal to those in pyproject.toml.
TESTED = {"ray": ((2, 60), (2, 61)), "optuna": ((5, 0), (6, 0))}


def check() -> None:
    """Raises UserError where an installed version lies outside its tested window."""
    for name, (low, high) in TESTED.items():
        found = metadata.version(name)
        numbers = tuple(int(part) for part in found.split(".")[:2])
        if not low <= numbers < high:
            raise UserError(
                f"{name} must be at least {_dotted(low)} and below {_dotted(high)}, which is what was tested, but "
                f"{found} is installed. Build the environment anew with `make .venv`."
            )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
