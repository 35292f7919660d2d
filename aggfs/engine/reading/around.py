"""Whether the stripe around a read is worth bringing. Pure: told the reads of one file.

Who reads here and there in a file (a database, an archive, an image of a disk) soon comes back
near to where he was. JuiceFS therefore brings the whole block that a read falls into
(`--prefetch`); so does this, within limits. The first misses bring nothing more: programs that
look at files want a head, a tail, an index. Then a stripe costs one of a credit that begins small,
and grows only with reads which find here what they want. Who reads a terabyte here and there so
pays for a few stripes, and who reads a database has it here after a while (decision 0014).
"""

FREE_MISSES = 4
CREDIT_STRIPES = 16.0
EARNED_STRIPES = 4.0  # by a read that finds its bytes here
CREDIT_LIMIT = 64.0


class Around:
    """The reads of one file that is not read in order."""

    __slots__ = ("_brought", "_credit", "_misses")

    def __init__(self) -> None:
        self._misses = 0
        self._brought = False
        self._credit = CREDIT_STRIPES

    def missed(self) -> bool:
        """A read waits for what is not here: whether the rest of its stripe should come, too."""
        self._misses += 1
        return self._misses > FREE_MISSES and self._credit >= 1

    def brought(self) -> None:
        """A stripe is on its way."""
        self._credit -= 1
        self._brought = True

    def found(self) -> None:
        """A read found everything here."""
        if self._brought:
            self._credit = min(self._credit + EARNED_STRIPES, CREDIT_LIMIT)
