"""Nothing is left out of the pages, and nothing in them leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from headgate import config, errors, plugins
from headgate.access.budget import BudgetsConfig, Rate
from headgate.access.identity import IdentityConfig
from headgate.access.issuer import Issuer
from headgate.access.jwks import JwksConfig
from headgate.access.proxy import ProxyConfig
from headgate.cli.commands import app
from tests.docs.blocks import ROOT, all_blocks, pages, without_blocks

TESTED = {"sh", "console", "python", "sql", "yaml", "diff", "json"}
EXEMPT = {"text"}
"""Languages of blocks that say nothing that could be run."""
MOST_SKIPS = 10

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def test_every_block_is_tested_exempt_or_skipped_for_a_reason() -> None:
    for block in all_blocks():
        if block.words.startswith("skip"):
            assert len(block.skipped_because.split()) >= 5, f"{block}: say why it is skipped"
        else:
            assert block.language in TESTED | EXEMPT, f"{block}: nothing tests a block in {block.language!r}"


def test_no_block_hides_from_the_tests_by_indentation() -> None:
    hidden = re.compile(r"\n\n {4,}\S")
    assert [page.name for page in pages() if hidden.search(without_blocks(page))] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_table_is_cut_by_a_blank_line_and_no_section_comes_twice(page: Path) -> None:
    text = without_blocks(page)
    cut = re.findall(r"(?:^|\n\n)(\|.*)\n(?!\|-)", text)
    assert not cut, "these rows stand under no head, and render as text"
    sections = re.findall(r"^## .+$", text, re.MULTILINE)
    assert len(sections) == len(set(sections)), sections


def test_few_blocks_are_skipped() -> None:
    skipped = [str(block) for block in all_blocks() if block.skipped_because]
    assert len(skipped) <= MOST_SKIPS, skipped


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(without_blocks(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(there), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = (target.partition("#")[0] for target in _LINK.findall(page.read_text(encoding="utf-8")))
        ahead += [(page.parent / link).resolve() for link in links if link and "://" not in link]
    assert set((ROOT / "docs").rglob("*.md")) <= reached


def test_every_command_and_option_is_described() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    common = text.split("\n## ", 1)[0]
    for words, command in _commands(typer.main.get_command(app), ("headgate",)):
        section = sections[" ".join(words[:2])] + common
        assert " ".join(words) in section or len(words) == 2, words
        for option in command.params:
            if option.param_type_name == "option":
                name = max(option.opts, key=len)
                assert re.search(rf"{name}(?![\w-])", section), f"{' '.join(words)} {name}"


def test_every_setting_is_described() -> None:
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    missing = {
        f"{model.__module__}.{model.__name__}.{name}"
        for model in _models()
        for name, field in model.model_fields.items()
        if f"`{field.alias or name}`" not in text
    }
    assert not missing


def test_every_error_code_is_explained() -> None:
    text = (resources.files("headgate.tools") / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^### (\S+)$", text, flags=re.MULTILINE))
    codes = {each.code for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "code")}
    assert codes == explained


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that is not a group; their classes are click's, or typer's own copy of them."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, part in command.commands.items():
        yield from _commands(part, (*words, name))


def _models() -> Iterator[type[BaseModel]]:
    mine = (each for each in vars(config).values() if isinstance(each, type) and issubclass(each, BaseModel))
    kinds = (
        plugins.load(family, kind).Config for family in ("connections", "sources") for kind in plugins.kinds(family)
    )
    yield from chain(mine, (IdentityConfig, Issuer, JwksConfig, ProxyConfig, BudgetsConfig, Rate), kinds)


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them: small letters, spaces as dashes, no punctuation."""
    headings = _HEADING.findall(without_blocks(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
