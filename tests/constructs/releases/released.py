"""A pipeline with a release, and what it is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.constructs.conftest import RECIPE, make_stack, resources

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess, Release, Route

if TYPE_CHECKING:
    from cdk_inference import ReleaseStrategy


class Released:
    """A pipeline with a release, and what it is made of."""

    def __init__(self, release: Any = None, **props: Any) -> None:
        self.stack = make_stack()
        self.model = ModelArtifact(self.stack, "Old", recipe=RECIPE)
        self.preprocess = Preprocess.image(size=224)
        self.candidate = self.route("new")
        self.props = {"model": self.model, "preprocess": self.preprocess} | props
        self.release: ReleaseStrategy = release(self) if release else Release.canary(candidate=self.candidate)

    def route(self, name: str, **options: Any) -> Route:
        return Route(name, model=ModelArtifact(self.stack, name, recipe=RECIPE), preprocess=self.preprocess, **options)

    def pipeline(self) -> InferencePipeline:
        return InferencePipeline(self.stack, "Photos", release=self.release, **self.props)

    def definition(self, part: str) -> dict[str, Any]:
        """Return the definition of a state machine, with names in the place of references."""
        (machine,) = (
            resource
            for name, resource in resources(self.stack, "AWS::StepFunctions::StateMachine").items()
            if part in name
        )
        pieces = machine["Properties"]["DefinitionString"]["Fn::Join"][1]
        return json.loads("".join(piece if isinstance(piece, str) else str(piece["Ref"]) for piece in pieces))

    def statements(self, role: str) -> dict[str, Any]:
        """Return what a role may do, by action: the resource, and the conditions if there are any."""
        found = {}
        for policy in resources(self.stack, "AWS::IAM::Policy").values():
            if any(role in one["Ref"] for one in policy["Properties"]["Roles"]):
                for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
                    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                    found |= {action: (statement["Resource"], statement.get("Condition")) for action in actions}
        return found
