"""The table of errno: every error of ours has a row, and the nearest row decides."""

import errno
import inspect

import pyfuse3
import pytest
import trio

from aggfs import errors
from aggfs.mount.counting import Counts
from aggfs.mount.errors import HANDLERS, TABLE, Faults, errno_of, guarded
from aggfs.mount.operations import VolumeOperations

NAMESPACE_ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, errors.NamespaceError) and error is not errors.NamespaceError
]


@pytest.mark.parametrize("kind", NAMESPACE_ERRORS)
def test_every_refusal_of_the_namespace_has_its_errno(kind):
    assert errno_of("lookup", kind("why")) not in (None, errno.EIO)


# What is raised before there is a mount, and the classes that nobody raises.
NO_HANDLER_MEETS = {
    *(errors.BadConfig, errors.MountRefused, errors.WrongKey),
    *(errors.AggfsError, errors.NamespaceError),
}
MET = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.AggfsError) and kind not in NO_HANDLER_MEETS
]


@pytest.mark.parametrize("kind", MET)
def test_every_error_of_ours_was_foreseen(kind):
    assert any(issubclass(kind, known) for known, _ in TABLE)


@pytest.mark.parametrize("name", [*HANDLERS, "forget"])
async def test_every_handler_stands_what_nobody_foresaw_and_tells_it_once(name, caplog):
    class Broken(VolumeOperations):
        def __init__(self):
            self.faults = Faults()
            self.counts = Counts(HANDLERS)

    async def fail(self, *arguments):
        raise ExceptionGroup("a nursery", [KeyError(name), OSError(errno.EBADF, "closed")])

    setattr(Broken, name, fail)
    broken = guarded(Broken)()
    for _ in range(3):
        if name == "forget":  # it has no reply
            await broken.forget([(1, 1)])
            continue
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await getattr(broken, name)(1, 2, 3)
        assert caught.value.errno == errno.EIO
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith(f"{name} failed unexpectedly")
    assert record.exc_info
    caplog.clear()


@pytest.mark.parametrize(
    ("operation", "error", "number"),
    [
        ("write", errors.NoSpace("full"), errno.ENOSPC),
        ("write", errors.QuotaFull("full"), errno.ENOSPC),
        ("read", errors.TooFewFragments("2 of 3"), errno.EIO),
        ("read", errors.UnknownVersion("newer"), errno.EIO),
        ("read", errors.Unreachable("no answer"), errno.EIO),
        ("read", trio.TooSlowError(), errno.EIO),
        ("write", errors.TooLarge("file"), errno.EFBIG),
        ("link", errors.TooLarge("names"), errno.EMLINK),
        ("setxattr", errors.TooLarge("value"), errno.E2BIG),
        ("write", OSError(errno.ENOSPC, "local disk"), errno.ENOSPC),
        ("write", OSError(errno.EDQUOT, "local disk"), errno.ENOSPC),
        ("write", ExceptionGroup("nursery", [ValueError(), errors.NoSpace("full")]), errno.ENOSPC),
    ],
)
def test_an_error_that_was_foreseen_has_its_errno(operation, error, number):
    faults = Faults()
    assert faults.answer(operation, error).errno == number
    assert faults.count == 0


def test_a_class_stands_above_its_base():
    kinds = [kind for kind, _ in TABLE]
    for place, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[place + 1 :])


def test_what_nobody_foresaw_is_told_once_per_operation_and_kind(caplog):
    faults = Faults()
    for _ in range(3):
        for operation in ("read", "write"):
            for error in (KeyError("x"), OSError(errno.EBADF, "x")):
                assert faults.answer(operation, error).errno == errno.EIO
    assert faults.count == 12
    assert len(caplog.records) == 4
    assert all(record.exc_info for record in caplog.records)
    caplog.clear()


async def test_the_guard_lets_only_errnos_and_cancellation_out(caplog):
    class Handlers(VolumeOperations):
        def __init__(self, outcome):
            self.faults = Faults()
            self.counts = Counts(HANDLERS)
            self.outcome = outcome

        async def lookup(self, *arguments):
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome

        async def forget(self, *arguments):
            raise KeyError("forget has no reply")

    guarded(Handlers)
    assert await Handlers("entry").lookup(1, b"a", None) == "entry"
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers(pyfuse3.FUSEError(errno.EXDEV)).lookup(1, b"a", None)
    assert caught.value.errno == errno.EXDEV
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers(errors.NoEntry("a")).lookup(1, b"a", None)
    assert caught.value.errno == errno.ENOENT
    await Handlers(None).forget([(1, 1)])
    with trio.CancelScope() as scope:
        scope.cancel()

        class Waits(VolumeOperations):
            def __init__(self):
                self.faults = Faults()
                self.counts = Counts(HANDLERS)

            async def lookup(self, *arguments):
                await trio.sleep_forever()

        await guarded(Waits)().lookup(1, b"a", None)
    assert scope.cancelled_caught
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    caplog.clear()


def test_every_handler_of_the_binding_is_guarded_and_served():
    # poll is answered by the kernel once and for all when nobody implements it.
    offered = {
        name
        for name, member in inspect.getmembers(pyfuse3.Operations, inspect.iscoroutinefunction)
        if not name.startswith("_")
    } - {"poll"}
    assert offered == {*HANDLERS, "forget"}
    for name in HANDLERS:
        assert getattr(VolumeOperations, name).__name__ == "guard"
