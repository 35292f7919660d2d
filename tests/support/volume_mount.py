"""A process that serves a real volume over three directories, made when it is not there yet.

  python -m tests.support.volume_mount MOUNTPOINT STATE_DIRECTORY [NAME=VALUE of MountOptions ...]

Prints "ready" when the folder answers. The accounts lie beside the state directory.
"""

import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from aggfs.assemble import making, opening
from aggfs.coding.slots import Secret
from aggfs.config import AccountConfig, Config, MountConfig
from aggfs.daemon.main import Service, serve
from aggfs.daemon.systemd import ServiceManager
from aggfs.engine.recovery.identity import HEADER_NAME
from aggfs.model import AccountId, DeviceId, Layout, VolumeId
from aggfs.mount.options import MountOptions
from aggfs.placement.policy import StorageClass


def config_of(state: Path) -> Config:
    """2-of-3 over directories; always the same for one state directory."""
    accounts = []
    for number in range(3):
        path = state.parent / f"account{number}"
        name = f"account{number}"
        identity = AccountId(bytes([number] * 8))
        accounts.append(AccountConfig(identity, name, "directory", name, path=str(path)))
    return Config(
        name="test",
        volume=VolumeId(bytes(15) + b"v"),
        device=DeviceId(bytes(7) + b"d"),
        device_name="tested",
        classes=(StorageClass(0, "default", 2, 3, Layout.CONTIGUOUS, None),),
        accounts=tuple(accounts),
        mount=MountConfig(),
    )


async def make(config: Config, state: Path, secrets: Sequence[Secret] = ()) -> None:
    """A new volume, which these secrets open beside its device's own."""
    for account in config.accounts:
        Path(account.path).mkdir()
    await making.create_volume(config, str(state), secrets=secrets)


async def run(state: Path, service: Service) -> None:
    """Make the volume if need be, and serve it until told to stop."""
    config = config_of(state)
    if not (state / HEADER_NAME).exists():
        await make(config, state)
    volume = opening.open_volume(config, str(state))
    await serve(volume, service, partial(print, "ready", flush=True))


def main(mountpoint: str, state_directory: str, *settings: str) -> None:
    """Serve until told to stop."""
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    chosen = {name: eval(value) for name, value in (s.split("=", 1) for s in settings)}  # noqa: S307 - the tests' own words
    service = Service(
        mountpoint, state_directory, MountOptions(**chosen), ServiceManager.named_in(os.environ)
    )
    trio.run(run, Path(state_directory), service)


if __name__ == "__main__":
    main(*sys.argv[1:])
