"""S3 accounts, Amazon's and everybody else's, through boto3. The only module that knows boto3.

Bytes of objects go by `s3_wire` where they can, for less CPU (decision 0013); the rest, and what
that way cannot do, goes by boto3 itself.

One request for each call and no retry here: `retrying` does that. Checksums are sent only where
the service demands them, in plain headers and never as chunked trailers, which many services do
not understand; our fragments carry their own.

A body is signed (hashed) on plain HTTP to another machine. Under TLS, or on loopback, hashing it
again buys nothing and costs a third of the request.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import boto3
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.parsers
import urllib3.exceptions

from aggfs.errors import AlreadyThere, NotFound, QuotaFull, Refused, StoreError, Unreachable
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space
from aggfs.stores.places import AMAZON, parse_endpoint, s3_place
from aggfs.stores.s3_wire import Answer, Moved, Wire, wire_to

Result = TypeVar("Result")

CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
PAGE_OBJECTS = 1000

_QUOTA_CODES = {
    *("QuotaExceeded", "StorageFull", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"),
    *("InsufficientStorage", "StorageQuotaExceeded"),
}
_QUOTA_WORDS = ("quota", "storage cap", "storage limit", "cap_exceeded", "storage full")
_PASSING_CODES = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequests"),
    *("RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeout", "ServiceUnavailable"),
    *("InternalError", "OperationAborted", "ConditionalRequestConflict"),
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),
}
_REFUSALS = {
    "NoSuchBucket": "there is no bucket of this name",
    "InvalidBucketName": "no bucket can have this name",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has run out",
    "InvalidToken": "the session token is not valid",
    "AccountProblem": "the provider has locked the account",
    "AllAccessDisabled": "the provider has locked the bucket",
    "NotSignedUp": "the account is not signed up for this service",
    "RequestTimeTooSkewed": "the clock of this machine is wrong by many minutes",
    "PermanentRedirect": "the bucket is in another region",
    "AuthorizationHeaderMalformed": "the region is wrong for this bucket",
    "IllegalLocationConstraintException": "the region is wrong for this bucket",
    "NotImplemented": "the service does not know this kind of request",
}


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where an S3 account is. Empty `endpoint`: Amazon's own; empty keys: the profile, or else
    the usual chain (environment, shared files, instance role)."""

    bucket: str
    endpoint: str = ""
    region: str = ""
    prefix: str = ""
    path_style: bool = False
    profile: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    connect_seconds: float = CONNECT_SECONDS
    read_seconds: float = READ_SECONDS
    connections: int = 16


