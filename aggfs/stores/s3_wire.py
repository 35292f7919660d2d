"""The bytes of S3 objects, written and read without the rest of boto3.

boto3 spends most of a millisecond of CPU on each request before a byte moves: models, events,
endpoint rules, the wait for "100 Continue". A GiB is a thousand requests and more, so PUT and GET
take the short way: botocore's signer and botocore's connections (its timeouts, certificates and
proxies), and nothing between. What is answered in error is parsed by botocore, and raised as
boto3 raises it. Everything that is not bytes stays with boto3.

Where the bucket is, how it stands in the URL and what region signs for it, boto3 says once, in a
link that it signs for us. What boto3 does not speak to with plain signatures of version 4
(directory buckets, outposts) has no wire; a bucket that turns out to be elsewhere is `Moved`.
"""

import contextlib
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.exceptions
import botocore.parsers

from aggfs.stores.base import Buffer

_MOVED = {"PermanentRedirect", "TemporaryRedirect", "Redirect"} | {
    *("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
}
_OF_ONE_ZONE = "--x-s3"  # Amazon's directory buckets
PIECE_BYTES = 32 * 1024
_parser = botocore.parsers.create_parser("rest-xml")


class Moved(Exception):
    """The bucket is in another place or region. Nothing was done; boto3 knows how to follow."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request brought."""

    status: int
    data: bytes
    declared_bytes: int | None  # None where the service did not say


class Wire:
    """PUT and GET of one bucket. Called in several threads; one request a call, no retries.

    Raises what botocore and urllib3 raise, and `Moved`. Every wait has the client's timeouts.
    """

    def __init__(self, client: Any, credentials: Any, *, base: str, region: str) -> None:
        self._credentials = credentials
        self._base = base
        self._region = region
        self._signing = {"client_config": client.meta.config}  # says if bodies are hashed
        self._headers = {"User-Agent": client.meta.config.user_agent}
        # boto3's own: connections are shared with it, and closed with it.
        self._session = client._endpoint.http_session  # noqa: SLF001 - there is no other way to it

    def put(self, name: str, data: Buffer, conditions: Mapping[str, str]) -> None:
        """The object is there, whole. `conditions` are headers; a failed one is a 412."""
        answer = self._ask("PUT", name, conditions, data)
        if b"<Error" in answer.data[:1024]:  # begun as a success, ended as a failure
            _raise(500, {}, answer.data, "PutObject")

    def get(self, name: str, conditions: Mapping[str, str]) -> Answer:
        """The object, or the part of it that a Range among the `conditions` asks for."""
        return self._ask("GET", name, conditions, None)

    def _ask(
        self, method: str, name: str, conditions: Mapping[str, str], data: Buffer | None
    ) -> Answer:
        request = botocore.awsrequest.AWSRequest(
            method,
            self._base + urllib.parse.quote(name, safe="/~"),
            headers={**self._headers, **conditions},
            data=data,
        )
        request.context.update(self._signing)
        now = self._credentials.get_frozen_credentials()  # refreshed if they are about to end
        botocore.auth.S3SigV4Auth(now, "s3", self._region).add_auth(request)
        headers, body = dict(request.headers.items()), None
        if data is not None:
            headers["Content-Length"], body = str(len(data)), _pieces(data)
        response = self._session.send(
            botocore.awsrequest.AWSPreparedRequest(
                method, request.url, headers, body, stream_output=True
            )
        )
        with contextlib.closing(response.raw) as answer:
            brought: bytes = answer.read()
        if not 200 <= response.status_code < 300:
            _raise(response.status_code, response.headers, brought, f"{method}Object")
        length = response.headers.get("Content-Length", "")
        return Answer(response.status_code, brought, int(length) if length.isdecimal() else None)


def _pieces(data: Buffer) -> Iterator[memoryview]:
    """A body in pieces: a socket's timeout is for all that it is given at once, however well it
    goes, and a fragment takes a minute where a line carries 25 KB/s."""
    view = memoryview(data)
    for at in range(0, len(view), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]


def wire_to(client: Any, credentials: Any, bucket: str) -> Wire | None:
    """The short way to a bucket; None where only boto3 knows the way. May look for credentials,
    and raise what botocore raises."""
    if bucket.endswith(_OF_ONE_ZONE):
        return None  # each is signed for with a session of its own
    link = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    url = urllib.parse.urlsplit(link)
    signed = dict(urllib.parse.parse_qsl(url.query))
    _, _, region, service, _ = signed.get("X-Amz-Credential", "////").rsplit("/", 4)
    if signed.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" or service != "s3":
        return None
    base = f"{url.scheme}://{url.netloc}{url.path.removesuffix('k')}"
    return Wire(client, credentials, base=base, region=region)


def _raise(status: int, headers: Mapping[str, str], body: bytes, operation: str) -> None:
    told = {"status_code": max(status, 301), "headers": headers, "body": body}
    answer = _parser.parse(told, None)
    if 300 <= status < 400 or answer.get("Error", {}).get("Code") in _MOVED:
        raise Moved
    raise botocore.exceptions.ClientError(answer, operation)
