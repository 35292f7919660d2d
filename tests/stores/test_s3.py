"""What is particular to S3: what its errors mean, foreign objects, and odd servers."""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from aggfs.errors import AlreadyThere, BadConfig, NotFound, QuotaFull, Refused, Unreachable
from aggfs.stores.base import ObjectInfo
from aggfs.stores.s3 import S3Driver, S3Options
from tests.support.servers import HOST, READER, free_ports

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def options(seaweedfs):
    return S3Options(
        bucket="one",
        endpoint=seaweedfs.endpoint,
        prefix=uuid.uuid4().hex,
        access_key=seaweedfs.keys.access,
        secret_key=seaweedfs.keys.secret,
    )


@contextlib.contextmanager
def opened(options, **changes):
    driver = S3Driver(dataclasses.replace(options, **changes))
    with contextlib.closing(driver):
        yield driver


EVERY_CALL = {
    "put": lambda driver: driver.put("ab/key", b"x"),
    "create": lambda driver: driver.create("ab/key", b"x"),
    "get": lambda driver: driver.get("ab/key"),
    "get_range": lambda driver: driver.get_range("ab/key", 0, 1),
    "head": lambda driver: driver.head("ab/key"),
    "list_page": lambda driver: driver.list_page("", ""),
    "delete": lambda driver: driver.delete("ab/key"),
}


# --- refusals of real servers -----------------------------------------------------------------


@pytest.mark.parametrize("call", EVERY_CALL)
def test_an_unknown_access_key_is_named(options, call):
    with opened(options, access_key="nobody") as driver, pytest.raises(Refused) as refusal:
        EVERY_CALL[call](driver)
    if call != "head":  # an answer to HEAD has no text
        assert "the access key is not known there" in str(refusal.value)


def test_a_wrong_secret_key_is_named_and_no_secret_is_told(options):
    with (
        opened(options, secret_key="wrong-secret") as driver,
        pytest.raises(Refused, match="the secret key does not belong to the access key") as refusal,
    ):
        driver.list_page("", "")
    assert "wrong-secret" not in str(refusal.value)
    assert "wrong-secret" not in repr(dataclasses.replace(options, secret_key="wrong-secret"))


@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_missing_bucket_is_named_and_never_looks_like_a_missing_object(options, call):
    with (
        opened(options, bucket="nowhere") as driver,
        pytest.raises(Refused, match="there is no bucket of this name"),
    ):
        EVERY_CALL[call](driver)


@pytest.mark.parametrize("call", ["put", "create", "delete"])
def test_a_key_that_may_only_read_is_told_what_it_may_not(options, call):
    keys = {"access_key": READER.access, "secret_key": READER.secret}
    verb = "delete" if call == "delete" else "write"
    with (
        opened(options, **keys) as driver,
        pytest.raises(Refused, match=f"this key may not {verb} there"),
    ):
        EVERY_CALL[call](driver)


@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_server_that_is_off_is_unreachable(options, call):
    endpoint = f"http://{HOST}:{free_ports(1)[0]}"
    with opened(options, endpoint=endpoint) as driver, pytest.raises(Unreachable):
        EVERY_CALL[call](driver)


def test_a_profile_that_is_not_there_is_named(options):
    changes = {"access_key": "", "secret_key": "", "profile": "no-such-profile"}
    with opened(options, **changes) as driver:
        driver.prepare()
        with pytest.raises(Refused, match="no-such-profile"):
            driver.get("ab/key")


def test_what_is_prepared_asks_nothing(options):
    endpoint = f"http://{HOST}:{free_ports(1)[0]}"
    with opened(options, endpoint=endpoint) as driver:
        driver.prepare()
        assert driver._made is not None


@pytest.mark.parametrize("endpoint", ["ftp://host", "http://", "http://h:x", "https://host/path"])
def test_an_endpoint_that_is_no_service_is_a_bad_setting(options, endpoint):
    with pytest.raises(BadConfig, match="endpoint"):
        S3Driver(dataclasses.replace(options, endpoint=endpoint))


# --- what lies in a bucket --------------------------------------------------------------------


def test_a_prefix_is_part_of_the_name_in_the_bucket_and_of_nothing_else(options, seaweedfs):
    with opened(options, prefix=f"/{options.prefix}/deep/") as driver:
        driver.put("ab/key", b"x")
        assert driver.list_page("", "").objects == (ObjectInfo("ab/key", 1),)
        assert driver.place.endswith(f"/one/{options.prefix}/deep")
    with contextlib.closing(seaweedfs.client()) as client:
        listing = client.list_objects_v2(Bucket="one", Prefix=options.prefix)
    assert [each["Key"] for each in listing["Contents"]] == [f"{options.prefix}/deep/ab/key"]


