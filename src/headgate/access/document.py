"""A policy's document: its form, and every mistake in it with its line and mend."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from headgate.access.conditions import Condition, parse_condition
from headgate.errors import ConfigError
from headgate.model.access import KINDS, TIME_STEPS, Kind, Treatment, any_fits
from headgate.model.caller import SCOPES, Method

MAX_BYTES = 1 << 20
"""Of a document."""

EVERYONE = "everyone"
"""In `to:`, every caller but an anonymous one."""

_PLAIN = r"^[A-Za-z][A-Za-z0-9 _.-]{0,99}$"
_CLASS = re.compile(r"\*|[a-z0-9_-]+(\.[a-z0-9_-]+)*(\.\*)?")


def _listed(value: Any) -> Any:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


def _named(value: Any) -> Any:
    """A list of names stands for a mapping without more to say of each."""
    return dict.fromkeys(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value


def _shortly(value: Any) -> Any:
    """`mask` stands for `{treatment: mask}`."""
    return {"treatment": value} if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(_listed)]
Name = Annotated[str, Field(pattern=_PLAIN)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TreatmentBlock(_Block):
    """`show`, `hide`, `mask`, `hash`, or `{generalise: month}`; `lookup: true` takes the exact value all the same."""

    treatment: Kind | None = None
    generalise: str | int | float | None = None
    lookup: bool = False

    @model_validator(mode="after")
    def _fits(self) -> TreatmentBlock:
        if (self.treatment in (None, "generalise")) == (self.generalise is None):
            raise ValueError(f"give one of {', '.join(KINDS[2:])} and show, or {{generalise: month}}")
        step = self.generalise
        if isinstance(step, str) and step not in TIME_STEPS:
            raise ValueError(f"generalise takes {', '.join(TIME_STEPS)}, or a number to round down to a multiple of")
        if isinstance(step, bool) or (isinstance(step, int | float) and not 0 < step < 1e15):
            raise ValueError("the step of generalise must be above 0")
        if self.lookup and self.treatment == "hide":
            raise ValueError("a hidden field does not exist, and can't be looked up by: mask it, or leave lookup out")
        return self

    def said(self) -> Treatment:
        """As the model has it."""
        step = self.generalise or ""
        kind: Kind = self.treatment or "generalise"
        return Treatment(kind=kind, step=step if isinstance(step, str) else float(step), lookup=self.lookup)


Treated = Annotated[TreatmentBlock, BeforeValidator(_shortly)]


class Who(_Block):
    """Callers: all that is given here must fit, and of each list one entry (of `scopes` all)."""

    roles: Texts = []
    subjects: Texts = []
    issuers: Texts = []
    methods: Annotated[list[Method], BeforeValidator(_listed)] = []
    scopes: Texts = []
    claims: dict[str, Any] = {}

    @field_validator("scopes")
    @classmethod
    def _known_scopes(cls, names: list[str]) -> list[str]:
        if unknown := sorted(set(names) - set(SCOPES)):
            raise ValueError(f"there is no scope {', '.join(unknown)}: choose from {', '.join(SCOPES)}")
        return names

    @field_validator("methods")
    @classmethod
    def _not_anonymous(cls, names: list[Method]) -> list[Method]:
        if "anonymous" in names:
            raise ValueError("rules give nothing to anonymous callers: write what they may see under anonymised")
        return names

    @model_validator(mode="after")
    def _says_something(self) -> Who:
        if not self.model_fields_set:
            raise ValueError(f"says nothing of who is meant: write {EVERYONE} to mean all")
        return self


def _whole_to(value: Any) -> Any:
    """Names stand for roles."""
    if value == EVERYONE:
        return value
    return {"roles": value} if isinstance(value, str | list) else value


class EntityBlock(_Block):
    """What is given of an entity."""

    rows: Texts = []
    fields: dict[str, Treated] = {}
    classes: dict[str, Treated] = {}

    @field_validator("rows")
    @classmethod
    def _conditions(cls, texts: list[str]) -> list[str]:
        for text in texts:
            parse_condition(text)
        return texts

    @field_validator("classes")
    @classmethod
    def _classes(cls, classes: dict[str, TreatmentBlock]) -> dict[str, TreatmentBlock]:
        return _checked_classes(classes)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """`rows`, parsed."""
        return tuple(parse_condition(text) for text in self.rows)


Entities = Annotated[dict[str, EntityBlock | None], BeforeValidator(_named)]


class Rule(_Block):
    """Tools over entities and pipelines, to some callers."""

    name: Name
    to: Annotated[Literal["everyone"] | Who, BeforeValidator(_whole_to)]
    tools: Texts = Field(min_length=1)
    entities: Entities = {}
    pipelines: Texts = []
    approve: Texts = []
    """Of its tools that change something, those whose calls need another person's yes."""

    @field_validator("approve")
    @classmethod
    def _needs_approving(cls, patterns: list[str], info: ValidationInfo) -> list[str]:
        """A name that is misspelled would let calls through that nobody has approved."""
        changing = info.context
        given = info.data.get("tools")
        if changing is not None and given is not None:
            for pattern in patterns:
                _check_approved(pattern, tuple(given), changing)
        return patterns


