"""What the sandbox's account holds from the start: the bucket, the queue of batch events and the rule between them.

The account saves this only on a clean stop, so it is made again, the same, at every start.
"""

from __future__ import annotations

import json

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from hybridge_cloud.sandbox.folder import BUCKET, HOST, REGION, Ports

QUEUE = "hybridge-batches"
DEAD_LETTER_QUEUE = "hybridge-batches-dead"
RULE = "hybridge-device-objects"
VISIBILITY_SECONDS = 60
RECEIVES_BEFORE_DEAD = 5
RETENTION_SECONDS = 14 * 24 * 3600  # the longest SQS keeps a message


def session() -> boto3.Session:
    """A session with the sandbox's own credentials, which no real account accepts."""
    return boto3.Session(aws_access_key_id="sandbox", aws_secret_access_key="sandbox", region_name=REGION)  # noqa: S106


def account_endpoint(ports: Ports) -> str:
    return f"http://{HOST}:{ports.account}"


def control_endpoint(ports: Ports) -> str:
    return f"http://{HOST}:{ports.control}"


def configuration() -> Config:
    return Config(connect_timeout=5, read_timeout=70, retries={"max_attempts": 3, "mode": "standard"})


def provision(ports: Ports) -> None:
    """Make bucket, queues and rule as they should be, whatever of them is already there."""
    made = session()
    s3 = made.client("s3", endpoint_url=account_endpoint(ports), config=configuration())
    sqs = made.client("sqs", endpoint_url=account_endpoint(ports), config=configuration())
    events = made.client("events", endpoint_url=account_endpoint(ports), config=configuration())

    try:
        s3.create_bucket(Bucket=BUCKET)
    except ClientError as error:
        if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
            raise
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={"EventBridgeConfiguration": {}})

    dead = sqs.create_queue(QueueName=DEAD_LETTER_QUEUE)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=dead, Attributes={"MessageRetentionPeriod": str(RETENTION_SECONDS)})
    dead_arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    queue = sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
    redrive = {"deadLetterTargetArn": dead_arn, "maxReceiveCount": str(RECEIVES_BEFORE_DEAD)}
    sqs.set_queue_attributes(
        QueueUrl=queue,
        Attributes={
            "MessageRetentionPeriod": str(RETENTION_SECONDS),
            "VisibilityTimeout": str(VISIBILITY_SECONDS),
            "RedrivePolicy": json.dumps(redrive),
        },
    )
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = {
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": {"bucket": {"name": [BUCKET]}, "object": {"key": [{"prefix": "devices/"}]}},
    }
    events.put_rule(Name=RULE, EventPattern=json.dumps(pattern), State="ENABLED")
    events.put_targets(Rule=RULE, Targets=[{"Id": QUEUE, "Arn": queue_arn}])