@pytest.mark.parametrize("server", ["seaweedfs", "moto"])
def test_foreign_keys_of_any_kind_are_listed_once(options, server, request):
    endpoint = request.getfixturevalue(server).endpoint
    keys = ["a", "a b", "a&b=c+d", "aa.x", "aa/1", "aa/2 3", "aa0", "né/ü", "%41", "<x>"]
    driver = S3Driver(dataclasses.replace(options, endpoint=endpoint), page_objects=3)
    with contextlib.closing(driver):
        for key in keys:
            driver.put(key, key.encode())
        listed, after = [], ""
        while after is not None:
            page = driver.list_page("", after)
            assert [each.key for each in page.objects] == sorted(each.key for each in page.objects)
            listed += [each.key for each in page.objects]
            after = page.next_after
        assert sorted(listed) == sorted(keys)
        assert all(driver.get(key) == key.encode() for key in keys)


# --- odd servers: canned answers --------------------------------------------------------------


@contextlib.contextmanager
def answering(*answers, heads=None):
    """A server that gives one answer to each connection, whatever is asked; the last for ever.
    What was asked goes into the list `heads`."""
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=_answer_all, args=(listener, answers, heads))
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _answer_all(listener, answers, heads):
    for answer in itertools.chain(answers, itertools.repeat(answers[-1])):
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(20)
            head = _read_request(connection)
            if heads is not None:
                heads.append(head.decode())
            if answer is None:  # silence, until the client hangs up
                connection.recv(1)
            else:
                connection.sendall(answer)


def _read_request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"expect":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if name.lower() == b"content-length":
            while len(body) < int(value):
                body += connection.recv(65536)
    return head


def http(status, body=b"", *headers):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def xml_error(status, code, message="", *headers):
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return http(status, body, "Content-Type: application/xml", *headers)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (xml_error(503, "SlowDown"), Unreachable, "SlowDown"),
        (xml_error(500, "InternalError"), Unreachable, "InternalError"),
        (http(502, b"<html>bad gateway</html>"), Unreachable, "502"),
        (http(503), Unreachable, "503"),
        (xml_error(429, "TooManyRequests"), Unreachable, "TooManyRequests"),
        (xml_error(400, "RequestTimeout"), Unreachable, "RequestTimeout"),
        (xml_error(409, "OperationAborted"), Unreachable, "OperationAborted"),
        (xml_error(400, "BadDigest"), Unreachable, "BadDigest"),
        (xml_error(403, "QuotaExceeded"), QuotaFull, "full"),
        (xml_error(507, "XMinioStorageFull"), QuotaFull, "full"),
        (xml_error(403, "AccessDenied", "storage cap exceeded"), QuotaFull, "full"),
        (xml_error(403, "AccessDenied", "Access Denied"), Refused, "may not write"),
        (xml_error(403, "RequestTimeTooSkewed"), Refused, "clock"),
        (xml_error(400, "AuthorizationHeaderMalformed"), Refused, "region"),
        (xml_error(400, "InvalidRequest", "two\nlines"), Refused, "InvalidRequest two lines"),
        (xml_error(501, "NotImplemented"), Refused, "does not know"),
        (xml_error(412, "PreconditionFailed"), AlreadyThere, "already"),
        (b"", Unreachable, "no answer"),
        (b"SSH-2.0-OpenSSH_9\r\n", Unreachable, "no answer"),
    ],
)
def test_an_answer_tells_whether_to_try_again(options, answer, kind, text):
    with (
        answering(answer) as endpoint,
        opened(options, endpoint=endpoint) as driver,
        pytest.raises(Exception, match=text) as failure,
    ):
        driver.put("ab/key", b"x")
    assert type(failure.value) is kind
    assert "\n" not in str(failure.value)


def test_a_bucket_elsewhere_is_refused(options):
    # The short way is refused, then boto3's; which asks where the bucket is, and is not told.
    elsewhere = xml_error(301, "PermanentRedirect")
    with (
        answering(elsewhere, elsewhere, http(404)) as endpoint,
        opened(options, endpoint=endpoint) as driver,
        pytest.raises(Refused, match="region"),
    ):
        driver.put("ab/key", b"x")