class S3Driver:
    """A bucket, or the part of it below a prefix, as a blocking driver."""

    def __init__(self, options: S3Options, *, page_objects: int = PAGE_OBJECTS) -> None:
        self._options = options
        self._prefix = options.prefix.strip("/") + "/" if options.prefix.strip("/") else ""
        self._place = s3_place(options.endpoint, options.bucket, options.prefix)
        self._page_objects = page_objects
        self._made: _Ways | None = None
        self._moved = False  # the bucket is in another region: boto3 follows, the wire does not
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:
        """`create_only` is False: some services ignore the condition. A probe finds out."""
        return Capabilities(create_only=False, reports_space=False)

    @property
    def place(self) -> str:
        return self._place

    def put(self, key: str, data: Buffer) -> None:
        self._write(key, data, {})

    def create(self, key: str, data: Buffer) -> None:
        self._write(key, data, {"If-None-Match": "*"})

    def get(self, key: str) -> bytes:
        return self._read(key, {}).data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            self.head(key)
            return b""
        try:
            answer = self._read(key, {"Range": f"bytes={start}-{start + length - 1}"})
        except _BeyondEnd:
            return b""
        if answer.status == 200:  # it sent all, as it may
            return answer.data[start : start + length]
        return answer.data

    def head(self, key: str) -> ObjectInfo:
        try:
            with self._telling("read", key):
                answer = self._client.head_object(
                    Bucket=self._options.bucket, Key=self._prefix + key
                )
        except NotFound:
            # The answer to HEAD has no body: is it the object that is missing, or the bucket?
            return ObjectInfo(key, len(self.get(key)))
        return ObjectInfo(key, int(answer["ContentLength"]))

    def list_page(self, prefix: str, after: str) -> Page:
        arguments: dict[str, Any] = {"Bucket": self._options.bucket}
        with self._telling("list", prefix):
            answer = self._client.list_objects_v2(
                **arguments,
                Prefix=self._prefix + prefix,
                StartAfter=self._prefix + after if after else "",
                MaxKeys=self._page_objects,
            )
            cut = len(self._prefix)
            objects = [
                ObjectInfo(each["Key"][cut:], int(each["Size"]))
                for each in answer.get("Contents", ())
            ]
        if not answer.get("IsTruncated"):
            return Page(_sorted(objects), None)
        if not objects or objects[-1].key == after:
            raise Unreachable(f"{self.place}: the listing stopped half way")
        # The last key as the service sorts, which for foreign keys may differ from our order.
        return Page(_sorted(objects), objects[-1].key)

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFound), self._telling("delete", key):
            self._client.delete_object(Bucket=self._options.bucket, Key=self._prefix + key)

    def space(self) -> Space | None:
        return None

    def prepare(self) -> None:
        """Make boto3's client. Where that fails, the first call says why."""
        with contextlib.suppress(StoreError), self._telling("reach", ""):
            _ = self._ways

    def close(self) -> None:
        """Closes idle connections; a call after this opens new ones."""
        with self._lock:
            ways, self._made = self._made, None
        if ways is not None:
            ways.client.close()

    @property
    def _client(self) -> Any:
        return self._ways.client

    @property
    def _ways(self) -> "_Ways":
        """Made once, in a worker thread: it costs a fifth of a second."""
        with self._lock:
            if self._made is None:
                self._made = _new_ways(self._options)
            return self._made

    def _write(self, key: str, data: Buffer, conditions: dict[str, str]) -> None:
        name = self._prefix + key

        def by_boto3() -> None:
            words = {_WORDS[header]: value for header, value in conditions.items()}
            self._client.put_object(Bucket=self._options.bucket, Key=name, Body=data, **words)

        with self._telling("write", key):
            self._shortest(lambda wire: wire.put(name, data, conditions), by_boto3)

    def _read(self, key: str, conditions: dict[str, str]) -> Answer:
        name = self._prefix + key

        def by_boto3() -> Answer:
            words = {_WORDS[header]: value for header, value in conditions.items()}
            answer = self._client.get_object(Bucket=self._options.bucket, Key=name, **words)
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read()
            status: int = answer["ResponseMetadata"]["HTTPStatusCode"]
            return Answer(status, data, answer.get("ContentLength"))

        with self._telling("read", key):
            answer = self._shortest(lambda wire: wire.get(name, conditions), by_boto3)
        if answer.declared_bytes not in (None, len(answer.data)):
            raise Unreachable(f"{self.place}/{key}: the answer was cut short")
        return answer

    def _shortest(
        self, by_wire: Callable[[Wire], Result], by_boto3: Callable[[], Result]
    ) -> Result:
        """By the wire; by boto3 where there is none, and where the bucket is in another region:
        then, once that went well, for good."""
        wire = self._ways.wire
        if wire is None or self._moved:
            return by_boto3()
        try:
            return by_wire(wire)
        except Moved:
            found = by_boto3()
            self._moved = True
            return found

    @contextlib.contextmanager
    def _telling(self, verb: str, key: str) -> Iterator[None]:
        """Errors of the library become errors of ours."""
        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise _meaning(self.place, verb, key, error.response) from error
        except _REFUSED_BY_LIBRARY as error:
            raise Refused(f"{self.place}: {_one_line(error)}") from error
        except _NO_ANSWER as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Refused(f"{self.place}: its certificate is not trusted here") from error
            raise Unreachable(f"{self.place}: no answer: {_one_line(error)}") from error


_WORDS = {"If-None-Match": "IfNoneMatch", "Range": "Range"}  # headers, as boto3 calls them


class _BeyondEnd(NotFound):
    """The object ends before the range begins."""


