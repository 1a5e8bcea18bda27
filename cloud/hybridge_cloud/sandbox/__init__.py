"""A whole account and fleet on a laptop: the embedded default that every command can be tried against.

The same cloud code runs here and in AWS: boto3 learns from ``AWS_ENDPOINT_URL*`` where to go, and nothing else differs.

    keeper       one process that owns the others and holds the folder's lock
    account      S3, EventBridge, SQS, IoT and MQTT (ministack, in an environment of its own, loopback only)
    control      greengrassv2 and codepipeline, which the account lacks, over a store of our own
    device       one local Greengrass core device, a process tree each
"""
