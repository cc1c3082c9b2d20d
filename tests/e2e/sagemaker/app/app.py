"""A pipeline on SageMaker, whose template is then changed so that the embedded AWS can deploy it.

It knows neither SageMaker nor scaling, and has no Docker: those resources go, and the submit function asks the test's
own SageMaker. All else is as it would be in AWS. The clock of the task that waits runs faster.
"""

import json
import shutil
from pathlib import Path

import aws_cdk as cdk

from cdk_inference import Explain, Inference, InferencePipeline, ModelArtifact, Postprocess, Preprocess
from cdk_inference.gpu.sagemaker import SageMakerAsync

HERE = Path(__file__).parent
UNKNOWN = ("AWS::SageMaker::", "AWS::ApplicationAutoScaling::", "AWS::CloudWatch::")
TASK_SECONDS = 8

app = cdk.App(post_cli_context={"cdk-inference:accelerator": "gpu"})
stack = cdk.Stack(app, "Asynchronous")
pipeline = InferencePipeline(
    stack,
    "Numbers",
    model=ModelArtifact(stack, "Model", recipe=HERE / "model" / "recipe.py"),
    preprocess=Preprocess.function(HERE / "stages.py:preprocess"),
    postprocess=Postprocess.function(HERE / "stages.py:postprocess"),
    inference=Inference.gpu(backend=SageMakerAsync(), max_wait=cdk.Duration.minutes(1)),
    batch_size=8,
    max_batching_window=cdk.Duration.seconds(2),
    stage_timeout=cdk.Duration.seconds(20),
    explain=Explain.on_request(heat_map=True),
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
fake = app.node.get_context("sagemaker")
app.synth()


def resolved(value):
    """Return a part of the template without references to what is not deployed."""
    match value:
        case {"Fn::GetAtt": [name, "EndpointName"]} if name in gone:
            return "numbers-1"
        case dict():
            return {name: resolved(part) for name, part in value.items()}
        case list():
            return [resolved(part) for part in value if not (isinstance(part, str) and part in gone)]
        case str():
            return value.replace(f'"TimeoutSeconds":{waits}', f'"TimeoutSeconds":{TASK_SECONDS}')
    return value


path = Path(app.outdir) / "Asynchronous.template.json"
template = json.loads(path.read_text())
gone = {name for name, resource in template["Resources"].items() if resource["Type"].startswith(UNKNOWN)}
waits = 60 + 60 + 300
left = {name: resolved(resource) for name, resource in template["Resources"].items() if name not in gone}
(submit,) = (r for n, r in left.items() if r["Type"] == "AWS::Lambda::Function" and "Submit" in n)
submit["Properties"]["Environment"]["Variables"]["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = fake
assert f'"TimeoutSeconds":{TASK_SECONDS}' in json.dumps(left).replace("\\", "")
path.write_text(json.dumps({**template, "Resources": left}))
path.with_name("whole.json").write_text(json.dumps(template["Resources"]))

path = Path(app.outdir) / "Asynchronous.assets.json"
assets = json.loads(path.read_text())
(image,) = assets["dockerImages"].values()
shutil.copy(path.with_name(image["source"]["directory"]) / "explanation.json", path.with_name("explanation.json"))
path.write_text(json.dumps({**assets, "dockerImages": {}}))
