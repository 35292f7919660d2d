"""The oracle of crashes knows what a crash may not leave."""

from itertools import count

import pytest

from tests.support.oracle import Oracle, Step, Tree, read_steps
from tests.support.stripes import content

_clock = count(1)
A, B = content(700, 1), content(700, 2)


def did(kind: str, path: str = "a", other: str = "", place: int = 0, seed: int = 0) -> Step:
    length = 700 if kind == "write" else 0
    return Step(kind, path, other, place, length, seed, next(_clock), next(_clock))


MADE = [did("create"), did("write", seed=1), did("fsync")]


def fault(steps: list[Step], found: Tree) -> str:
    oracle = Oracle()
    oracle.take(steps)
    return oracle.fault(found)


@pytest.mark.parametrize("found", [{}, {"a": b""}, {"a": B}, {"a": A[:-1]}, {"a": A, "b": A}])
def test_what_was_synced_is_there_and_nothing_else(found: Tree):
    assert not fault(MADE, {"a": A})
    assert fault(MADE, found)


def test_of_an_unsynced_write_any_sector_may_be_there():
    steps = [*MADE, did("write", seed=2)]
    assert not fault(steps, {"a": B[:512] + A[512:]})
    assert not fault(steps, {"a": A[:512] + B[512:]})
    assert fault(steps, {"a": B[:500] + A[500:]})
    assert fault([*steps, did("fsync")], {"a": A})


def test_a_sector_of_an_unsynced_write_may_be_cut_where_another_edit_began_or_ended():
    """The mark of an edit is kept or lost by itself, and its bytes are."""
    steps = [*MADE, did("truncate", place=620), did("write", seed=2)]
    assert not fault(steps, {"a": A[:619] + B[619:620]})
    assert fault(steps, {"a": A[:618] + B[618:620]})


def test_what_a_file_gained_may_be_zeros_only_there():
    steps = [*MADE, did("write", place=1400, seed=2)]
    assert not fault(steps, {"a": A + bytes(1400)})
    assert not fault(steps, {"a": A + bytes(700)})
    assert fault(steps, {"a": bytes(700) + bytes(700) + B})
    assert fault(steps, {"a": A + bytes(1401)})


def test_names_are_a_prefix_of_what_was_done():
    steps = [*MADE, did("mkdir", "d"), did("rename", "a", "d/a"), did("mkdir", "e")]
    for found in ({"a": A}, {"a": A, "d": None}, {"d": None, "d/a": A}):
        assert not fault(steps, found)
    assert fault(steps, {"a": A, "d": None, "e": None})
    assert fault([*steps, did("fsync_directory", "")], {"a": A})


def test_a_file_that_took_the_name_of_another_is_whole():
    steps = [*MADE, did("create", "b"), did("write", "b", seed=2), did("rename", "b", "a")]
    assert not fault(steps, {"a": A, "b": bytes(700)})
    assert not fault(steps, {"a": B})
    assert fault(steps, {"a": bytes(700)})
    assert fault(steps, {"a": b""})


def test_links_are_one_file():
    steps = [*MADE, did("link", "a", "b"), did("write", "b", seed=2), did("fsync", "a")]
    assert not fault(steps, {"a": B, "b": B})
    assert fault(steps, {"a": A, "b": B})


def test_a_step_that_was_not_acknowledged_in_time_promises_nothing():
    steps = [*MADE, did("write", seed=2), did("fsync")]
    oracle = Oracle()
    oracle.take(steps, until=steps[-1].ended)
    assert not oracle.fault({"a": A})
    text = "begin\t1\tcreate\ta\t\t0\t0\t0\ndone\t2\nbegin\t3\tmkdir\td\t\t0\t0\t0\nbegin\t4\trm"
    assert [(step.kind, step.ended) for step in read_steps(text)] == [
        ("create", 2),
        ("mkdir", None),
    ]
