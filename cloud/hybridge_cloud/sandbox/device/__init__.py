"""A local Greengrass v2 core device: one process tree that runs published recipes as a real core would.

It stands where a Jetson stands: it learns of deployments, resolves and downloads components, checks digests, runs their
lifecycles as processes with the real environment, and serves Greengrass IPC to the unmodified ``awsiotsdk``. It follows
one of the two nuclei, ``classic`` (Java) or ``lite`` (C), where they differ. What it cannot follow it refuses, aloud.

    python -m hybridge_cloud.sandbox.device --root DIR --thing NAME --mode classic|lite
"""
