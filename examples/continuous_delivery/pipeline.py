"""CDK Pipelines: one step builds the model and pushes it, the next synthesizes with it, and the last deploys."""

from aws_cdk import App, Stack, pipelines
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from app import Service

app = App()
stack = Stack(app, "Delivery")
registry = s3.Bucket.from_bucket_name(stack, "Registry", app.node.get_context("registry-bucket"))
source = pipelines.CodePipelineSource.connection(
    app.node.get_context("repository"), "main", connection_arn=app.node.get_context("connection-arn")
)
environment = {"CDK_INFERENCE_REGISTRY": f"s3://{registry.bucket_name}/models", "MODEL_FILE": "model/model.json"}
read = iam.PolicyStatement(actions=["s3:GetObject"], resources=[registry.arn_for_objects("models/*")])
find = iam.PolicyStatement(actions=["s3:ListBucket"], resources=[registry.bucket_arn])
write = iam.PolicyStatement(actions=["s3:PutObject"], resources=[registry.arn_for_objects("models/*")])
model = pipelines.CodeBuildStep(
    "Model",
    input=source,
    build_environment=codebuild.BuildEnvironment(compute_type=codebuild.ComputeType.LARGE),
    install_commands=["pip install 'cdk-inference[model,registry]'"],
    env=environment,
    commands=[
        "mkdir -p model",
        "python -m cdk_inference.model push model_assets/digits_cnn/recipe.py --frozen --json > model/model.json",
    ],
    primary_output_directory="model",
    role_policy_statements=[read, find, write],
)
synth = pipelines.CodeBuildStep(
    "Synth",
    input=source,
    additional_inputs={"model": model},
    install_commands=["pip install 'cdk-inference[registry]'", "npm install --global aws-cdk"],
    env=environment,
    commands=["cdk synth --app 'python3 examples/continuous_delivery/pipeline.py'"],
    role_policy_statements=[read, find],
)
delivery = pipelines.CodePipeline(stack, "Pipeline", synth=synth)
delivery.add_stage(Service(app, "Production"))
app.synth()
