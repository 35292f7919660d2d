"""Accounts as their provider sees them: the objects that really lie there, to be looked at, broken
and lost behind the back of the volume."""

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests.support.faultproxy import FaultProxy
from tests.support.servers import REGION, SeaweedFS

ACCESS_VARIABLE = "AGGFS_SUPPORT_ACCESS"
SECRET_VARIABLE = "AGGFS_SUPPORT_SECRET"


class Place(Protocol):
    """One account. `name` and `provider` are what the volume is told."""

    name: str
    provider: str
    quota: int

    def spec(self) -> str:
        """As `aggfs init --account` takes it."""

    def restore_spec(self) -> str:
        """As scripts/restore.py takes it."""

    def sizes(self) -> dict[str, int]:
        """Every object and its size."""

    def read(self, key: str) -> bytes:
        """What lies there."""

    def write(self, key: str, data: bytes) -> None:
        """Put something else there."""

    def delete(self, key: str) -> None:
        """Lose it."""

    def fail(self) -> None:
        """The provider is gone."""

    def heal(self) -> None:
        """It is back, with what it had."""


class DirectoryPlace:
    """A directory. It fails as a disk does that is pulled out: it is not there."""

    def __init__(self, path: Path, name: str, *, provider: str = "", quota: int = 0) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.name = name
        self.provider = provider or f"p-{name}"
        self.quota = quota
        self._away = path.with_name(path.name + ".away")

    def spec(self) -> str:
        quota = f"&quota={self.quota}" if self.quota else ""
        return f"{self.name}={self.path}?provider={self.provider}{quota}"

    def restore_spec(self) -> str:
        return str(self.path)

    def sizes(self) -> dict[str, int]:
        found = {}
        for path in self.path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # renamed or removed while we look
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found[str(path.relative_to(self.path))] = status.st_size
        return found

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        path = self.path / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    def delete(self, key: str) -> None:
        (self.path / key).unlink()

    def fail(self) -> None:
        self.path.rename(self._away)

    def heal(self) -> None:
        self._away.rename(self.path)


class BucketPlace:
    """A part of a bucket on an S3 server of its own. It fails by `kill -9` of the server."""

    def __init__(
        self, server: SeaweedFS, bucket: str, prefix: str, name: str, *, quota: int = 0
    ) -> None:
        self.server = server
        self.bucket = bucket
        self.prefix = prefix
        self.name = name
        self.provider = f"p-{name}"
        self.quota = quota

    def spec(self) -> str:
        return (
            f"{self.name}=s3://{self.bucket}/{self.prefix}?{self._settings(self.server.endpoint)}"
        )

    def restore_spec(self) -> str:
        settings = f"endpoint={self.server.endpoint}&region={REGION}"
        return f"s3://{self.bucket}/{self.prefix}?{settings}"

    def _settings(self, endpoint: str) -> str:
        settings = {
            "endpoint": endpoint,
            "region": REGION,
            "path_style": "yes",
            "provider": self.provider,
            "access_key_env": ACCESS_VARIABLE,
            "secret_key_env": SECRET_VARIABLE,
        }
        if self.quota:
            settings["quota"] = str(self.quota)
        return "&".join(f"{name}={value}" for name, value in settings.items())

    def sizes(self) -> dict[str, int]:
        with contextlib.closing(self.server.client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + "/"
            )
            start = len(self.prefix) + 1
            return {
                each["Key"][start:]: each["Size"]
                for page in pages
                for each in page.get("Contents", ())
            }

    def read(self, key: str) -> bytes:
        with contextlib.closing(self.server.client()) as client:
            return bytes(client.get_object(**self._named(key))["Body"].read())

    def listing_under(self, prefix: str) -> list[str]:
        """Keys of the bucket, whoever they belong to."""
        with contextlib.closing(self.server.client()) as client:
            found = client.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
            return [each["Key"] for each in found.get("Contents", ())]

    def head(self, key: str) -> dict[str, object]:
        """What the server tells of an object beside its bytes."""
        with contextlib.closing(self.server.client()) as client:
            return dict(client.head_object(**self._named(key)))

    def write(self, key: str, data: bytes) -> None:
        with contextlib.closing(self.server.client()) as client:
            client.put_object(**self._named(key), Body=data)

    def delete(self, key: str) -> None:
        with contextlib.closing(self.server.client()) as client:
            client.delete_object(**self._named(key))

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}"}

    def fail(self) -> None:
        self.server.kill()

    def heal(self) -> None:
        self.server.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """The server takes connections and answers nothing."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)


class ProxiedPlace(BucketPlace):
    """A bucket that the volume reaches through a proxy, which misbehaves on demand."""

    def __init__(self, proxy: FaultProxy, place: BucketPlace) -> None:
        super().__init__(place.server, place.bucket, place.prefix, place.name, quota=place.quota)
        self.proxy = proxy

    def spec(self) -> str:
        settings = self._settings(self.proxy.endpoint)
        return f"{self.name}=s3://{self.bucket}/{self.prefix}?{settings}"


def dump(place: Place) -> bytes:
    """Everything that lies there, names included, as a thief would take it."""
    return b"".join(key.encode() + place.read(key) for key in sorted(place.sizes()))
