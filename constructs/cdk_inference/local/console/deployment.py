"""The pipelines that are deployed: they come, change and go while the console is open."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from cdk_inference.common.json_values import mapping
from cdk_inference.costs.recorded import METADATA_KEY
from cdk_inference.local import aws
from cdk_inference.local.console.notices import NoticeObject
from cdk_inference.local.console.pipeline_view import PipelineView
from cdk_inference.local.errors import LocalError
from cdk_inference.local.failures import FailureFeed
from cdk_inference.local.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdk_inference.local.cloud import Cloud
    from cdk_inference.local.console.notices import Notices
    from cdk_inference.local.stacks import Resource

_SHOWN_KEYS = 3


class Deployment:
    """The pipelines of an embedded AWS.

    Parameters
    ----------
    find
        Returns the embedded AWS, or raises `LocalError` if there is none. It is asked again when that has ended.
    pipeline
        The pipeline that is shown first; None for the first by name.
    notices
        The notices, which each look shows.
    """

    def __init__(self, find: Callable[[], Cloud], pipeline: str | None, notices: Notices) -> None:
        self._find = find
        self._first = pipeline
        self._notices = notices
        self._lock = threading.Lock()  # one look at a time: requests come from several threads
        self._since = round(time.time() * 1000)
        self._failures: FailureFeed | None = None
        self._cloud: Cloud | None = None
        self._marks: object = None
        self._views: dict[str, PipelineView] = {}
        self._functions: list[Resource] = []
        self._costs: dict[str, str] = {}

    def look(self, name: str | None) -> dict[str, Any]:
        """Return the sections of a pipeline, with the names of all of them.

        Parameters
        ----------
        name
            Its name. Default: the one that is shown first.

        Raises
        ------
        LocalError
            If the embedded AWS has ended, or there is no such pipeline.
        """
        with self._lock:
            view = self._view(name)
            found = view.look()
            self._tell_failures()
            shown = next(known for known, each in self._views.items() if each is view)
            return found | {
                "pipelines": {"names": list(self._views), "shown": shown},
                "notices": {"notices": self._notices.newest()},
                "trouble": {"message": ""},
            }

    def ask(self, name: str | None, question: Callable[[PipelineView], Any]) -> Any:  # noqa: ANN401
        """Return the answer to a question about a pipeline, while nobody else looks at it.

        Parameters
        ----------
        name
            Its name. Default: the one that is shown first.
        question
            Called with the pipeline.
        """
        with self._lock:
            return question(self._view(name))

    def functions(self, name: str | None) -> list[Resource]:
        """Return the functions of a pipeline."""
        with self._lock:
            view = self._view(name)
            return [each for each in self._functions if each.physical_id in view.pipeline.parts.functions]

    def recorded_costs(self, name: str | None) -> str | None:
        """Return what the deployed template has on the costs of a pipeline, if it has something."""
        with self._lock:
            view = self._view(name)
            return self._costs.get(view.pipeline.name)

    def _tell_failures(self) -> None:
        """Add the errors of user code that are new."""
        for failure in self._failures.new() if self._failures is not None else ():
            keys = failure.keys[:_SHOWN_KEYS]
            more = len(failure.keys) - len(keys)
            what = ", ".join(keys) + (f" and {more} more" if more else "") if keys else "every object"
            title = f"{what} failed in {failure.stage}: {failure.error}; {failure.next}"
            topic = (failure.stage, failure.keys, failure.traceback)  # the same error of the next try
            # Only a pipeline with an inbox has objects to show.
            view = self._views.get(failure.pipeline) if len(failure.keys) == 1 else None
            inbox = None if view is None else view.pipeline.inbox
            about = None if inbox is None else NoticeObject(failure.pipeline, inbox, keys[0])
            self._notices.add("failure", title, failure.traceback, at=failure.at, about=about, topic=topic)

    def _view(self, name: str | None) -> PipelineView:
        self._renew()
        wanted = name or self._first or next(iter(self._views), None)
        if wanted is None:
            raise LocalError(
                "a pipeline or a TextStream must be deployed in the embedded AWS, got none; deploy one first"
            )
        if wanted not in self._views:
            raise LocalError(f"pipeline must be one of {', '.join(self._views)}, got {wanted!r}")
        return self._views[wanted]

    def _renew(self) -> None:
        """Find the embedded AWS again if it has ended, and its pipelines if stacks have changed."""
        if self._cloud is not None:
            try:
                self._cloud.check()
            except LocalError:
                self._cloud = None
        if self._cloud is None:
            self._cloud, self._marks, self._views = self._find(), None, {}
            self._failures = FailureFeed(self._cloud, self._since)
        cloud = self._cloud
        marks = aws.call(cloud.endpoint, aws.ENVIRONMENTS)["marks"]
        if marks == self._marks:
            return
        pipelines = cloud.pipelines() | cloud.text_streams()
        self._views = {name: PipelineView(cloud.endpoint, pipelines[name]) for name in sorted(pipelines)}
        self._functions, self._costs = cloud.resources(type="AWS::Lambda::Function"), {}
        for name, env in {(function.stack, function.env) for function in self._functions}:
            template = Stack(aws.client(cloud.endpoint, "cloudformation", env), name, env).template()
            self._costs |= mapping(mapping(template.get("Metadata")).get(METADATA_KEY))
        self._marks = marks
