"""What the rules of a document give to one caller, and why not what they don't."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, Final

from headgate.access.conditions import Condition, claim_of
from headgate.access.document import EVERYONE, EntityBlock, PolicyDocument, Rule, TreatmentBlock, Who
from headgate.model.access import HIDE, Allowed, Given, Share, Treatment, any_fits
from headgate.model.caller import Caller

ANONYMISED: Final = "anonymised"
"""The rule that gives anonymous callers what they see."""
ANONYMOUS_TOOLS: Final = ("lookup", "lookup_*", "find", "describe_data", "check_data_freshness")

BUILT_IN_CLASSES: Final = {
    "personal.*": Treatment(kind="mask"),
    "*": HIDE,
}
"""What happens to a class that the document does not treat: what is classified shows by a rule's word alone."""


class Rules:
    """A document's rules, ready to be held against callers."""

    def __init__(self, document: PolicyDocument, changing: Collection[str] | None = None) -> None:
        """`changing` are the tools that may need an approval, where they are known."""
        self.document = document
        self._changing = changing
        self._classes = _treatments(document.classes)
        self._roles = {name: role if isinstance(role, list) else [role] for name, role in document.roles.items()}

    @property
    def claims_used(self) -> frozenset[str]:
        """The first parts of all claims that a decision may depend on, and their whole names."""
        return frozenset(name for path in self._claim_paths for name in (path, path.partition(".")[0]))

    @cached_property
    def _claim_paths(self) -> frozenset[str]:
        whos = [who for role in self._roles.values() for who in role]
        whos += [rule.to for rule in self.document.rules if isinstance(rule.to, Who)]
        blocks = [block for rule in self.document.rules for block in rule.entities.values() if block]
        blocks += [block for block in self.document.anonymised.values() if block]
        paths = {path for who in whos for path in who.claims}
        return frozenset(
            paths | {condition.claim for block in blocks for condition in block.conditions if condition.claim}
        )

    def claims_of(self, caller: Caller) -> dict[str, Any]:
        """The claims that a decision may depend on and that the caller has, by the paths that the document names."""
        found = {path: claim_of(caller.claims, path) for path in sorted(self._claim_paths)}
        return {path: value for path, value in found.items() if value is not None}

    def given(self, caller: Caller) -> tuple[Given, ...]:
        """What each rule that fits the caller gives, in the document's order."""
        if caller.method == "anonymous":
            shares = self._shares(self.document.anonymised, caller, is_anonymised=True)
            return (Given(rule=ANONYMISED, tools=ANONYMOUS_TOOLS, shares=shares),) if shares else ()
        return tuple(self._given_by(rule, caller) for rule in self.document.rules if not self.why_not(rule, caller))

    def why_not(self, rule: Rule, caller: Caller) -> str:
        """Why a rule is not for this caller; empty if it is."""
        if caller.method == "anonymous":
            return "rules give nothing to anonymous callers; anonymised does"
        if rule.to == EVERYONE or not isinstance(rule.to, Who):
            return ""
        roles = rule.to.roles
        if roles and not any(_fits(who, caller) for name in roles for who in self._roles[name]):
            return f"the caller has not the role {' or '.join(roles)}"
        return _why_unfit(rule.to, caller)

    def asks_for(self, rule: Rule, tool: str) -> bool:
        """Whether the rule gives the tool, and a call of it needs another person's yes."""
        is_able = self._changing is None or tool in self._changing
        return is_able and any_fits(tool, tuple(rule.approve)) and any_fits(tool, tuple(rule.tools))

    def missing_claims(self, block: EntityBlock | None, caller: Caller) -> list[str]:
        """The claims that the block's conditions need and the caller lacks (or has in a form that does not fit)."""
        conditions = block.conditions if block else ()
        return [each.claim for each in conditions if each.source == "claim" and each.allowed(caller) is None]

    def _given_by(self, rule: Rule, caller: Caller) -> Given:
        return Given(
            rule=rule.name,
            tools=tuple(rule.tools),
            shares=self._shares(rule.entities, caller),
            pipelines=tuple(rule.pipelines),
            approve=tuple(rule.approve),
        )

    def _shares(
        self, blocks: Mapping[str, EntityBlock | None], caller: Caller, *, is_anonymised: bool = False
    ) -> tuple[Share, ...]:
        found = []
        for entity, block in blocks.items():
            rows = _allowed(block.conditions if block else (), caller)
            if rows is None:
                continue
            fields = _treatments(block.fields) if block else {}
            if is_anonymised:
                fields = {**fields, "*": HIDE}
            own = _treatments(block.classes) if block else {}
            classes = tuple(each for each in (own, self._classes, BUILT_IN_CLASSES) if each)
            found.append(Share(entity=entity, rows=rows, fields=fields, classes=classes))
        return tuple(found)


def _allowed(conditions: tuple[Condition, ...], caller: Caller) -> tuple[Allowed, ...] | None:
    """The conditions with this caller's values; None where it lacks one of the claims."""
    found = [condition.allowed(caller) for condition in conditions]
    return None if None in found else tuple(each for each in found if each is not None)


def _treatments(blocks: Mapping[str, TreatmentBlock]) -> dict[str, Treatment]:
    return {name: block.said() for name, block in blocks.items()}


def _fits(who: Who, caller: Caller) -> bool:
    return not _why_unfit(who, caller)


def _why_unfit(who: Who, caller: Caller) -> str:
    """Why the caller is none of these, its roles apart; empty if it is one."""
    for what, wanted, found in (
        ("subject", who.subjects, caller.subject),
        ("issuer", who.issuers, caller.issuer),
        ("method", who.methods, caller.method),
    ):
        if wanted and found not in wanted:
            return f"the caller's {what} is not {' or '.join(wanted)}"
    if "admin" not in caller.scopes and (lacking := sorted(set(who.scopes) - caller.scopes)):
        return f"the caller lacks the scope {', '.join(lacking)}"
    for name, wanted in who.claims.items():
        if not _holds(claim_of(caller.claims, name), wanted):
            return f"the caller's claim {name} does not fit"
    return ""


def _holds(found: Any, wanted: Any) -> bool:
    """Whether a claim, or one entry of it, is the wanted value, or one of the wanted ones. True is not 1."""
    given = found if isinstance(found, list) else [found]
    asked = wanted if isinstance(wanted, list) else [wanted]
    return any(one == other and type(one) is type(other) for one in given for other in asked if one is not None)
