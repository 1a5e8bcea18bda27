"""The only boto3 in the tree: small adapters, dataclasses out, errors in our own words."""