def test_what_the_service_asks_to_wait_is_told(options):
    with (
        answering(xml_error(503, "SlowDown", "", "Retry-After: 7")) as endpoint,
        opened(options, endpoint=endpoint) as driver,
        pytest.raises(Unreachable) as failure,
    ):
        driver.get("ab/key")
    assert failure.value.retry_after_seconds == 7


@pytest.mark.parametrize("header", ["Retry-After: soon", "Retry-After: -3", "Retry-After: inf"])
def test_a_wait_that_makes_no_sense_is_none(options, header):
    with (
        answering(xml_error(503, "SlowDown", "", header)) as endpoint,
        opened(options, endpoint=endpoint) as driver,
        pytest.raises(Unreachable) as failure,
    ):
        driver.get("ab/key")
    assert failure.value.retry_after_seconds is None


def test_an_answer_that_breaks_off_is_no_shorter_object(options):
    whole = http(200, b"0123456789")
    for answer in (whole[:-4], whole[:-10]):
        with (
            answering(answer) as endpoint,
            opened(options, endpoint=endpoint) as driver,
            pytest.raises(Unreachable),
        ):
            driver.get("ab/key")


def test_a_silent_server_is_given_up_after_the_timeout(options):
    with (
        answering(None) as endpoint,
        opened(options, endpoint=endpoint, read_seconds=0.2) as driver,
    ):
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer"):
            driver.get("ab/key")
        assert time.monotonic() - began < 5


def test_a_failed_request_is_made_once_only(options):
    """Trying again is the work of the wrapper, with its budget and its breaker."""
    with (
        answering(http(500), http(200, b"x")) as endpoint,
        opened(options, endpoint=endpoint) as driver,
    ):
        with pytest.raises(Unreachable):
            driver.get("ab/key")
        assert driver.get("ab/key") == b"x"


def test_a_server_that_ignores_ranges_is_cut_here(options):
    with (
        answering(http(200, b"0123456789")) as endpoint,
        opened(options, endpoint=endpoint) as driver,
    ):
        assert driver.get_range("ab/key", 3, 4) == b"3456"


def test_a_listing_that_stops_half_way_is_an_error(options):
    body = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    with (
        answering(http(200, body)) as endpoint,
        opened(options, endpoint=endpoint) as driver,
        pytest.raises(Unreachable, match="half way"),
    ):
        driver.list_page("", "")


def test_a_listing_that_is_no_xml_is_an_error(options):
    with (
        answering(http(200, b"<html><p>Log in to the wifi</html>")) as endpoint,
        opened(options, endpoint=endpoint) as driver,
        pytest.raises(Unreachable),
    ):
        driver.list_page("", "")


def test_a_missing_object_and_a_missing_bucket_are_told_apart_after_head(options):
    for code, kind in (("NoSuchKey", NotFound), ("NoSuchBucket", Refused)):
        with (
            answering(http(404), xml_error(404, code)) as endpoint,
            opened(options, endpoint=endpoint) as driver,
            pytest.raises(kind),
        ):
            driver.head("ab/key")


# --- the short way for bytes, and boto3's -----------------------------------------------------


OUTPOST = (
    "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01234567890123456/accesspoint/reports"
)


def is_of_boto3(head):
    """boto3 waits for leave before it sends a body, and marks what it asks."""
    return "amz-sdk-invocation-id" in head.lower()


def test_bytes_take_the_short_way(options):
    heads = []
    with (
        answering(http(200, b"x"), heads=heads) as endpoint,
        opened(options, endpoint=endpoint) as driver,
    ):
        driver.put("ab/key", b"x")
        driver.create("ab/key", b"x")
        driver.get("ab/key")
        driver.get_range("ab/key", 0, 1)
    assert [head.split()[0] for head in heads] == ["PUT", "PUT", "GET", "GET"]
    assert not any(is_of_boto3(head) for head in heads)
    assert ["If-None-Match: *" in head for head in heads] == [False, True, False, False]


@pytest.mark.parametrize("name", ["b--use1-az4--x-s3", OUTPOST])
def test_a_bucket_that_is_signed_for_otherwise_is_left_to_boto3(options, name):
    with opened(options, endpoint="", region="us-west-2", bucket=name) as driver:
        assert driver._ways.wire is None


