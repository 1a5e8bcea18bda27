"""Hybridge on the device: serve, capture, return. Never imports the cloud, torch or boto3."""
