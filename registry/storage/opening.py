"""The store that the settings name: a local directory, or an S3 bucket.

>>> store = open_store(settings)
>>> store.get("submissions/1/report.json")
"""

from registry.settings import Settings
from registry.storage.local import LocalStore
from registry.storage.store import ObjectStore


def open_store(settings: Settings) -> ObjectStore:
    """The facility's own objects; Unavailable where they can't be opened."""
    if settings.s3 is None:
        return LocalStore(settings.objects)
    from registry.storage.s3 import open_s3  # boto3 takes a while to import

    return open_s3(settings.s3)
