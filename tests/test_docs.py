"""The pages: every link leads somewhere, every command and spec that they name is there, and the
README stays short.
"""

import re

import pytest

from launch import cli
from tests.support.trials import ROOT

PAGES = sorted(
    path
    for folder in ("", "docs", "benchmarks", "experiments", "results/reproduced")
    for path in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
MAKE = re.compile(r"(?:^ {4}|`)make ([a-z][a-z-]+)", re.MULTILINE)
SPEC = re.compile(r"experiments/(?:amix/)?\w+\.yaml")
MODULE = re.compile(r"python -m ((?:rm|launch|analysis|benchmarks)(?:\.\w+)+)")
SCRIPT = re.compile(r"(?<![\w/])(?:launch|analysis)/\w+\.py")
COMMAND = re.compile(r"launch/run\.py ([a-z]+)(?= )")


def named(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """(page, what it names) wherever a pattern is found in the pages."""
    return sorted(
        {
            (page.relative_to(ROOT).as_posix(), match.group((match.lastindex and 1) or 0))
            for page in PAGES
            for match in pattern.finditer(page.read_text(encoding="utf-8"))
        }
    )


def test_every_link_leads_to_a_file():
    broken = [
        (page, link)
        for page, link in named(LINK)
        if "://" not in link and not ((ROOT / page).parent / link).exists()
    ]
    assert broken == []


def test_every_file_module_and_target_that_is_named_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert [where for where in named(MAKE) if where[1] not in targets] == []
    files = [*named(SPEC), *named(SCRIPT)]
    assert [where for where in files if not (ROOT / where[1]).exists()] == []

    def is_module(name: str) -> bool:
        path = ROOT / name.replace(".", "/")
        return path.with_suffix(".py").exists() or (path / "__main__.py").exists()

    assert [where for where in named(MODULE) if not is_module(where[1])] == []


def test_every_command_that_is_named_is_there(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = re.search(r"\{([a-z,]+)\}", capsys.readouterr().out)
    assert commands is not None
    assert [where for where in named(COMMAND) if where[1] not in commands[1].split(",")] == []


def test_the_readme_is_short_enough_to_be_read():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
    assert [line for line in lines if len(line) > 100] == []
