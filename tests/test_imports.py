"""Who may import whom, read from the source of every module: spaces ← trainables ← search, and analysis apart."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("spaces", "trainables", "search", "analysis")

MAY_IMPORT = {  # of the project's own packages
    "spaces": {"spaces"},
    "trainables": {"spaces", "trainables"},
    "search": {"spaces", "trainables", "search"},
    "analysis": {"spaces", "trainables", "search", "analysis"},
}
TORCH = {"torch", "torchaudio", "torchvision", "safetensors"}


@dataclass(frozen=True)
class Import:
    """`target` is imported in `module`; `at_import` unless it happens inside a function."""

    module: str
    target: str
    at_import: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @property
    def top(self) -> str:
        return self.target.partition(".")[0]


def modules() -> dict[str, Path]:
    """Every module of the four packages, by dotted name."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def _waits(node: ast.AST) -> bool:
    """Whether what stands in here is not run on import: functions, and what only type checkers read."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports_in(module: str, source: str) -> Iterator[Import]:
    """Every import in a module, wherever it stands, with `from a import b` as both `a` and `a.b`."""
    tree = ast.parse(source)
    late = {inner for node in ast.walk(tree) if _waits(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            yield Import(module, node.module, node not in late)
            yield from (Import(module, f"{node.module}.{alias.name}", node not in late) for alias in node.names)


@cache
def imports() -> tuple[Import, ...]:
    return tuple(
        found for name, path in modules().items() for found in imports_in(name, path.read_text(encoding="utf-8"))
    )


def importers(of: set[str]) -> set[str]:
    """The modules that import any of these top-level packages themselves."""
    return {found.module for found in imports() if found.top in of}


def reached_from(package: str) -> dict[str, str]:
    """Everything that importing a package's modules imports in turn, with the module that asks for it."""
    known = modules()
    pending, reached = [name for name in known if name.partition(".")[0] == package], dict[str, str]()
    while pending:
        module = pending.pop()
        for found in imports():
            if found.module == module and found.at_import and found.target not in reached:
                reached[found.target] = module
                parts = found.target.split(".")
                parents = (".".join(parts[: n + 1]) for n in range(len(parts)))
                pending += [name for name in parents if name in known]
    return reached


def test_the_walk_sees_every_form_of_import() -> None:
    source = """
import os, torch.nn as nn
from ray import tune
def later() -> None:
    import optuna
class Holder:
    from spaces.domains import Float
"""
    found = {(found.target, found.at_import) for found in imports_in("trainables.toy", source)}
    assert found == {
        ("os", True),
        ("torch.nn", True),
        ("ray", True),
        ("ray.tune", True),
        ("optuna", False),
        ("spaces.domains", True),
        ("spaces.domains.Float", True),
    }
    assert {"spaces.blstm", "trainables.loop", "trainables.corpora.store", "search.run"} <= set(modules())
    assert "trainables.loop" in importers({"torch"})
    assert "search.searcher" in importers({"optuna"})
    assert "torch" in reached_from("trainables")


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_imports_upward(package: str) -> None:
    forbidden = set(PACKAGES) - MAY_IMPORT[package]
    found = [(i.module, i.target) for i in imports() if i.package == package and i.top in forbidden]
    assert found == []


def test_torch_is_imported_in_trainables_and_where_search_cannot_do_without() -> None:
    outside = {module for module in importers(TORCH) if not module.startswith("trainables.")}
    assert outside <= {"search.trial", "search.preflight"}


def test_ray_is_imported_in_search_only() -> None:
    assert {module.partition(".")[0] for module in importers({"ray"})} == {"search"}


def test_optuna_is_imported_in_search_and_for_its_plots_in_analysis() -> None:
    assert {module.partition(".")[0] for module in importers({"optuna"})} <= {"search", "analysis"}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("spaces", {*TORCH, "ray", "optuna"}), ("trainables", {"ray", "optuna"}), ("analysis", {"torch", "ray"})],
)
def test_importing_a_package_pulls_in_nothing_heavy_by_way_of_others(package: str, forbidden: set[str]) -> None:
    reached = reached_from(package)
    assert {target: by for target, by in reached.items() if target.partition(".")[0] in forbidden} == {}


def reached_at_import(*starts: str) -> set[str]:
    """The packages that modules import, by way of the project's own."""
    known, reached, pending = modules(), set[str](), [*starts]
    while pending:
        module = pending.pop()
        targets = {found.target for found in imports() if found.module == module and found.at_import}
        pending += [target for target in targets - reached if target in known]
        reached |= targets
    return {target.partition(".")[0] for target in reached}


def test_the_command_line_starts_without_torch_and_ray() -> None:
    """They take seconds to import; an error in the arguments must not wait for them."""
    assert not (reached_at_import("search.run") | reached_at_import("search.command")) & {"torch", "ray"}


def test_trials_start_without_torch_in_the_search_itself() -> None:
    """The process that forks the workers imports it meanwhile, and has the other core."""
    reached = reached_at_import("search.session", "search.cluster", "search.tuning", "search.machines", "search.watch")
    assert "ray" in reached
    assert not reached & {"torch", "torchaudio", "torchvision"}
