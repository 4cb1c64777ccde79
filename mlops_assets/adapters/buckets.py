"""The buckets of the object store: ``python -m mlops_assets.adapters.buckets`` makes those that are missing.

It takes its credentials from the environment.
"""

import os
from typing import Any

BUCKETS = ("landing", "tables", "policies", "models", "evidence", "predictions", "monitoring", "mlflow")
VERSIONED = ("policies",)
LOCKED = ("models",)


def make_buckets(client: Any) -> None:
    """Make the buckets that are missing: policies with versions, models so that nothing can be overwritten.

    Args:
        client: for S3, of boto3 or botocore.
    """
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in there:
            client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=name in LOCKED)
    for name in VERSIONED:
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


def main() -> None:
    """Make the buckets of the store at ``MLOPS_S3_URL``."""
    import botocore.session

    url = os.environ.get("MLOPS_S3_URL") or None
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    make_buckets(botocore.session.Session().create_client("s3", region_name=region, endpoint_url=url))
    print(f"the buckets are there: {', '.join(BUCKETS)}")


if __name__ == "__main__":
    main()
