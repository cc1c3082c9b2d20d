"""Alarms on what needs a person: each one notifies a topic."""

from pathlib import Path

from aws_cdk import App, Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess

RECIPE = Path(__file__).parents[2] / "model_assets" / "efficientnet_lite" / "lite0.py"

app = App()
stack = Stack(app, "WatchedPhotos")
model = ModelArtifact(stack, "Model", recipe=RECIPE)
pipeline = InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224))

topic = sns.Topic(stack, "Alarms", enforce_ssl=True)
ABOVE = {
    "DeadLetters": (pipeline.metric_dead_letters(), 0),
    "OldMessages": (pipeline.trigger.metric_oldest_message_age(), Duration.minutes(15).to_seconds()),
    "InvalidResults": (pipeline.metric_failed(), 0),
    "WorkflowFails": (pipeline.workflow.metric_failed(), 0),
    "WorkflowTimesOut": (pipeline.workflow.metric_timed_out(), 0),
    "InferenceThrottled": (pipeline.stages.inference.metric_throttles(), 100),
    "SlowResults": (pipeline.metric_latency(), Duration.minutes(1).to_milliseconds()),
}
for name, (metric, threshold) in ABOVE.items():
    alarm = metric.create_alarm(
        stack,
        name,
        threshold=threshold,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluation_periods=1,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
    )
    alarm.add_alarm_action(actions.SnsAction(topic))
app.synth()
