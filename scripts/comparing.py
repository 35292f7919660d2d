"""The same work on aggfs and on others in one run, as tables with ratios, spread and bars.

Every peer is mounted anew in each round, over a bucket of its own. What is not installed is left
out, what fails is told, each in a line, and the rest goes on. The first table is over accounts far
away, each with a line of its own; the second over the same server with no line between, beside what
keeps nothing far away.
"""

import contextlib
import statistics
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cloud_peers import over_s3
from measuring import Distance, s3_ways, tell
from peers import LOCAL, Failed, Meter, Missing, Peer, mounted
from trees import Tree, source_tree
from work import AGAIN, FULL, LESS_IS_BETTER, SHORT, Amount, Figure, all_work

FAR = Distance(rtt_seconds=0.02, bytes_per_second=30e6)
WAYS = 5
OURS = ["aggfs 3-of-5", "aggfs 2-of-3"]
CLOUD = [*OURS, "JuiceFS", "JuiceFS, 3 shards", "rclone", "rclone crypt", "s3fs", "S3QL"]
SHORT_NEAR = ["aggfs 3-of-5", "JuiceFS"]
FULL_SECONDS, SHORT_SECONDS = 600.0, 150.0  # of one peer in one round
FAULTS = (Failed, OSError, subprocess.SubprocessError, AssertionError)


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure of ours has to reach: so many times that of a peer, or a number."""

    what: str
    ours: str
    times: float
    peer: str = ""  # empty: `times` is the number itself


# From 0.8 of what the lines of all accounts carry together, less the code's redundancy for writes.
BARS = [
    Bar("cold read", "aggfs 3-of-5", 3, "JuiceFS"),
    Bar("cold read", "aggfs 3-of-5", 120),
    Bar("cold read", "aggfs 2-of-3", 72),
    Bar("write, until in the cloud", "aggfs 3-of-5", 72),
    Bar("write, until in the cloud", "aggfs 2-of-3", 48),
    Bar("1,000 small files, read cold", "aggfs 3-of-5", 5, "JuiceFS"),
]


@dataclass
class Table:
    """Figures of peers, one for each round: a column a peer, a row a kind."""

    name: str
    title: str
    columns: dict[str, dict[tuple[str, str], list[float]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def measure(self, name: str, figures: Iterable[Figure]) -> None:
        column = self.columns.setdefault(name, {})
        for what, value, unit in figures:
            column.setdefault((what, unit), []).append(value)
            tell(f"{self.name}: {name}: {what}", value, unit)

    def leave_out(self, line: str) -> None:
        print(line, flush=True)
        if line not in self.left_out:
            self.left_out.append(line)

    def markdown(self) -> Iterator[str]:
        """The best of a row is bold, of those that keep their data far away."""
        yield from [f"### {self.title}", ""]
        yield "| | " + " | ".join(self.columns) + " | 3-of-5 : best of the others |"
        yield "|---" * (len(self.columns) + 2) + "|"
        for row in dict.fromkeys(key for column in self.columns.values() for key in column):
            medians = {
                name: statistics.median(column[row])
                for name, column in self.columns.items()
                if row in column
            }
            far = [name for name in medians if name not in LOCAL]
            first = best(far, medians, row[1]) if far else ""
            cells = [self._cell(name, row, is_best=name == first) for name in self.columns]
            yield f"| {row[0]}, {row[1]} | {' | '.join(cells)} | {ratio(medians, row[1])} |"
        yield ""
        yield from (f"- {line}" for line in self.left_out)
        yield ""

    def _cell(self, name: str, row: tuple[str, str], *, is_best: bool) -> str:
        values = self.columns[name].get(row)
        if values is None:
            return "-"
        text = number(statistics.median(values))
        text = f"**{text}**" if is_best else text
        if len(values) == 1:
            return text
        return f"{text} ({number(min(values))}–{number(max(values))})"

    def judged(self) -> Iterator[str]:
        """A line for each bar whose figures are there."""
        for bar in BARS:
            ours = self._median(bar.ours, bar.what)
            theirs = self._median(bar.peer, bar.what) if bar.peer else 1.0
            if ours is None or theirs is None:
                continue
            reached = ours / theirs
            verdict = "met" if reached >= bar.times else "not met"
            unit = f" times {bar.peer}" if bar.peer else " MB/s"
            name = f"{bar.what}, {bar.ours}"
            yield f"- {name}: {number(reached)}{unit}, bar {bar.times:g}: {verdict}"

    def _median(self, name: str, what: str) -> float | None:
        for row, values in self.columns.get(name, {}).items():
            if row[0] == what:
                return statistics.median(values)
        return None


def best(names: Iterable[str], medians: dict[str, float], unit: str) -> str:
    choose = min if unit in LESS_IS_BETTER else max
    return choose(names, key=medians.__getitem__)


def ratio(medians: dict[str, float], unit: str) -> str:
    """How many times better ours is than the best of the others far away, and which that is."""
    others = [name for name in medians if name not in LOCAL and name not in OURS]
    if not others or OURS[0] not in medians:
        return "-"
    other = best(others, medians, unit)
    ours, theirs = medians[OURS[0]], medians[other]
    if unit in LESS_IS_BETTER:
        ours, theirs = theirs, ours
    return f"{number(ours / theirs)} ({other})" if theirs else f"- ({other})"


def number(value: float) -> str:
    """Three digits of it, and no exponents."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def compare(*, short: bool, only: Sequence[str]) -> Iterator[str]:
    """Run everything; lines of Markdown. `only`: these peers, or all."""
    rounds = [SHORT] if short else [FULL, AGAIN, AGAIN]
    far, near = CLOUD, [*(SHORT_NEAR if short else CLOUD), *LOCAL]
    if only:
        far, near = ([name for name in names if name in only] for names in (far, near))
    with source_tree(rounds[0].tree_files) as tree:
        shaped = Table("far", "Accounts of 20 ms and 30 MB/s each")
        for amount in rounds:
            a_round(shaped, far, FAR, amount, tree)
        unshaped = Table("near", "No line between, and file systems of this machine alone")
        a_round(unshaped, near, None, rounds[0], tree)
    yield from shaped.markdown()
    yield from [*shaped.judged(), ""]
    yield from unshaped.markdown()


