"""The content map against a dictionary of blocks, and the rows of stripes."""

import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from aggfs.cache.blocks import TABLES, Blocks, StripeState
from aggfs.cache.database import Database
from aggfs.errors import Damaged
from aggfs.model import BLOCK_BYTES, AccountId, Content, Extent, StripeRow

INODES = [bytes(15) + b"a", bytes(15) + b"b", b"\xff" * 16]
inodes = st.sampled_from(INODES)
numbers = st.integers(0, 40)
sids = st.sampled_from([bytes([letter]) * 24 for letter in b"xyz"])


class ContentMapIsADictionary(RuleBasedStateMachine):
    """(inode, block) -> (sid, index)."""

    @initialize()
    def begin(self):
        self.home = tempfile.TemporaryDirectory()
        self.database = Database.open(self.home.name, tables=TABLES)
        self.blocks = Blocks(self.database)
        self.model = {}

    @rule()
    def commit(self):
        self.database.commit_now()

    @rule(inode=inodes, first=numbers, count=st.integers(0, 20))
    def clear(self, inode, first, count):
        self.blocks.clear(inode, first, first + count)
        for block in range(first, first + count):
            self.model.pop((inode, block), None)

    @rule(inode=inodes)
    def clear_the_end(self, inode):
        self.blocks.clear(inode, 20, 1 << 62)
        self.model = {key: at for key, at in self.model.items() if key[0] != inode or key[1] < 20}

    @rule(inode=inodes, block=numbers, sid=sids, index=numbers, count=st.integers(1, 20))
    def lay(self, inode, block, sid, index, count):
        self.blocks.lay(inode, [Extent(block, sid, index, count)])
        self.put(inode, block, sid, index, count)

    def put(self, inode, block, sid, index, count):
        for step in range(count):
            self.model[inode, block + step] = (sid, index + step)

    @rule(
        inode=inodes,
        kept_bytes=st.integers(0, 40 * BLOCK_BYTES),
        inline=st.sampled_from([b"", b"inline"]),
        block=numbers,
        sid=sids,
        count=st.integers(1, 5),
    )
    def apply(self, inode, kept_bytes, inline, block, sid, count):
        extents = () if inline else (Extent(block, sid, 7, count),)
        size = 60 * BLOCK_BYTES
        self.blocks.apply(Content(inode, bytes(16), (), size, kept_bytes, extents, inline, 0, 0))
        kept = 0 if inline else -(-kept_bytes // BLOCK_BYTES)
        self.model = {key: at for key, at in self.model.items() if key[0] != inode or key[1] < kept}
        if not inline:
            self.put(inode, block, sid, 7, count)

    @rule(inode=inodes, first=numbers, count=st.integers(0, 30))
    def look(self, inode, first, count):
        found = {}
        end = first
        for extent in self.blocks.extents(inode, first, first + count):
            assert extent.block >= end
            end = extent.block + extent.count
            for step in range(extent.count):
                found[extent.block + step] = (extent.sid, extent.index + step)
        assert found == {
            block: at
            for (other, block), at in self.model.items()
            if other == inode and first <= block < first + count
        }

    def teardown(self):
        if hasattr(self, "database"):
            self.database.abandon()
            self.home.cleanup()


ContentMapIsADictionary.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestContentMapIsADictionary = ContentMapIsADictionary.TestCase


@pytest.fixture
def database(tmp_path):
    return Database.open(str(tmp_path), tables=TABLES)


def test_a_map_of_many_runs_is_walked_page_by_page(database):
    blocks = Blocks(database)
    for block in range(0, 2000, 2):
        blocks.lay(INODES[0], [Extent(block, b"x" * 24, 0, 1)])
    database.commit_now()
    assert len(blocks.extents(INODES[0], 0, 1 << 40)) == 1000
    blocks.clear(INODES[0], 1, 1999)
    assert blocks.extents(INODES[0], 0, 1 << 40) == [Extent(0, b"x" * 24, 0, 1)]


def row(sid, n=5):
    return StripeRow(sid, 3, 0, 1, 1, (300, 200), tuple(bytes([j]) * 8 for j in range(n)))


def test_stripes_are_unfinished_until_all_fragments_are_in_place(database):
    blocks = Blocks(database)
    for letter in b"ab":
        blocks.put_stripe(StripeState(row(bytes([letter]) * 24), 0b00111))
    assert blocks.unfinished() == [b"a" * 24, b"b" * 24]
    state = StripeState(row(b"a" * 24), 0b11111)
    blocks.put_stripe(state)
    assert state.full
    assert blocks.stripe_count == 2
    assert blocks.unfinished() == [b"b" * 24]
    assert blocks.stripe(b"a" * 24) == state
    assert blocks.stripe(b"c" * 24) is None
    assert [one.row.sid for one in blocks.stripes()] == [b"a" * 24, b"b" * 24]
    assert [one.row.sid for one in blocks.stripes(b"a" * 24)] == [b"b" * 24]


def test_given_up_puts_keep_a_stripe_unfinished_and_count_as_present(database):
    blocks = Blocks(database)
    state = StripeState(row(b"a" * 24), 0b11111, attempts=((2, b"elsewher"),))
    blocks.put_stripe(state)
    assert blocks.unfinished() == [b"a" * 24]
    assert state.may_hold(2) == {AccountId(b"\2" * 8), AccountId(b"elsewher")}
    assert state.may_hold(1) == {AccountId(b"\1" * 8)}


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x93\x01\x02\x03"])
def test_rows_that_are_no_rows_are_damage(database, value):
    blocks = Blocks(database)
    database.table("stripes").put(b"a" * 24, value)
    database.table("extents").put(INODES[0] + bytes(8), value)
    with pytest.raises(Damaged):
        blocks.stripe(b"a" * 24)
    with pytest.raises(Damaged):
        blocks.stripes()
    with pytest.raises(Damaged):
        blocks.extents(INODES[0], 0, 1)
