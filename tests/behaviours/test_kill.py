"""The daemon killed at random moments."""

from tests.support.killing import kill_again_and_again
from tests.support.stage import Stage, shows


@shows("KILL")
def test_what_fsync_acknowledged_survives_kills_at_random(stage: Stage):
    """kill -9 during a copy with fsyncs, and mounted again: every fsynced file is intact."""
    volume = stage.volume()
    volume.expect_log("")
    copier = kill_again_and_again(volume, 3, seed=7)
    stage.tell(f"{len(copier.acknowledged)} files, all intact, also read back from the accounts")
    assert copier.acknowledged