def test_a_bucket_in_another_region_is_followed_by_boto3_from_then_on(options):
    elsewhere = xml_error(301, "PermanentRedirect")
    there = http(200, b"", "x-amz-bucket-region: eu-west-1")
    heads = []
    with (
        answering(elsewhere, elsewhere, there, http(200), heads=heads) as endpoint,
        opened(options, endpoint=endpoint) as driver,
    ):
        driver.put("ab/key", b"x")
        driver.put("ab/key", b"x")
    assert [head.split()[0] for head in heads] == ["PUT", "PUT", "HEAD", "PUT", "PUT"]
    assert [is_of_boto3(head) for head in heads] == [False, True, True, True, True]
    assert "/eu-west-1/s3/" in heads[-1]


def test_a_body_is_hashed_where_others_could_change_it_on_the_way(options, monkeypatch):
    heads = []
    with answering(http(200), heads=heads) as endpoint:
        monkeypatch.setenv("http_proxy", endpoint)
        for place in (endpoint, "http://storage.example"):
            with opened(options, endpoint=place) as driver:
                driver.put("ab/key", b"some bytes")
    near, far = heads
    assert "x-amz-content-sha256: unsigned-payload" in near.lower()
    assert f"x-amz-content-sha256: {hashlib.sha256(b'some bytes').hexdigest()}" in far.lower()
    assert far.startswith("PUT http://storage.example/one/")  # to the proxy


def test_a_refusal_that_comes_before_the_body_was_sent_is_heard(options):
    body = b"<Error><Code>QuotaExceeded</Code></Error>"
    with socket.create_server((HOST, 0)) as listener:

        def refuse():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(http(403, body))

        thread = threading.Thread(target=refuse)
        thread.start()
        endpoint = f"http://{HOST}:{listener.getsockname()[1]}"
        with opened(options, endpoint=endpoint) as driver, pytest.raises(QuotaFull):
            driver.put("ab/key", bytes(16 << 20))
        thread.join()


def test_a_timeout_is_not_for_all_of_a_body_that_goes_on_slowly(options):
    """As on a line that needs a minute for a fragment: there is no end while bytes leave."""
    body = bytes(6 << 20)  # more than the kernel takes from us at once
    with socket.create_server((HOST, 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)

        def take_slowly():
            connection, _ = listener.accept()
            with connection:
                left = len(body)
                data = connection.recv(16384)
                left -= len(data.partition(b"\r\n\r\n")[2])
                while left > 0:
                    time.sleep(0.01)  # this is the line
                    left -= len(connection.recv(16384))
                connection.sendall(http(200))

        thread = threading.Thread(target=take_slowly)
        thread.start()
        endpoint = f"http://{HOST}:{listener.getsockname()[1]}"
        with opened(options, endpoint=endpoint, connect_seconds=0.6) as driver:
            driver.put("ab/key", body)
        thread.join()


def test_a_success_that_turns_into_an_error_is_none(options):
    answer = http(200, b'<?xml version="1.0"?><Error><Code>InternalError</Code></Error>')
    with (
        answering(answer) as endpoint,
        opened(options, endpoint=endpoint) as driver,
        pytest.raises(Unreachable, match="InternalError"),
    ):
        driver.put("ab/key", b"x")


def test_an_answer_of_unknown_length_is_whole_or_an_error(options):
    start = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n"
    with (
        answering(start + b"0\r\n\r\n", start) as endpoint,
        opened(options, endpoint=endpoint) as driver,
    ):
        assert driver.get("ab/key") == b"0123"
        with pytest.raises(Unreachable):
            driver.get("ab/key")


def test_keys_that_run_out_are_asked_for_again(options, seaweedfs, tmp_path, monkeypatch):
    profile = f"p{uuid.uuid4().hex}"
    keys, file = tmp_path / "keys", tmp_path / "config"
    file.write_text(f"[profile {profile}]\ncredential_process = cat {keys}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)

    def hand_out(access, secret):
        told = {"Version": 1, "AccessKeyId": access, "SecretAccessKey": secret}
        keys.write_text(json.dumps({**told, "Expiration": soon.isoformat()}))

    hand_out("nobody", "nothing")
    with opened(options, access_key="", secret_key="", profile=profile) as driver:
        with pytest.raises(Refused, match="not known"):
            driver.put("ab/key", b"x")
        hand_out(seaweedfs.keys.access, seaweedfs.keys.secret)
        driver.put("ab/key", b"x")
        assert driver.get("ab/key") == b"x"


def test_boto3_is_imported_only_when_an_s3_account_is_opened():
    program = (
        "import sys\n"
        "import aggfs.stores.registry, aggfs.stores.probe, aggfs.stores.faulty\n"
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)
