"""The control service: greengrassv2 and codepipeline for the sandbox, on one loopback port.

Requests and answers go through botocore's own service models, so an unmodified boto3 cannot tell it from AWS by shape.
Its store is SQLite with full synchronisation: what was answered survives kill -9.

What it does not do yet: roll-out rates, abort criteria and time-outs of a deployment's IoT job are kept and returned,
not applied; pipelines run in execution mode QUEUED only.
"""
