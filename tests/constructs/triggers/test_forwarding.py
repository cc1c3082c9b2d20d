"""Buckets of other accounts and Regions: their events come to the pipeline, and nothing else does."""

from __future__ import annotations

import aws_cdk as cdk
import pytest
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Annotations, Match
from tests.constructs.conftest import resources

from cdk_inference import PropError, S3EventForwarding, S3Trigger

HERE, THERE = ("111122223333", "eu-central-1"), ("444455556666", "eu-west-1")


@pytest.fixture
def app() -> cdk.App:
    return cdk.App(context={"aws:cdk:bundling-stacks": []})


def stack_in(app, name, place):
    account, region = place
    return cdk.Stack(app, name, env=cdk.Environment(account=account, region=region))


def forwarded(app, place, **of_bucket):
    """Return the stacks of the pipeline and of the bucket, whose events are forwarded."""
    here, there = stack_in(app, "Here", HERE), stack_in(app, "There", place)
    bucket = s3.Bucket(there, "Theirs", bucket_name="their-photos", **of_bucket)
    trigger = S3Trigger(
        here, "Trigger", bucket=s3.Bucket.from_bucket_name(here, "Theirs", "their-photos"), prefix="in/"
    )
    S3EventForwarding(there, "Forwarding", bucket=bucket, trigger=trigger)
    return here, there


def test_events_of_another_account_are_let_in_and_its_objects_are_read(app):
    here, there = forwarded(app, THERE)
    (rule,) = resources(there, "AWS::Events::Rule").values()
    (target,) = rule["Properties"]["Targets"]
    bus = there.resolve(f"arn:{there.partition}:events:eu-central-1:111122223333:event-bus/default")
    assert target["Arn"] == bus
    pattern = rule["Properties"]["EventPattern"]
    assert pattern["source"] == ["aws.s3"]
    assert pattern["detail"]["object"] == {"key": [{"prefix": "in/"}]}
    (role,) = [one for name, one in resources(there, "AWS::IAM::Policy").items() if name.startswith("Forwarding")]
    (statement,) = role["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Action"], statement["Resource"]) == ("events:PutEvents", bus)
    (policy,) = resources(here, "AWS::Events::EventBusPolicy").values()
    let = policy["Properties"]["Statement"]
    assert let["Principal"]["AWS"]["Fn::Join"][1][-1] == ":iam::444455556666:root"
    assert let["Condition"] == {"StringEquals": {"events:source": "aws.s3", "events:detail-type": "Object Created"}}
    (of_bucket,) = resources(there, "AWS::S3::BucketPolicy").values()
    allowed = of_bucket["Properties"]["PolicyDocument"]["Statement"]
    assert {tuple(one["Action"]) if isinstance(one["Action"], list) else one["Action"] for one in allowed} == {
        ("s3:GetObject", "s3:GetObjectVersion"),
        "s3:ListBucket",
    }


def test_within_an_account_no_policy_is_needed(app):
    here, there = forwarded(app, (HERE[0], THERE[1]))
    assert not resources(here, "AWS::Events::EventBusPolicy")
    assert not resources(there, "AWS::S3::BucketPolicy")
    assert len(resources(there, "AWS::Events::Rule")) == 1


def test_the_key_of_the_bucket_decrypts_for_the_other_account(app):
    key = kms.Key(stack_in(app, "Keys", THERE), "Key")
    forwarded(app, THERE, encryption_key=key)
    (of_key,) = resources(cdk.Stack.of(key), "AWS::KMS::Key").values()
    allowed = [one for one in of_key["Properties"]["KeyPolicy"]["Statement"] if one["Action"] == "kms:Decrypt"]
    assert "111122223333" in str(allowed[0]["Principal"])


def test_a_bucket_whose_policy_cannot_be_changed_is_warned_of(app):
    here, there = stack_in(app, "Here", HERE), stack_in(app, "There", THERE)
    trigger = S3Trigger(here, "Trigger", bucket=s3.Bucket.from_bucket_name(here, "Theirs", "their-photos"))
    bucket = s3.Bucket.from_bucket_name(there, "Theirs", "their-photos")
    S3EventForwarding(there, "Forwarding", bucket=bucket, trigger=trigger)
    Annotations.from_stack(there).has_warning("*", Match.string_like_regexp("policy of the imported bucket"))


def test_stacks_without_an_account_are_refused(app):
    here = cdk.Stack(app, "Here")
    trigger = S3Trigger(here, "Trigger")
    there = stack_in(app, "There", THERE)
    with pytest.raises(PropError, match="env of stack Here must have an account and a Region"):
        S3EventForwarding(there, "Forwarding", bucket=s3.Bucket(there, "Theirs"), trigger=trigger)


def test_forwarding_to_where_the_bucket_is_is_refused(app):
    here = stack_in(app, "Here", HERE)
    with pytest.raises(PropError, match="trigger must be in another account or Region"):
        S3EventForwarding(here, "Forwarding", bucket=s3.Bucket(here, "Theirs"), trigger=S3Trigger(here, "Trigger"))
