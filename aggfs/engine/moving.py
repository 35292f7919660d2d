"""What moves fragments of a volume, and the verbs that ask for it."""

from aggfs.engine.drain import Draining, Removing
from aggfs.engine.move import Mover
from aggfs.engine.movement import Answer, Arguments, Movement
from aggfs.engine.rebalance import Rebalancing
from aggfs.engine.volume import Feature, Volume
from aggfs.errors import BadConfig, NoEntry


def moving(volume: Volume) -> Feature:
    """Rebalancing, and accounts that leave."""
    parts = volume.parts
    mover = Mover(parts, parts.readers)
    draining = Draining(parts, mover)
    movement = Movement(
        volume,
        mover,
        {
            "rebalance": Rebalancing(parts, mover),
            "drain": draining,
            "remove": Removing(parts, mover),
        },
    )

    def account_of(arguments: Arguments) -> dict[str, str | int]:
        wanted: dict[str, str | int] = {"account": _account_named(volume, arguments, "name")}
        if arguments.get("prefer"):
            wanted["prefer"] = _account_named(volume, arguments, "prefer")
            if wanted["prefer"] == wanted["account"]:
                raise BadConfig("an account cannot be replaced by itself")
        return wanted

    async def keep(volume: Volume, arguments: Arguments) -> Answer:
        """A drained account takes new data again."""
        await draining.undo({"account": _account_named(volume, arguments, "name")})
        return {}

    return Feature(
        verbs={
            "rebalance": movement.verb("rebalance", lambda _: {}),
            "account-drain": movement.verb("drain", account_of),
            "account-remove": movement.verb("remove", account_of),
            "account-keep": keep,
            "movement": movement.report,
            "movement-stop": movement.stop,
        },
        jobs={"moving": movement.run},
        figures={"movement": movement.figures},
    )


def _account_named(volume: Volume, arguments: Arguments, argument: str) -> str:
    name = str(arguments.get(argument))
    for account in volume.parts.accounts:
        if account.name == name:
            return account.id.hex()
    raise NoEntry(f"the volume has no account {name!r}")
