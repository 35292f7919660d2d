"""Where accounts are: when two are the same place, and who operates them. Pure, no library.

The provider is only a default: the user may name another. It is derived without a list of public
suffixes, by the rule of thumb in `registrable_domain`; where that is too coarse, two providers
count as one, which is the safe side.
"""

import ipaddress
import urllib.parse
from dataclasses import dataclass

from aggfs.errors import BadConfig

AMAZON = "s3.amazonaws.com"
# Labels that stand between a country and the name somebody registered: example.co.uk.
_SECOND_LEVEL = {"ac", "co", "com", "edu", "gov", "gob", "go", "ne", "net", "or", "org"}
_USUAL_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service of the network: what an endpoint URL says."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """host, or host:port where the port is not the usual one of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if _USUAL_PORT[self.scheme] == self.port else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """It is this machine: no proxy, no wire, and every port may be another service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")


def parse_endpoint(text: str) -> Endpoint:
    """An http(s) URL, or a bare host meaning https; `BadConfig` for anything else."""
    try:
        url = urllib.parse.urlsplit(text if "//" in text else f"https://{text}")
        scheme, host, port = url.scheme.lower(), (url.hostname or "").rstrip("."), url.port
    except ValueError as error:
        raise BadConfig(f"endpoint {text!r}: {error}") from error
    if scheme not in _USUAL_PORT or not host or url.path.strip("/") or url.query:
        raise BadConfig(f"endpoint {text!r}: give https://HOST or http://HOST:PORT")
    return Endpoint(scheme, host, port or _USUAL_PORT[scheme])


def s3_place(endpoint: str, bucket: str, prefix: str) -> str:
    """Equal for two S3 accounts that name the same objects in the same words.

    Other words may still mean the same place: `probe.same_place` finds that out.
    """
    host = parse_endpoint(endpoint).authority if endpoint else AMAZON
    return "/".join(filter(None, [f"s3://{host}", bucket, prefix.strip("/")]))


def s3_provider(endpoint: str) -> str:
    """The operator of an S3 service: its registrable domain; on loopback, each port is one."""
    if not endpoint:
        return registrable_domain(AMAZON)
    service = parse_endpoint(endpoint)
    return (
        f"{service.host}:{service.port}"
        if service.is_loopback
        else (registrable_domain(service.host))
    )


def registrable_domain(host: str) -> str:
    """The last two labels of a host name, or three below a country's second level.

    An address, or a name without a dot, is its own: one machine is one operator.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.lower().split(".")
        country = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL
        return ".".join(labels[-3:] if country else labels[-2:])
    return host
