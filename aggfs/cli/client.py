"""The commands' end of the control socket.

Standard library only: `aggfs status` must answer before it could have imported trio or boto3.
"""

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from aggfs.daemon.rendezvous import REPLY_BYTES, address_of, named_error
from aggfs.errors import AggfsError, Busy, Damaged

SILENCE_SECONDS = 60.0
RECEIVE_BYTES = 1 << 16


class NotRunning(AggfsError):
    """No daemon serves this volume."""


class WentAway(NotRunning):
    """The daemon ended before it answered: what it was asked may be done, or half done."""


def call(
    socket_path: str,
    verb: str,
    /,
    *,
    on_progress: Callable[[str], None] | None = None,
    silence_seconds: float = SILENCE_SECONDS,
    **arguments: Any,
) -> dict[str, Any]:
    """Ask the daemon behind `socket_path`; the result of the verb.

    Raises the error that the daemon named, by its class of `aggfs.errors`; `NotRunning` when
    there is no daemon, `WentAway` when it was asked and then ended. The daemon says every few
    seconds that it is alive: `silence_seconds` without a word raise `Busy`. `on_progress` hears
    what long verbs tell.
    """
    with _connect(socket_path, silence_seconds) as connection:
        request = json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n"
        try:
            connection.sendall(request)
            for message in _messages(connection):
                if "ok" in message:
                    return _result(message)
                if on_progress is not None and message.get("progress"):
                    on_progress(message["progress"])
        except TimeoutError:
            raise Busy(f"the daemon said nothing for {silence_seconds:g} s") from None
        except ConnectionError:
            pass
    raise WentAway("the daemon ended before it answered: see what is done, and ask again")


def _connect(path: str, silence_seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A timeout of Python's would make connect fail at once where many clients queue.
    patience = struct.pack("@ll", int(silence_seconds), 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    try:
        with address_of(path) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionError, NotADirectoryError):
        connection.close()
        raise NotRunning(f"no daemon listens at {path}") from None
    except BlockingIOError:
        connection.close()
        raise Busy(f"the daemon took no call for {silence_seconds:g} s") from None
    except OSError as error:
        connection.close()
        raise AggfsError(f"{path}: {os.strerror(error.errno or 0)}") from None
    connection.settimeout(silence_seconds)
    return connection


def _messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    pending = bytearray()
    while data := connection.recv(RECEIVE_BYTES):
        searched = len(pending)
        pending += data
        while (end := pending.find(b"\n", searched)) >= 0:
            line, searched = bytes(pending[:end]), 0
            del pending[: end + 1]
            yield _message(line)
        if len(pending) > REPLY_BYTES:
            raise Damaged("the daemon's answer is longer than any answer")


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise Damaged("the daemon's answer is not what was agreed on")
    return message


def _result(message: dict[str, Any]) -> dict[str, Any]:
    if message["ok"]:
        result = message.get("result")
        return result if isinstance(result, dict) else {}
    raise named_error(str(message.get("error")), str(message.get("text")))
