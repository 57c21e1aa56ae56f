"""The README and docs/: each block of commands and code is one that exists, and runs as written on phantoms.

A block that cannot run here says why in a comment on the line before it: `<!-- only parsed: needs a GPU -->`. What a
`print(...)  # text` says must be printed, unless the text begins with "such as". YAML is written to the file that its
first line names.
"""

import dataclasses
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
from launch import ROOT, shell
from packaging.requirements import Requirement
from PIL import Image
from test_packages import ORDER

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
DRAWN, FEW = "cxm phantoms --output xrays", "--montgomery 24 --shenzhen 36"
BLOCK = re.compile(r"(?:<!-- only parsed: ([^\n]+) -->\n)?```(bash|python|yaml)\n(.*?)```", re.S)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Block(NamedTuple):
    """A block of a page; `reason` says why it is only parsed, where it is."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Words of each line of a bash block, without comments, variables set for it and redirections."""
        lines = self.text.replace("\\\n", " ").splitlines()
        found = [shlex.split(re.sub(r"^(\w+=\S+ )+", "", line), comments=True) for line in lines]
        return [words[: words.index(">")] if ">" in words else words for words in found if words]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start(2)) + 1, found[2], found[3], found[1])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the table whose head begins with `heading`, without backquotes."""
    table = (ROOT / page).read_text().split(f"\n| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split(" | ")] for row in table]


def check_command(words: list[str]) -> None:
    """Parse a command as its program does; SystemExit or an assertion where the program would refuse it."""
    from hub_models.cli import COMMANDS

    name, rest = words[0], words[1:]
    if name == "cxm":
        name = max((one for one in COMMANDS if rest[: len(one.split())] == one.split()), key=len, default=None)
        assert name, f"no command {words}"
        parser = COMMANDS[name].parser(name)
        options = parser.parse(rest[len(name.split()) :])
        if "--config" not in rest:  # it is read
            COMMANDS[name].prepare(parser, options)
    elif name == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        asked = launch_command_parser().parse_args(rest[1:])
        modules = {"hub_models.training": ["train"], "hub_models": []}
        assert rest[0] == "launch" and asked.module and asked.training_script in modules
        check_command(["cxm", *modules[asked.training_script], *asked.training_script_args])
    elif name == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert [word for word in rest if "=" not in word][0] in targets
    elif name == "pip":
        asked = Requirement(next(word for word in rest[1:] if not word.startswith("-")))
        assert asked.name == "chest-xray-masks" and asked.extras <= {*PROJECT["optional-dependencies"]}
        assert asked.url in (None, f"git+{PROJECT['urls']['Repository']}")
    else:
        assert words in (["git", "clone", PROJECT["urls"]["Repository"]], ["cd", "chest-xray-masks"])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_block_is_well_formed(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.place, "exec")
    for words in block.commands() if block.language == "bash" else ():
        check_command(words)


def test_first_screen_says_what_and_what_not() -> None:
    first = README.read_text().splitlines()[:12]
    assert any("not a medical device" in line for line in first) and any(line.startswith("![") for line in first)
    assert README.stat().st_size <= 10_240 and len(README.read_text().splitlines()) <= 180


def test_links_and_pictures_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_tables_of_the_docs_say_what_the_code_has() -> None:
    from chest_xray_masks import FEATURES, FINDING_NAMES, FINDINGS_FEATURES, RADLEX
    from hub_models.cli import COMMANDS
    from hub_models.cli.plans import PUSH_OPTIONS
    from hub_models.imaging.flags import Flag
    from hub_models.predict.stream import PREDICTION_COLUMNS
    from hub_models.runs.config import TrainConfig

    assert [row[0] for row in rows_of("docs/load.md", "column")] == list(FEATURES)
    fields = rows_of("docs/load.md", "field")
    assert [row[0] for row in fields] == list(FINDINGS_FEATURES)
    assert {row[0]: row[2] for row in fields[3:]} == {name: RADLEX[name] or "none" for name in FINDING_NAMES}
    assert [tuple(row[:2]) for row in rows_of("docs/predict.md", "column")] == list(PREDICTION_COLUMNS.items())
    assert [tuple(row[:2]) for row in rows_of("docs/predict.md", "code")] == [(one, one.when) for one in Flag]
    named = {option for row in rows_of("docs/train.md", "option") for option in re.findall(r"--(\w+)", row[0])}
    train = COMMANDS["train"].parser("train")
    assert named == {text[2:] for text in train._option_string_actions if text.startswith("--")} - {"help", "config"}
    assert len(named) == len(dataclasses.fields(TrainConfig)) + len(PUSH_OPTIONS)
    assert {row[0] for row in rows_of("docs/index.md", "command")} == {f"cxm {one.split()[0]}" for one in COMMANDS}
    assert [row[2] for row in rows_of("docs/predict.md", "code")] == [one.message for one in Flag]


def test_design_page_names_each_package_module_and_answer() -> None:
    rows = rows_of("docs/design.md", "package")
    assert [row[0] for row in rows] == list(ORDER)
    for package, _, files in rows:
        modules = {path.stem for path in (ROOT / "hub_models" / package).rglob("[!_]*.py")}
        assert modules <= set(re.findall(r"\w+", files)), package
    for _, file, name in rows_of("docs/design.md", "where is"):
        assert re.search(rf"^ *(def |class )?{name}\b", (ROOT / file).read_text(), re.M), f"{name} of {file}"


def run_page(page: Path, folder: Path, online: dict[str, str]) -> None:
    """Run the blocks of a page in order in one folder, and hold what they print against their comments."""
    for block in blocks(page):
        if block.reason:
            continue
        printed = run_block(block, folder, online)
        said = re.findall(r"^ *print\(.*\)  # (?!such as)(.+)$", block.text, re.M)
        assert [text for text in said if text not in printed] == [], f"{block.place} printed {printed}"


def run_block(block: Block, folder: Path, online: dict[str, str]) -> list[str]:
    """Run a block, and return the lines that it prints."""
    command = block.text
    if block.language != "bash":
        name = block.text.split()[1] if block.language == "yaml" else "block.py"
        (folder / name).write_text(block.text)
        command = "python block.py" if block.language == "python" else "true"
    try:
        return shell(command, folder, online).splitlines()
    except RuntimeError as error:
        raise RuntimeError(f"{block.place}: {error}") from error


@pytest.fixture(scope="module")
def first_steps(online: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's blocks were run: phantoms in xrays/, two models in runs/, one of them pushed."""
    folder = tmp_path_factory.mktemp("first_steps")
    if shutil.which("cxm", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("not in the environment that `make install` makes: there is no cxm")
    run_page(README, folder, online)
    return folder


@pytest.fixture(scope="module")
def first_steps_of_few(online: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a fifth of the phantoms, for pages that neither draw them nor show a figure of them."""
    folder = tmp_path_factory.mktemp("first_steps_of_few")
    for block in blocks(README):
        if block.language == "bash" and not block.reason:
            run_block(block._replace(text=block.text.replace(DRAWN, f"{DRAWN} {FEW}")), folder, online)
    return folder


@pytest.mark.slow
def test_run_folders_hold_the_files_that_the_docs_list(first_steps: Path) -> None:
    listed = {name: set(where.split(", ")) for name, where, *_ in rows_of("docs/train.md", "file")}
    for run_name, task in (("lungs", "lungs"), ("tb", "TB")):
        folder = first_steps / "runs" / run_name
        held = {path.name + ("/" if path.is_dir() else "") for path in folder.glob("[!.]*")}
        assert held == {name for name, where in listed.items() if task in where}


@pytest.mark.slow
@pytest.mark.parametrize("page", [one for one in PAGES if one != README and blocks(one)], ids=lambda page: page.stem)
def test_page_runs(page: Path, request: pytest.FixtureRequest, online: dict[str, str], tmp_path: Path) -> None:
    """From where the README's first steps end, with a DICOM X-ray beside them."""
    start = request.getfixturevalue("first_steps" if DRAWN in page.read_text() else "first_steps_of_few")
    folder = shutil.copytree(start, tmp_path / "page")
    gray = next((folder / "xrays").rglob("CXR_png/MCUCXR_0001_0.png"))
    stored = np.asarray(Image.open(gray).convert("L")).astype(np.uint16) * 16
    spacing = {"PixelSpacing": [1.4, 1.4], "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"}
    (folder / "xray.dcm").write_bytes(tiny.dicom(stored, **spacing))
    run_page(page, folder, online)
