"""The daemon killed at random moments."""

from tests.support.killing import kill_again_and_again
from tests.support.stage import Stage, shows


@shows("KILL")
def test_what_was_acknowledged_survives_kills_at_random(stage: Stage):
    """kill -9 while programs change files, and mounted again: what fsync told is there, here and
    in the accounts."""
    volume = stage.volume()
    volume.expect_log("")
    for line in kill_again_and_again(stage, volume, 4, seed=7, looks=4):
        stage.tell(line)
