"""The metrics of a pipeline on a dashboard of cdk-monitoring-constructs, and an alarm.

`pip install cdk-monitoring-constructs`
"""

from pathlib import Path

from aws_cdk import App, Duration, Stack
from aws_cdk import aws_sns as sns
from aws_cdk.aws_cloudwatch import ComparisonOperator
from cdk_monitoring_constructs import (
    AlarmFactoryDefaults,
    CustomMetricGroup,
    CustomMetricWithAlarm,
    CustomThreshold,
    MonitoringFacade,
    SnsAlarmActionStrategy,
)

from cdk_inference import InferencePipeline, ModelArtifact, Preprocess

RECIPE = Path(__file__).parents[2] / "model_assets" / "efficientnet_lite" / "lite0.py"

app = App()
stack = Stack(app, "MonitoredPhotos")
model = ModelArtifact(stack, "Model", recipe=RECIPE)
pipeline = InferencePipeline(stack, "Photos", model=model, preprocess=Preprocess.image(size=224))

topic = sns.Topic(stack, "Alarms", enforce_ssl=True)
facade = MonitoringFacade(
    stack,
    "Monitoring",
    alarm_factory_defaults=AlarmFactoryDefaults(
        alarm_name_prefix="Photos",
        actions_enabled=True,
        action=SnsAlarmActionStrategy(on_alarm_topic=topic),
        datapoints_to_alarm=1,
    ),
)
slow = CustomThreshold(
    threshold=Duration.minutes(5).to_milliseconds(),
    comparison_operator=ComparisonOperator.GREATER_THAN_THRESHOLD,
)
latency = CustomMetricWithAlarm(
    metric=pipeline.metric_latency(), alarm_friendly_name="SlowResults", add_alarm={"Warning": slow}
)
facade.add_large_header("Photos")
facade.monitor_custom(
    alarm_friendly_name="Photos",
    human_readable_name="Pipeline",
    metric_groups=[
        CustomMetricGroup(
            title="Objects",
            metrics=[pipeline.metric_succeeded(), pipeline.metric_rejected(), pipeline.metric_failed()],
        ),
        CustomMetricGroup(title="From event to row, ms", metrics=[latency]),
        CustomMetricGroup(
            title="Queue", metrics=[pipeline.trigger.metric_oldest_message_age(), pipeline.metric_dead_letters()]
        ),
    ],
)
facade.monitor_lambda_function(lambda_function=pipeline.stages.inference.function, human_readable_name="Inference")
app.synth()
