"""Listings: complete, without repetition, while names come and go."""

import os
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse

pytestmark = needs_fuse

MANY = 10_000


def fill(directory: Path, count: int) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    for index in range(count):
        os.mknod(f"{index:06}", 0o600, dir_fd=descriptor)
    os.close(descriptor)


def test_many_entries_are_made_listed_once_each_and_removed(place: Path):
    fill(place, MANY)
    names = os.listdir(place)
    assert len(names) == len(set(names)) == MANY
    descriptor = os.open(place, os.O_RDONLY)
    for name in names:
        os.unlink(name, dir_fd=descriptor)
    assert os.listdir(descriptor) == []
    os.close(descriptor)


def test_what_stays_is_listed_once_while_others_come_and_go(place: Path):
    fill(place, 3000)
    seen = []
    with os.scandir(place) as listing:
        for step, entry in enumerate(listing):
            seen.append(entry.name)
            if step % 3 == 0:
                os.mknod(place / f"new-{step}", 0o600)
            if step % 5 == 0 and entry.name.isdigit():
                os.unlink(place / f"{(int(entry.name) + 1500) % 3000:06}") if (
                    place / f"{(int(entry.name) + 1500) % 3000:06}"
                ).exists() else None
    assert len(seen) == len(set(seen))
    stayed = {name for name in os.listdir(place) if name.isdigit()}
    assert stayed <= set(seen)


def test_removing_while_listing_empties_the_directory(place: Path):
    fill(place, 1000)
    removed = 0
    with os.scandir(place) as listing:
        for entry in listing:
            os.unlink(entry.path)
            removed += 1
    assert removed == 1000
    assert os.listdir(place) == []


def test_a_listing_goes_on_from_a_remembered_place(place: Path):
    fill(place, 500)
    descriptor = os.open(place, os.O_RDONLY)
    everything = os.listdir(descriptor)
    os.lseek(descriptor, 0, os.SEEK_SET)
    assert os.listdir(descriptor) == everything
    os.close(descriptor)


@pytest.mark.parametrize("depth", [40])
def test_deep_paths_work(place: Path, depth: int):
    deep = place.joinpath(*["d" * 50] * depth)
    os.makedirs(deep)
    (deep / "leaf").write_bytes(b"x")
    assert (deep / "leaf").read_bytes() == b"x"
