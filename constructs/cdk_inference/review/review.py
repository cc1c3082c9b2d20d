"""Reviews an app: what it is, what changed, and what to look at first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdk_inference.review import graphs
from cdk_inference.review.access import simulator
from cdk_inference.review.changes import access, cdk_diff, costs, edge, models, permissions, workflows
from cdk_inference.review.findings import Changes, Finding, Level, findings

if TYPE_CHECKING:
    from cdk_inference.costs.options import Traffic
    from cdk_inference.costs.prices import Prices
    from cdk_inference.drawings.graph import Graph
    from cdk_inference.review.assembly import Assembly
    from cdk_inference.review.changes.access import AskedEdges
    from cdk_inference.review.changes.cdk_diff import StackDiff


_SHOWN_STACKS = 3


@dataclass(frozen=True)
class Review:
    """All that a review shows.

    Parameters
    ----------
    after
        The app.
    before
        The app before the change; None if nothing is compared.
    traffic, prices
        The basis of the estimates.
    diffs
        The answers of ``cdk diff``, by stack.
    changes
        All that changes, or all models and costs if nothing is compared.
    asked
        The verdicts of a policy simulator; None if none is installed.
    findings
        The lines to look at first.
    pipelines, workflows
        The drawings.
    """

    after: Assembly
    before: Assembly | None
    traffic: Traffic
    prices: Prices
    diffs: tuple[StackDiff, ...]
    changes: Changes
    asked: AskedEdges | None
    findings: tuple[Finding, ...]
    pipelines: tuple[Graph, ...]
    workflows: tuple[Graph, ...]

    @property
    def title(self) -> str:
        """The names of the app's stacks."""
        names = [path for path, template in self.after.templates.items() if not template.nested]
        more = len(names) - _SHOWN_STACKS
        return ", ".join(names[:_SHOWN_STACKS]) + (f" and {more:,} more" if more > 0 else "")

    @property
    def level(self) -> Level:
        """The level of the most dangerous finding."""
        return max((finding.level for finding in self.findings), default=Level.NOTE)

    @property
    def summary(self) -> str:
        """The changes in one line."""
        counts = {
            words: sum(1 for each in self.changes.resources if each.sign == sign)
            for words, sign in (("added", "+"), ("changed", "~"), ("removed", "-"))
        }
        replaced = sum(1 for each in self.changes.resources if each.impact in ("replace", "may be replaced"))
        counts["replaced"] = replaced
        counts["changed"] -= replaced
        parts = [f"{count:,} {words}" for words, count in counts.items() if count]
        return f"resources: {', '.join(parts)}" if parts else "no resource changes"


def review(after: Assembly, before: Assembly | None, traffic: Traffic, prices: Prices) -> Review:
    """Review an app.

    Parameters
    ----------
    after
        The app.
    before
        The app before the change. Without it, wildcards in the app's own policies are what to look at first.
    traffic, prices
        The basis of the estimates.

    Raises
    ------
    ReviewError
        If the CDK CLI is not installed, or fails.
    """
    diffs = cdk_diff.compare(before.templates, after.templates) if before is not None else []
    old = before.templates if before is not None else {}
    gained = [
        change
        for path, template in after.templates.items()
        for change in permissions.compare(old.get(path), template)
        # Whatever a new stack has would be a gain.
        if path in old or change.wildcard
    ]
    flows = [
        change for path, new in after.templates.items() if path in old for change in workflows.compare(old[path], new)
    ]
    asked = access.compare(old, after.templates) if simulator.installed() else None
    changes = Changes(
        resources=[change for diff in diffs for change in diff.changes],
        permissions=gained,
        access=asked.changes if asked is not None else (),
        models=models.compare(before, after),
        costs=costs.compare(before, after, traffic, prices),
        devices=edge.compare(before, after),
        workflows=flows,
        left=[path for path, template in old.items() if path not in after.templates and not template.nested],
    )
    by_path = {(flow.stack, flow.path): flow for flow in flows}
    return Review(
        after=after,
        before=before,
        traffic=traffic,
        prices=prices,
        diffs=tuple(diffs),
        changes=changes,
        asked=asked,
        findings=tuple(findings(changes)),
        pipelines=tuple(
            graph
            for path, template in after.templates.items()
            for graph in graphs.pipelines(template, [each for each in changes.resources if each.stack == path])
        ),
        workflows=tuple(
            graph
            for path, template in after.templates.items()
            for flow in workflows.workflows(template).values()
            for graph in graphs.levels(flow, by_path.get((path, flow.path)))
        ),
    )
