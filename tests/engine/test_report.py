"""What commands ask of a volume, where there is much of everything."""

from pathlib import Path

from aggfs.cache.blocks import StripeState
from aggfs.model import StripeRow
from tests.support.running import counted_turns, make_volume, running

STRIPES = 500


async def test_others_have_their_turn_while_the_status_counts_unfinished_stripes(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state, sound=False) as volume:
        places = tuple(account.id for account in volume.parts.accounts)
        for number in range(STRIPES):
            row = StripeRow(b"other" + number.to_bytes(19), 2, 0, 0, 1, (100, 100), places)
            volume.parts.blocks.put_stripe(StripeState(row, 0b011))
        async with counted_turns() as turns:
            answer = await volume.control("status", {})
        assert answer["under_replicated"] == STRIPES
        assert turns.count > 0.9 * STRIPES  # the order within a turn is the scheduler's
