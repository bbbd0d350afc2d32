"""`headgate policy test`, `explain` and `check`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path

import typer
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from headgate.access.document import CallerBlock, PolicyDocument
from headgate.access.explain import caller_of, explain, run_cases
from headgate.access.findings import findings_of
from headgate.access.identity import Credentials
from headgate.access.policy import Edition
from headgate.access.policy_file import read_text
from headgate.access.rules import Rules
from headgate.app import App
from headgate.config import load
from headgate.errors import ConfigError
from headgate.model.caller import Caller
from headgate.model.entity import Entity
from headgate.tools.base import approvable, discover

_SIGNS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def run_policy_test(policy: Path | None, config: Path) -> int:
    """A line for each of the document's tests; 1 if one is not as expected, or there is none."""
    _, rules = _rules(policy, config)
    verdicts = list(run_cases(rules, _entities(config), _classes(config), secrets.token_bytes(32)))
    for verdict in verdicts:
        typer.echo(f"{'ok  ' if verdict.is_as_expected else 'MISS'}  {verdict.name}: {verdict.said}")
    missed = sum(not verdict.is_as_expected for verdict in verdicts)
    typer.echo(f"{len(verdicts)} tests, {missed} missed" if verdicts else "the policy has no tests: write some")
    return 1 if missed or not verdicts else 0


def run_policy_explain(config: Path, policy: Path | None, who: str, tool: str, entity: str | None) -> int:
    """Each rule's part in what a caller gets; 1 if it gets nothing."""
    _, rules = _rules(policy, config)
    entities = _entities(config)
    caller = _caller(who, config)
    explanation = explain(rules, caller, tool, entity, entities)
    typer.echo(explanation.verdict)
    for line in explanation.lines:
        typer.echo(f"  {line}")
    needed = discover(entities)[tool].scopes if tool in discover(entities) else frozenset()
    lacking = sorted(needed - caller.scopes) if "admin" not in caller.scopes else []
    if lacking:
        typer.echo(f"  the tool needs the scope {', '.join(lacking)}, which the caller lacks: it would answer 403")
    return 0 if explanation.is_given and not lacking else 1


def run_policy_check(policy: Path | None, config: Path) -> int:
    """The document beside the entities that the config's store holds; 1 if a server would refuse it."""
    version, rules = _rules(policy, config)
    findings = findings_of(rules.document, _entities(config))
    for finding in findings:
        mend = f"\n          → {finding.mend}" if finding.mend else ""
        typer.echo(f"{_SIGNS[finding.level]} {finding.message}{mend}")
    typer.echo(f"{version}: {_size(rules.document)}")
    return 1 if any(finding.level == "error" for finding in findings) else 0


def _size(document: PolicyDocument) -> str:
    return f"{len(document.rules)} rules, {len(document.anonymised)} anonymised entities, {len(document.tests)} tests"


def _rules(policy: Path | None, config: Path) -> tuple[str, Rules]:
    file = policy or _policy_of(config)
    edition = Edition.of(read_text(file), str(file), approvable())
    assert edition.rules is not None, "a document has rules"
    return edition.version, edition.rules


def _policy_of(config: Path) -> Path:
    file = load(config).policy
    if file is None:
        raise ConfigError(
            f"{config} names no policy: write  access: {{policy: policy.yaml}}  or name the document here"
        )
    return file


def _entities(config: Path) -> Mapping[str, Entity]:
    """What the config's store serves; nothing where there is no config, or no store yet."""
    if not config.exists():
        return {}

    async def read(app: App) -> Mapping[str, Entity]:
        try:
            return await app.reader.entities()
        finally:
            await app.reader.close()

    with App(load(config)) as app:
        return asyncio.run(read(app))


def _classes(config: Path) -> Mapping[str, Mapping[str, str]]:
    """The classes that the config gives to fields, whether or not a store knows of them yet."""
    if not config.exists():
        return {}
    declared = [entity for pipeline in load(config).pipelines.values() for entity in pipeline.entities]
    return {each.name: {name: said.classification for name, said in each.fields.items()} for each in declared}


def _caller(who: str, config: Path) -> Caller:
    """The caller that YAML describes, or that a token or key is of."""
    if not any(sign in who for sign in ":{ \n") and config.exists():
        with App(load(config)) as app:
            return asyncio.run(app.rooms.identity.identify(Credentials(bearer=who, door="http")))
    try:
        return caller_of(CallerBlock.model_validate(YAML(typ="safe").load(who)))
    except (YAMLError, ValidationError) as error:
        raise ConfigError(
            "a caller is a token, an API key, or such as  {subject: ada, scopes: [data:read], claims: {tenant: acme}}"
        ) from error
