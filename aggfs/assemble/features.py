"""What stands on a running volume: one line for each feature of the upkeep.

A feature adds verbs that commands ask and jobs that run in the background. It is given the
volume, uses its parts, and nothing of the volume knows it.
"""

from collections.abc import Callable

from aggfs.engine.caching import caching
from aggfs.engine.care.keeping import keeping
from aggfs.engine.members import members
from aggfs.engine.moves.moving import moving
from aggfs.engine.past.remembering import remembering
from aggfs.engine.volume import Feature, Volume
from aggfs.engine.waiting import waiting

FEATURES: tuple[Callable[[Volume], Feature], ...] = (
    members,
    caching,
    remembering,
    keeping,
    moving,
    waiting,
)