def a_round(
    table: Table, names: Sequence[str], distance: Distance | None, amount: Amount, tree: Tree
) -> None:
    """Each of the peers once."""
    seconds = SHORT_SECONDS if amount is SHORT else FULL_SECONDS
    for name in names:
        try:
            with at(name, distance, seconds) as peer:
                table.measure(name, in_its_time(peer, all_work(peer, amount, tree)))
        except Missing as missing:
            table.leave_out(f"left out: {name}: {missing}")
        except FAULTS as fault:
            table.leave_out(f"failed: {name}: {type(fault).__name__}: {one_line(fault)}")


def in_its_time(peer: Peer, figures: Iterable[Figure]) -> Iterator[Figure]:
    """Figures, until the peer is killed because it took too long. Raises `Failed` then."""
    for figure in figures:
        if peer.is_over:
            raise Failed("its time is over")
        yield figure


@contextlib.contextmanager
def at(name: str, distance: Distance | None, seconds: float) -> Iterator[Peer]:
    """The peer, mounted; over a server of its own, so that it finds what all others found."""
    if name in LOCAL:
        with mounted(LOCAL[name], seconds, name) as peer:
            yield peer
        return
    with s3_ways(WAYS, distance) as (server, ways):
        for bucket in ("bench", *(f"bench-{shard}" for shard in range(3))):
            server.create_bucket(bucket)
        with over_s3(name, ways, "bench", seconds) as peer:
            if distance is not None:
                peer.meter = Meter(server, ways, "bench")
            yield peer


def one_line(fault: BaseException) -> str:
    """The last line of what it says."""
    text = str(getattr(fault, "stderr", "") or fault).strip()
    return text.splitlines()[-1][:200] if text else ""