_REFUSED_BY_LIBRARY = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.NoRegionError,
    botocore.exceptions.ParamValidationError,
    botocore.exceptions.InvalidRegionError,
    botocore.exceptions.UnsupportedSignatureVersionError,
)
_NO_ANSWER = (
    botocore.exceptions.BotoCoreError,
    botocore.parsers.ResponseParserError,
    urllib3.exceptions.HTTPError,  # while the body of an answer is read
    OSError,
)


def _sorted(objects: list[ObjectInfo]) -> tuple[ObjectInfo, ...]:
    return tuple(sorted(objects, key=lambda each: each.key))


# --- the client -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _session(profile: str) -> Any:
    """Shared by accounts: it holds the library's model of S3, some 10 MiB."""
    return boto3.session.Session(profile_name=profile or None)


_making = threading.Lock()  # a session may be used by one thread at a time


@dataclass(frozen=True, slots=True)
class _Ways:
    """To a bucket: boto3, and the short one for bytes if there is one."""

    client: Any
    wire: Wire | None


def _new_ways(options: S3Options) -> _Ways:
    with _making:
        client = _new_client(options)
        if options.access_key:
            keys = botocore.credentials.Credentials(options.access_key, options.secret_key)
        else:
            keys = _session(options.profile).get_credentials()
        return _Ways(client, wire_to(client, keys, options.bucket))


def _new_client(options: S3Options) -> Any:
    service = parse_endpoint(options.endpoint or AMAZON)
    near = service.is_loopback
    config = botocore.config.Config(
        connect_timeout=options.connect_seconds,
        read_timeout=options.read_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=options.connections,
        tcp_keepalive=True,
        signature_version="s3v4",
        s3={
            "addressing_style": "path" if options.path_style or near else "auto",
            "payload_signing_enabled": service.scheme == "http" and not near,
        },
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,  # the account says where it is, nothing else
        parameter_validation=False,
        user_agent=f"Boto3/{boto3.__version__}",  # else it tells the system, and costs 0.1 ms
        **({"proxies": {}} if near else {}),
    )
    keys = (
        {"aws_access_key_id": options.access_key, "aws_secret_access_key": options.secret_key}
        if options.access_key
        else {}
    )
    url = f"{service.scheme}://{service.authority}" if options.endpoint else None
    return _session(options.profile).client(
        "s3",
        endpoint_url=url,
        region_name=options.region or ("us-east-1" if url else None),
        config=config,
        **keys,
    )


# --- what an answer means ---------------------------------------------------------------------


def _meaning(place: str, verb: str, key: str, answer: dict[str, Any]) -> StoreError:
    code = str(answer.get("Error", {}).get("Code", ""))
    message = str(answer.get("Error", {}).get("Message", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _REFUSALS:
        return Refused(f"{place}: {_REFUSALS[code]} ({code})")
    if status == 416 or code == "InvalidRange":
        return _BeyondEnd(f"{place}: {key} ends before the range")
    if status == 412:
        return AlreadyThere(f"{place}: {key} is there already")
    if status == 404:
        return NotFound(f"{place}: there is no object {key}")
    if _speaks_of_quota(code, message, status):
        return QuotaFull(f"{place}: the account is full ({code or status})")
    if status >= 500 or status in (408, 425, 429) or code in _PASSING_CODES:
        return Unreachable(
            f"{place}: the service answers {code or status}",
            retry_after_seconds=_retry_after(answer),
        )
    if status == 403 or code == "AccessDenied":
        return Refused(f"{place}: this key may not {verb} there ({code or status})")
    return Refused(f"{place}: refused: {code or status} {' '.join(message.split())}".rstrip())


def _speaks_of_quota(code: str, message: str, status: int) -> bool:
    if status == 507 or code in _QUOTA_CODES:
        return True
    text = f"{code} {message}".lower()
    return 400 <= status < 500 and any(word in text for word in _QUOTA_WORDS)


def _retry_after(answer: dict[str, Any]) -> float | None:
    """What the service asks for, in seconds. A date is not understood: services send seconds."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        seconds = float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
