"""A whole route in one function: it reads objects, runs the model on the CPU, and writes rows."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack

from aws_cdk import Duration, Size

from cdk_inference.bundling.delivery import ModelDelivery, ModelPackage
from cdk_inference.bundling.packages import ZipPackage
from cdk_inference.capacity.strategy import ON_DEMAND
from cdk_inference.common import acknowledgments
from cdk_inference.common.metadata import add_metadata, model_facts
from cdk_inference.common.props.deprecations import renamed_props
from cdk_inference.common.props.prop_types import check_props
from cdk_inference.costs.memory import warn_of_memory
from cdk_inference.errors import PropError
from cdk_inference.stages.base import FunctionOptions, StageFunction
from cdk_inference.stages.inference import engine_environment
from cdk_inference.stages.longest_text import check_longest_text
from cdk_inference.stages.postprocess import MASKS_ADDRESS, recording_environment
from cdk_inference.stages.preprocess import reading_environment
from cdk_inference.storage.work_bucket import MASKS, WorkBucket

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from constructs import Construct

    from cdk_inference.bundling.packages import Engine
    from cdk_inference.capacity.strategy import CapacityStrategy
    from cdk_inference.explanations.explain import Explanation
    from cdk_inference.model.artifact import ModelArtifact
    from cdk_inference.stages.postprocess import Postprocess
    from cdk_inference.stages.preprocess import Preprocess
    from cdk_inference.stages.stage_code import StageCode
    from cdk_inference.storage.results import IResultsTable
    from cdk_inference.storage.work_bucket import IWorkBucket
    from cdk_inference.triggers.base import ITrigger

STAGES = ("preprocess", "inference", "postprocess")
"""The stages in the function, in this order."""

HANDLER = "inference_runtime.handlers.fused.handler"
DIRECT_HANDLER = "inference_runtime.handlers.direct.handler"
"""Entry points: for a workflow, and for the event source mapping of a queue."""

BEFORE, AFTER = "PREPROCESS", "POSTPROCESS"
"""The beginnings of the names of the variables of each stage."""


@check_props
@renamed_props(max_object_bytes=("max_object_size", Size.bytes), result_ttl_days=("result_ttl", Duration.days))
class FusedFunction(StageFunction):
    """Reads a batch of objects, runs the model on them, and writes a row for each.

    One cold start instead of three, one invocation and no tensors that travel. Its one role may do
    what the three functions may do.

    Parameters
    ----------
    preprocess
        How one object becomes an array.
    model
        The artifact; it is part of the function's package.
    postprocess
        How the outputs for one object become a prediction.
    trigger
        Where the objects are; the function may read them.
    results
        The table; the function may put rows.
    max_object_size
        Larger objects are rejected before they are read. Default: 64 MiB.
    result_ttl
        The time after which DynamoDB deletes a row. Default: rows stay.
    confidence
        Whether rows say how sure the model was, as those of a cascade do.
    memory_size
        Default: 1,769 MiB, one vCPU.
    timeout
        Default: 40 seconds.
    capacity
        Where environments come from. Default: Lambda makes them on demand.
    explanation
        Which answers are explained, and how. Default: none.
    engine, delivery
        As those of `CpuInference`.
    handler
        The entry point within the package. Default: the one that a workflow invokes.
    work
        The work bucket for masks, if postprocessing makes any. Default: a new one.
    **options
        As those of `StageFunction`.

    Attributes
    ----------
    work
        The work bucket with the masks; None if postprocessing makes none.

    Raises
    ------
    PropError
        A stage does not fit the model, or the two stages do not fit into one package.
    """

    work: IWorkBucket | None = None

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        preprocess: Preprocess,
        model: ModelArtifact,
        postprocess: Postprocess,
        trigger: ITrigger,
        results: IResultsTable,
        max_object_size: Size | None = None,
        result_ttl: Duration | None = None,
        confidence: bool = False,
        explanation: Explanation | None = None,
        memory_size: int = 1769,
        timeout: Duration | None = None,
        capacity: CapacityStrategy | None = None,
        engine: Engine | None = None,
        delivery: ModelDelivery | None = None,
        handler: str = HANDLER,
        work: IWorkBucket | None = None,
        **options: Unpack[FunctionOptions],
    ) -> None:
        preprocess = preprocess.keeping(postprocess.needs)
        before = preprocess.bind(model.inputs)
        after = postprocess.fitting(model.manifest.distributions).bind(model.outputs)
        check_longest_text(model, preprocess, model.project)
        super().__init__(
            scope,
            id,
            package=ModelPackage(
                package=fused_package(before, after, handler, {} if explanation is None else explanation.files),
                model=model,
                memory_size=memory_size,
                engine=engine,
                delivery=delivery if delivery is not None else ModelDelivery.auto(),
            ),
            description=f"scores objects with {model.manifest.name}",
            environment={
                **before.environment(BEFORE),
                **after.environment(AFTER),
                **reading_environment(preprocess, model, max_object_size),
                **recording_environment(results, result_ttl),
                **engine_environment(model, confidence=confidence),
                **({} if explanation is None else explanation.reading_environment),
                **({} if explanation is None else explanation.engine_environment),
            },
            memory_size=memory_size,
            timeout=timeout if timeout is not None else Duration.seconds(40),
            capacity=capacity if capacity is not None else ON_DEMAND,
            **options,
        )
        self.model_version = model.version
        add_metadata(
            self.function,
            "function",
            stage=id,
            stages=list(STAGES),
            model=model_facts(model.manifest),
            table=results.table.table_name,
        )
        trigger.grant_read(self)
        results.grant_write_rows(self)
        trigger.acknowledge_read(self.role)
        if postprocess.makes_masks:
            self._write_masks(work, options)
        warn_of_memory(self, model, memory_size)  # at least: the stages need some too
        if explanation is not None:
            explanation.record(self)
        self._content_types: Sequence[str] | None = None

    def _write_masks(self, work: IWorkBucket | None, options: FunctionOptions) -> None:
        """Let the function write masks into the work bucket, or into a new one."""
        if work is None:
            key, removal_policy = options.get("encryption_key"), options.get("log_removal_policy")
            work = WorkBucket(self, "Work", encryption_key=key, removal_policy=removal_policy)
        work.grant_write_masks(self)
        self.add_variables({MASKS_ADDRESS: work.masks_address})
        acknowledgments.objects_under(self.role, work.bucket, MASKS)
        self.work = work

    def take_requests(self, content_types: Sequence[str]) -> None:
        """Have the function refuse requests of an API that have other media types; none stands for any.

        Raises
        ------
        PropError
            Another API of the function takes others.
        """
        if self._content_types is not None and list(self._content_types) != list(content_types):
            raise PropError(
                f"content_types must be the same for all APIs of {self.node.path}, got {list(content_types)} after "
                f"{list(self._content_types)}"
            )
        self._content_types = content_types
        if content_types:
            self.add_variables({"API_CONTENT_TYPES": " ".join(content_types)})


def fused_package(
    before: StageCode, after: StageCode, handler: str = HANDLER, files: Mapping[str, bytes] = MappingProxyType({})
) -> ZipPackage:
    """Return the code of both stages in one package.

    Parameters
    ----------
    before, after
        The code of preprocessing and of postprocessing.
    handler
        The entry point.
    files
        More files of the package.

    Raises
    ------
    PropError
        The stages do not fit into one package.
    """
    _check_versions(before, after)
    return ZipPackage(
        handler=handler,
        runtime_requirements=(before.runtime_requirements, after.runtime_requirements),
        requirements=(*before.requirements, *after.requirements),
        # A package excluded for one stage may still be needed by the other stage's code.
        excluded_requirements=(
            *(before.excluded_requirements if not after.requirements else ()),
            *(after.excluded_requirements if not before.requirements else ()),
        ),
        sources={**_sources(before, after), **files},
    )


def _sources(before: StageCode, after: StageCode) -> dict[str, Path | bytes]:
    """Return what both stages put into the package, by the name in it.

    Raises
    ------
    PropError
        They bring different files of one name, or different modules.
    """
    files = before.files(BEFORE)
    for name, source in after.files(AFTER).items():
        for other in files:
            # A folder hides the module of the same name.
            if _module(other) == _module(name) and not (other == name and _same(files[other], source)):
                raise PropError(
                    f"modules of a fused function must have unique names, got '{_origin(other, files[other])}' of "
                    f"preprocess and '{_origin(name, source)}' of postprocess, both called '{_module(name)}'; rename "
                    "one, or share one file"
                )
    return {**files, **after.files(AFTER)}


def _module(name: str) -> str:
    return name.removesuffix(".py")


def _same(one: Path | bytes, other: Path | bytes) -> bool:
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    return one.resolve() == other.resolve()


def _origin(name: str, source: Path | bytes) -> str:
    return name if isinstance(source, bytes) else str(source)


def _check_versions(before: StageCode, after: StageCode) -> None:
    """Refuse versions of a package that one stage pins and the other cannot do with.

    The rest, what packages require of each other, shows when the function is bundled.
    """
    if not (before.requirements and after.requirements):
        return
    wanted = _versions(before)
    for name, line in _versions(after).items():
        if name in wanted and _contradict(wanted[name], line):
            raise PropError(
                f"requirements of preprocess and postprocess must agree in a fused function, got '{wanted[name]}' and "
                f"'{line}'; agree on a version, or leave Execution.fused() out"
            )


def _versions(code: StageCode) -> Mapping[str, str]:
    """Return the stage's requirements, without those for some platforms only, by the package's name."""
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - takes a while to import
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    from cdk_inference.bundling.wheels import Requirements  # noqa: PLC0415

    found: dict[str, str] = {}
    for line in Requirements(code.requirements).named:
        text = line.split(" #")[0].split(" --")[0].strip().removesuffix("\\").strip()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # a path, or an address: the installer compares what is behind it
            continue
        if requirement.marker is None:
            found[canonicalize_name(requirement.name)] = text
    return found


def _contradict(one: str, other: str) -> bool:
    from packaging.requirements import Requirement  # noqa: PLC0415 - see above

    first, second = Requirement(one).specifier, Requirement(other).specifier
    pins = [
        (part.version, against)
        for specifiers, against in ((first, second), (second, first))
        for part in specifiers
        if part.operator in ("==", "===") and not part.version.endswith(".*")
    ]
    return any(not against.contains(version, prereleases=True) for version, against in pins)
