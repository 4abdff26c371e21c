"""Who may import whom: the page and the data stay light, the engine knows no page, and no file grows without end."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "liger_kernel", "matplotlib"}
FOLDERS = ("app", "engine", "data", "tests")
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "base"}


def modules(folder: str) -> list[str]:
    """Every module in a folder of the repository, by dotted name."""
    files = sorted((ROOT / folder).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


@cache
def loaded(*names: str) -> frozenset[str]:
    """The top-level modules that a fresh interpreter holds once it has imported `names`."""
    program = f"import importlib, sys; [importlib.import_module(name) for name in {names!r}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return frozenset(name.partition(".")[0] for name in done.stdout.split())


def imported(name: str) -> set[str]:
    """The top-level modules that a module imports anywhere in its source, in functions too."""
    path = ROOT / Path(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_every_package_that_is_imported_is_named_in_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    named = {plain(re.split(r"[^\w-]", one)[0]) for one in wanted}
    needed = set().union(*(imported(name) for folder in FOLDERS for name in modules(folder)))
    ours = {*FOLDERS, "pydantic_core"}  # the latter is a part of pydantic
    packages = packages_distributions()
    # Of optional packages that are not installed nothing is known.
    known = {name: {plain(one) for one in packages.get(name, [])} for name in needed - ours - sys.stdlib_module_names}
    assert {name for name, brought in known.items() if brought and not brought & named} == set()


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("folder", ["app", "data", "engine/contract"])
def test_what_the_page_can_reach_leaves_torch_alone(folder: str) -> None:
    assert loaded(*modules(folder)) & (HEAVY | {"py3langid"}) == set()  # the latter takes a second, where it is used


def test_data_knows_no_page() -> None:
    assert loaded(*modules("data")) & {"gradio", "app"} == set()


def test_the_contract_needs_pydantic_and_yaml_and_nothing_else() -> None:
    needed = set().union(*map(imported, modules("engine/contract"))) - set(sys.stdlib_module_names)
    assert needed == {"engine", "pydantic", "pydantic_core", "yaml"}


def test_the_supervisor_needs_the_standard_library_alone() -> None:
    assert loaded("engine.supervise") & (HEAVY | {"pydantic", "yaml", "data"}) == set()


@pytest.mark.parametrize(
    ("folder", "banned"),
    [("app", HEAVY), ("data", HEAVY | {"gradio", "app"}), ("engine", {"gradio", "app"}),
     ("engine/contract", HEAVY | {"gradio", "app", "data"})],
)  # fmt: skip
def test_no_module_imports_across_its_border_even_inside_a_function(folder: str, banned: set[str]) -> None:
    assert {name: found for name in modules(folder) if (found := imported(name) & banned)} == {}


def test_the_command_line_answers_without_anything_heavy() -> None:
    assert loaded("engine.__main__", "engine.check", "engine.follow") & (HEAVY | {"gradio"}) == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_four_hundred_lines(folder: str) -> None:
    sources = [file for ending in ("py", "js", "css", "jinja") for file in (ROOT / folder).rglob(f"*.{ending}")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in sources}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_has_a_telling_name_and_says_what_it_does(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        assert file.stem not in VAGUE, file
        source = file.read_text(encoding="utf-8")
        assert not source.strip() or ast.get_docstring(ast.parse(source)), f"{file} has no docstring"