def _check_approved(pattern: str, given: tuple[str, ...], changing: Collection[str]) -> None:
    named = [tool for tool in changing if any_fits(tool, (pattern,))]
    if not named:
        raise ValueError(
            f"{pattern} is no tool that changes something and could wait for a person's yes: leave it out, or choose "
            f"from {', '.join(sorted(changing))}"
        )
    if not any(any_fits(tool, given) for tool in named):
        raise ValueError(f"{pattern} is no tool that this rule gives: write it under tools too")


class CallerBlock(_Block):
    """A caller as a test or `explain` describes one."""

    subject: str = "someone"
    method: Method = "jwt"
    issuer: str = ""
    scopes: Texts = sorted(scope for scope in SCOPES if scope.endswith(":read"))
    claims: dict[str, Any] = {}


class Expected(_Block):
    """The fields that are answered, with their values."""

    fields: dict[str, Any]


class Case(_Block):
    """One test: what this caller gets of that entity, or of one row of it, by that tool."""

    name: str
    caller: CallerBlock
    tool: str
    entity: str | None = None
    row: dict[str, Any] | None = None
    expect: Literal["allowed", "denied", "approval"] | Expected
    """approval: given, once another person approves the call."""

    @model_validator(mode="after")
    def _fits(self) -> Case:
        if self.row is not None and self.entity is None:
            raise ValueError("a row needs its entity")
        if isinstance(self.expect, Expected) and self.row is None:
            raise ValueError("fields are expected of a row: give one")
        return self


class PolicyDocument(_Block):
    """The whole document."""

    roles: dict[Name, Who | list[Who]] = {}
    classes: dict[str, Treated] = {}
    rules: list[Rule] = []
    anonymised: Entities = {}
    tests: list[Case] = []

    @field_validator("classes")
    @classmethod
    def _classes(cls, classes: dict[str, TreatmentBlock]) -> dict[str, TreatmentBlock]:
        return _checked_classes(classes)

    @model_validator(mode="after")
    def _consistent(self) -> PolicyDocument:
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rules: the name {', '.join(twice)} is given twice: a record of calls names rules by it")
        for rule in self.rules:
            asked = rule.to.roles if isinstance(rule.to, Who) else []
            if unknown := sorted(set(asked) - set(self.roles)):
                there = ", ".join(self.roles) or "none"
                raise ValueError(f"rule {rule.name!r} names {', '.join(unknown)}, which is no role; roles: {there}")
        for name, role in self.roles.items():
            if any(who.roles for who in (role if isinstance(role, list) else [role])):
                raise ValueError(f"role {name!r} is made of roles: say in rules which roles each is for")
        return self


def _checked_classes(classes: dict[str, TreatmentBlock]) -> dict[str, TreatmentBlock]:
    for name in classes:
        if not _CLASS.fullmatch(name):
            raise ValueError("a class is such as personal.email, or personal.* for all of its kind")
    return classes


# --- reading ----------------------------------------------------------------------------------------


def version_of(text: str) -> str:
    """What a document is called by: the digest of its text."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def parse_document(text: str, shown: str = "policy", changing: Collection[str] | None = None) -> PolicyDocument:
    """The document in a text. ConfigError names each mistake by `shown`, line, place and mend; it quotes no value.

    `changing` are the tools that may need an approval; None: which they are is not looked at.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > MAX_BYTES:
        raise ConfigError(f"{shown}: is larger than {MAX_BYTES} bytes: say more with patterns and claims")
    try:
        tree = YAML(typ="rt").load(text) or {}
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{shown}:{line}: is no YAML: {error.problem}") from error
    except (YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{shown}:1: is no YAML") from error
    try:
        return PolicyDocument.model_validate(_plain(tree), context=changing)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        # Of `to`, which may be one word or a mapping, pydantic says what is wrong with either reading.
        found = [each for each in found if not any("literal[" in str(part) for part in each["loc"])] or found
        lines = dict.fromkeys(_mistake(tree, each["loc"], each["type"], each["msg"], shown) for each in found)
        raise ConfigError("\n".join(lines)) from error


def _mistake(tree: Any, loc: tuple[str | int, ...], kind: str, message: str, shown: str) -> str:
    place, line = _place(tree, loc)
    said = {"extra_forbidden": "is not a setting here", "missing": "is needed here"}.get(kind)
    message = said or message.removeprefix("Value error, ")
    where = ".".join(map(str, place)) or "the document"
    return f"{shown}:{line}: {where}: {message[:1].lower()}{message[1:]}"


def _place(tree: Any, loc: tuple[str | int, ...]) -> tuple[list[str | int], int]:
    """The part of the location that the document has (pydantic's own names left out), and its line."""
    node: Any = tree
    line = 1
    place: list[str | int] = []
    for part in loc:
        try:
            marks = node.lc  # ruamel's notes of lines and columns
            line = (marks.key if isinstance(node, Mapping) else marks.item)(part)[0] + 1
            node = node[part]
        except (KeyError, AttributeError, TypeError, IndexError):
            if part == loc[-1] and isinstance(node, Mapping) and isinstance(part, str):
                place.append(part)
            continue
        place.append(part)
    return place, line


def _plain(node: Any) -> Any:
    """YAML's tree as plain values. A time that YAML has read from unquoted text becomes text again."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (str, int, float):
        if isinstance(node, kind):
            return kind(node)
    return node.isoformat() if hasattr(node, "isoformat") else str(node)
