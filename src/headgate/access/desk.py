"""What one grant sees of the approvals that wait, and what its caller may decide."""

from __future__ import annotations

from collections.abc import Sequence

from headgate.access.approval import DECIDE, Approvals, unknown_approval
from headgate.access.policy import require
from headgate.errors import ApprovalOver
from headgate.model.access import any_fits
from headgate.model.approval import Approval, Decision
from headgate.model.caller import Grant


class Desk:
    """The approvals as one grant sees them: those of tools, and pipelines, that its policy gives it too.

    So what is hidden from somebody isn't told by what others want to do with it. Errors are those of `Approvals`.
    """

    def __init__(self, approvals: Approvals | None, grant: Grant) -> None:
        """Forbidden without `approvals:decide`. Approvals are there wherever calls are answered."""
        require(grant, (DECIDE,))
        assert approvals is not None, "a view outside of any server has none"
        self._approvals = approvals
        self._grant = grant

    async def open(self) -> Sequence[Approval]:
        """Those that are asked for under the policy that holds now, decided and used ones too, the oldest first."""
        return [each for each in await self._approvals.every() if self._sees(each) and self._is_current(each)]

    async def decide(self, approval_id: str, decision: Decision, reason: str) -> Approval:
        """As `Approvals.decide`; ApprovalOver too where the policy is another one by now."""
        return await self._approvals.decide(approval_id, decision, reason, self._grant.caller, self._require)

    def is_own(self, approval: Approval) -> bool:
        """Whether its caller has asked for it, and so can't decide it."""
        return approval.wish.caller.who == self._grant.caller.who

    def _require(self, approval: Approval) -> None:
        if not self._sees(approval):
            raise unknown_approval()
        if not self._is_current(approval):
            raise ApprovalOver(
                "This approval was asked for under another version of the policy, and is good for nothing by now: "
                "the same call asks for another one."
            )

    def _sees(self, approval: Approval) -> bool:
        if self._grant.given is None:
            return True
        pipeline = approval.pipeline
        return any(
            each.gives_tool(approval.wish.tool) and (not pipeline or any_fits(pipeline, each.pipelines))
            for each in self._grant.given
        )

    def _is_current(self, approval: Approval) -> bool:
        return approval.wish.policy_version == self._grant.policy_version
