"""What runs beside each Envoy of a cluster: it turns the policies into the gateway's files, with the code that one machine uses.

It needs the object store alone, and that only for news: neither Dagster, MLflow nor Kubernetes is asked. Nothing of them is imported.
"""
