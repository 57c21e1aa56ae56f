"""The packages, who may import whom, and the words that names and text are made of; docs/design.md says why."""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILDER = ROOT / "chest_xray_masks.py"
MODULES = [BUILDER, *sorted((ROOT / "hub_models").rglob("*.py"))]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "hub_models").rglob("*.md"))]
# Each may import those before it in this list, never one behind it; scripts may import any.
ORDER = (
    "chest_xray_masks",
    "lazy",
    "files",
    "lifetime",
    "console",
    "imaging",
    "dataset",
    "metrics",
    "hub_client",
    "models",
    "runs",
    "evaluation",
    "hub",
    "training",
    "predict",
    "app",
    "benchmarks",
    "cli",
)
# Words with another one in this project: film is image or X-ray, share is fraction, figure (of a number) is metric.
NAMES = {"film", "films", "share", "shares", "room", "rooms", "ledger", "cohort", "sheet", "sheets", "looks"}
NAMES |= {"asked", "judged", "doubts", "anew", "familiarity", "figures"}
PROSE = re.compile(
    r"\b(films?|ledgers?|cohorts?|judged|doubts|anew|familiarity|rehears\w*|rooms?|goes on|go on)\b", re.I
)
ALLOWED = {"SharedFunctionalGroupsSequence", "lung_figures", "screening_figures", "saliency_figures"}  # DICOM's; kept


def place_of(path: Path) -> str:
    """Return which name of ORDER a file belongs to."""
    return path.relative_to(ROOT / "hub_models").parts[0].removesuffix(".py") if path != BUILDER else BUILDER.stem


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def texts_of(path: Path) -> Iterator[str]:
    """Yield what people read in a file: a page without its code, or comments and strings of several words."""
    text = path.read_text()
    if path.suffix == ".md":
        yield re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
            yield token.string


def test_every_module_has_a_place_in_the_order() -> None:
    assert {place_of(path) for path in MODULES} == {"__init__", "__main__", *ORDER}


@pytest.mark.parametrize("name", ORDER)
def test_imports_run_downward(name: str) -> None:
    below = {"__init__", *ORDER[: ORDER.index(name) + 1]}
    for path in MODULES:
        if place_of(path) == name and path.name != "__main__.py":
            others = {one.split(".")[1] for one in imported(path) if one.startswith("hub_models.")}
            assert others <= below | {"__version__"}, path


def test_builder_is_complete_on_its_own() -> None:
    tops = {name.split(".")[0] for name in imported(BUILDER)}
    assert tops <= set(sys.stdlib_module_names) | {"datasets", "numpy", "PIL"}


def test_scripts_hold_no_logic() -> None:
    for path in SCRIPTS:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)], path


def test_no_class_or_constant_is_named_twice() -> None:
    names: Counter[str] = Counter()
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            defined = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            if isinstance(node, ast.ClassDef):
                names[node.name] += 1
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                names.update(name for name in defined if name.lstrip("_")[:1].isupper())
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_the_words_of_the_field(path: Path) -> None:
    found, text = set(), path.read_text()
    theirs = {word for word, library in (("figures", "matplotlib"), ("share", "gradio")) if library in text}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string not in ALLOWED:
            words = {word.lower() for word in re.findall(r"[A-Za-z][a-z]*|[A-Z]+", token.string)}
            found |= words & (NAMES - theirs)
    assert found == set()


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_is_in_the_words_of_the_field(path: Path) -> None:
    assert [match[0] for text in texts_of(path) for match in PROSE.finditer(text)] == []
