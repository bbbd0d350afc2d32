"""The fenced blocks of the README and of docs/, each with what the comment before it says of its test.

A comment `<!-- test: WORDS -->` before a block is one of:

- `skip because REASON`
- `setup FILE`: the block is a file that later blocks of the page find in their folder
- `with the demo`: it runs where `headgate demo` serves
- `with a shop`, `with a captured shop`: it runs in a folder with a shop.db and its headgate.yaml
- `fails`: its command ends with an exit code other than 0
- `reads a store`: SQL that is asked of the tables of a PostgreSQL store
- `arguments of TOOL`, `answer of TOOL`, `example of TOOL`, `freshness`, `call event`: what a JSON block is
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>[\w+-]*)[^\n]*\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- test: (?P<words>[^\n]*?) -->\n\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block. `words` is what the comment before it says; empty without one."""

    page: Path
    line: int
    language: str
    text: str
    words: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def skipped_because(self) -> str:
        """The reason why it is not tested; empty if it is."""
        return self.words.removeprefix("skip because ") if self.words.startswith("skip") else ""


def pages() -> list[Path]:
    """The README, the changelog, and every page of docs/."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """The page's blocks in their order."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, found) for found in _FENCE.finditer(text)]


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of every page in these languages; of every language if none is named."""
    blocks = [block for page in pages() for block in blocks_of(page)]
    return [block for block in blocks if not languages or block.language in languages]


def without_blocks(page: Path) -> str:
    """The page's prose."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    comment = _COMMENT.search(text[: found.start()])
    return Block(
        page=page,
        line=text[: found.start()].count("\n") + 1,
        language=found["language"],
        text=found["text"],
        words=comment["words"] if comment else "",
    )
