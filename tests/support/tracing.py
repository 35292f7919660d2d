"""What a process did to files, from its trace by strace: a list of calls in their order.

A call that another thread interrupted has two lines; it took effect somewhere between them. A
line that stands alone has nothing of other threads between the entry and the exit of its call.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

CALLS = (
    *("open", "openat", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2"),
    *("ftruncate", "truncate", "fallocate", "rename", "renameat", "renameat2", "link", "linkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "symlink", "symlinkat"),
    *("lseek", "fsync", "fdatasync", "sync_file_range", "syncfs", "copy_file_range", "sendfile"),
)
LONGEST_BYTES = 1 << 25

_LINE = re.compile(r"(\d+) +(\d+)\.(\d{9}) (.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)")
_BEGUN = re.compile(r"(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"<\.\.\. (\w+) resumed>(.*)\) += (-?\d+|\?)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_FILE = re.compile(r"(-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")


@dataclass(eq=False)
class Call:
    """One system call. `texts` are its strings, paths and data alike; `files` the descriptors
    that it was given: number, path at its entry, whether that name was gone."""

    name: str
    arguments: str
    texts: list[bytes]
    files: list[tuple[str, str, bool]]
    result: int | None = None

    @property
    def numbers(self) -> list[int]:
        """The numbers at its end."""
        found = []
        for word in reversed(self.arguments.split(", ")):
            if not word.isdigit():
                break
            found.insert(0, int(word))
        return found


@dataclass(frozen=True)
class Moment:
    """A line of the trace: at `time` (ns) a call was entered, or returned, or both."""

    time: int
    call: Call
    entered: bool
    returned: bool


def command(output: str) -> list[str]:
    """What to put before a command to trace it and all of its threads into a file."""
    how = ("-f", "--seccomp-bpf", "-y", "-xx", f"--string-limit={LONGEST_BYTES}")
    times = "--timestamps=format:unix,precision:ns"
    return ["strace", *how, times, "-qq", "-e", "signal=none", "-o", output, "-e", _chosen()]


def _chosen() -> str:
    return "trace=" + ",".join(f"?{name}" for name in CALLS)


def read_moments(lines: Iterable[str]) -> Iterator[Moment]:
    """The lines in their order. Calls that failed are left out where they return."""
    waiting: dict[str, Call] = {}
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            raise ValueError(f"not a line of strace: {line[:200]!r}")
        thread, time, rest = found[1], int(found[2]) * 10**9 + int(found[3]), found[4]
        if rest.startswith(("+++", "---")):
            waiting.pop(thread, None)
        elif (ended := _ENDED.match(rest)) is not None:
            call = waiting.pop(thread)
            call.result = _number(ended[3])
            yield Moment(time, call, entered=False, returned=True)
        elif (begun := _BEGUN.match(rest)) is not None:
            waiting[thread] = _parsed(begun[1], begun[2])
            yield Moment(time, waiting[thread], entered=True, returned=False)
        elif (whole := _CALL.match(rest)) is not None:
            call = _parsed(whole[1], whole[2])
            call.result = _number(whole[3])
            yield Moment(time, call, entered=True, returned=True)
        else:
            raise ValueError(f"not a line of strace: {line[:200]!r}")


def _number(word: str) -> int | None:
    return None if word == "?" else int(word)


def _parsed(name: str, arguments: str) -> Call:
    texts = []
    for found in _TEXT.finditer(arguments):
        if found[2]:
            raise ValueError(f"a string of {name} is cut")
        texts.append(_bytes(found[1]))
    plain = _TEXT.sub('""', arguments)
    files = [
        (number, _bytes(path).decode(), bool(gone)) for number, path, gone in _FILE.findall(plain)
    ]
    return Call(name, plain, texts, files)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
