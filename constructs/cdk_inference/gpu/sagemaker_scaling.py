"""Scaling of an asynchronous endpoint: to zero, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Fn
from aws_cdk import aws_applicationautoscaling as scaling
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

if TYPE_CHECKING:
    from aws_cdk import aws_sagemaker as sagemaker

NAMESPACE = "AWS/SageMaker"

BACKLOG_PER_INSTANCE = 5
"""Requests for each instance, waiting or at work, that target tracking aims at: the value of AWS's own example."""

_IDLE_SECONDS = 300
_START_SECONDS = 300


class ScaleToZero(Construct):
    """Application Auto Scaling of a variant between none and some instances, by two policies.

    Target tracking follows the backlog per instance, and takes the last instance away when there is none. It cannot
    bring the first one back before the backlog is above its target. While there is no instance, a step policy does so,
    as soon as one request waits.

    Parameters
    ----------
    endpoint, variant
        The endpoint and the variant that scale.
    max_instances
        Most instances.
    """

    def __init__(
        self, scope: Construct, id: str, *, endpoint: sagemaker.CfnEndpoint, variant: str, max_instances: int
    ) -> None:
        super().__init__(scope, id)
        name = endpoint.attr_endpoint_name
        # Without a role: then it is the service-linked one.
        target = scaling.CfnScalableTarget(
            self,
            "Target",
            service_namespace="sagemaker",
            scalable_dimension="sagemaker:variant:DesiredInstanceCount",
            resource_id=Fn.join("/", ["endpoint", name, "variant", variant]),
            min_capacity=0,
            max_capacity=max_instances,
        )
        scaling.CfnScalingPolicy(
            self,
            "Backlog",
            policy_name="Backlog",
            policy_type="TargetTrackingScaling",
            scaling_target_id=target.ref,
            target_tracking_scaling_policy_configuration=scaling.CfnScalingPolicy.TargetTrackingScalingPolicyConfigurationProperty(
                target_value=BACKLOG_PER_INSTANCE,
                customized_metric_specification=scaling.CfnScalingPolicy.CustomizedMetricSpecificationProperty(
                    namespace=NAMESPACE,
                    metric_name="ApproximateBacklogSizePerInstance",
                    dimensions=[scaling.CfnScalingPolicy.MetricDimensionProperty(name="EndpointName", value=name)],
                    statistic="Average",
                ),
                scale_in_cooldown=_IDLE_SECONDS,
                scale_out_cooldown=_START_SECONDS,
            ),
        )
        from_zero = scaling.CfnScalingPolicy(
            self,
            "FromZero",
            policy_name="FromZero",
            policy_type="StepScaling",
            scaling_target_id=target.ref,
            step_scaling_policy_configuration=scaling.CfnScalingPolicy.StepScalingPolicyConfigurationProperty(
                adjustment_type="ChangeInCapacity",
                metric_aggregation_type="Average",
                cooldown=_START_SECONDS,
                step_adjustments=[
                    scaling.CfnScalingPolicy.StepAdjustmentProperty(metric_interval_lower_bound=0, scaling_adjustment=1)
                ],
            ),
        )
        cloudwatch.CfnAlarm(
            self,
            "Waiting",
            alarm_description="requests wait, and the endpoint has no instance",
            namespace=NAMESPACE,
            metric_name="HasBacklogWithoutCapacity",
            dimensions=[cloudwatch.CfnAlarm.DimensionProperty(name="EndpointName", value=name)],
            statistic="Average",
            period=60,
            # The first datapoint is enough: whoever waits would wait a minute more for a second one.
            evaluation_periods=1,
            threshold=1,
            comparison_operator="GreaterThanOrEqualToThreshold",
            treat_missing_data="missing",
            alarm_actions=[from_zero.ref],
        )
