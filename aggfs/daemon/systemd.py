"""The few words that a service says to systemd (sd_notify)."""

import socket


def notify(address: str | None, message: str) -> None:
    """Send e.g. `READY=1` to the socket that NOTIFY_SOCKET named; None: nobody listens.

    Never raises and never waits: the service manager's trouble is not ours.
    """
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(message.encode(), name)
    except OSError:
        return
