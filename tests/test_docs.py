"""README and docs: what they name is there, and what they tell people to type can be typed."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from common.run_folder import REPOSITORY
from ensemble import Options
from models.finetuning.architecture import Bottleneck, Recipe
from preprocessing.demo import DemoSettings
from preprocessing.settings import Augmentation

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
OF_OTHER_PROGRAMS = {
    *("--array", "--wrap", "--cpus-per-task", "--mem"),
    *("--head", "--port", "--address", "--include-dashboard"),
}  # SLURM, Ray
OPTION = r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]"
PACKAGES = ("preprocessing", "models", "ensemble", "pipeline", "tools", "kaggle", "benchmarks", "tests", "common")
SUFFIXES = ("py", "sh", "md", "toml", "txt", "lock")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([\w-]+)">', text))


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pages
def test_every_file_and_module_that_is_named_exists(page: Path) -> None:
    text = re.sub(r"```python\n.*?```", "", page.read_text(), flags=re.DOTALL)  # a file that the reader writes
    folders = "|".join([*PACKAGES, "docs", "requirements"])
    for name in re.findall(rf"\b((?:{folders})/[\w/.-]*\.(?:{'|'.join(SUFFIXES)}))\b", text):
        if name != "models/efficientnet_b3.py" and "NAME" not in name:
            assert (REPOSITORY / name).is_file(), name
    for module in re.findall(rf"-m ((?:{folders})(?:\.\w+)+)", text):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option that a command of this repository has."""
    found = set(OF_OTHER_PROGRAMS)
    for settings in (Recipe, Augmentation, Bottleneck, Options, DemoSettings):
        names = {field.name.replace("_", "-") for field in fields(settings) if "help" in field.metadata}
        found |= {f"--{name}" for name in names} | {f"--no-{name}" for name in names}
    scripts = [path for folder in PACKAGES for path in (REPOSITORY / folder).rglob("*.py")]
    for path in [*scripts, *REPOSITORY.glob("*.sh"), *REPOSITORY.glob("*/*.sh")]:
        found |= set(re.findall(OPTION, path.read_text(encoding="utf-8")))
    return found


@pages
def test_every_option_exists(page: Path, options: set[str]) -> None:
    assert set(re.findall(OPTION, page.read_text())) <= options


@pages
def test_every_shell_block_parses(page: Path) -> None:
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readme_is_short() -> None:
    text = PAGES[0].read_text()
    assert len(text.splitlines()) <= 220
    assert len(text.split()) <= 1800


def test_every_message_of_the_table_is_in_the_code() -> None:
    sources = [path for folder in PACKAGES if folder != "tests" for path in (REPOSITORY / folder).rglob("*.py")]
    code = "".join(path.read_text(encoding="utf-8") for path in [*sources, REPOSITORY / "setup.sh"])
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a message over several lines
    table = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("| message |")[2]
    messages = re.findall(r"`(.+?)`", "".join(re.findall(r"^\|((?:(?! prints ).)+?)\|", table, re.MULTILINE)))
    assert len(messages) > 30
    parts = [words.strip(" ,") for message in messages for words in message.split("...")]
    assert not [words for words in parts if words.count(" ") > 1 and words not in code]
