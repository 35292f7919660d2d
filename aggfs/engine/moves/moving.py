"""What moves fragments of a volume, and the verbs that ask for it."""

from dataclasses import asdict

from aggfs.engine.moves.compact import Compactor
from aggfs.engine.moves.drain import Draining, Removing
from aggfs.engine.moves.move import Mover
from aggfs.engine.moves.movement import Answer, Arguments, Movement
from aggfs.engine.moves.rebalance import Rebalancing
from aggfs.engine.moves.recode import Recoding
from aggfs.engine.moves.rewrite import Rewriter
from aggfs.engine.volume import Feature, Volume
from aggfs.errors import BadConfig, NoEntry


def moving(volume: Volume) -> Feature:
    """Rebalancing, accounts that leave, coding anew, and compaction."""
    parts = volume.parts
    mover = Mover(parts, parts.readers)
    rewriter = Rewriter(parts)
    draining = Draining(parts, mover, rewriter)
    compactor = Compactor(parts, rewriter, parts.pace)
    movement = Movement(
        volume,
        mover,
        {
            "rebalance": Rebalancing(parts, mover),
            "drain": draining,
            "remove": Removing(parts, mover, rewriter),
            "re-encode": Recoding(volume, mover, rewriter),
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

    async def compact(volume: Volume, arguments: Arguments) -> Answer:
        """One round of compaction, now."""
        del volume, arguments
        return asdict(await compactor.round())

    return Feature(
        verbs={
            "compact": compact,
            "rebalance": movement.verb("rebalance", lambda _: {}),
            "account-drain": movement.verb("drain", account_of),
            "account-remove": movement.verb("remove", account_of),
            "re-encode": movement.verb("re-encode", _code_of),
            "account-keep": keep,
            "movement": movement.report,
            "movement-stop": movement.stop,
        },
        jobs={"moving": movement.run, "compacting": compactor.run},
        figures={"movement": movement.figures},
    )


def _code_of(arguments: Arguments) -> dict[str, str | int]:
    wanted: dict[str, str | int] = {}
    for argument in ("k", "n"):
        value = arguments.get(argument)
        if not isinstance(value, int):
            raise BadConfig("re-encode: `k` and `n` are whole numbers")
        wanted[argument] = value
    if arguments.get("path"):
        wanted["path"] = str(arguments["path"])
    return wanted


def _account_named(volume: Volume, arguments: Arguments, argument: str) -> str:
    name = str(arguments.get(argument))
    for account in volume.parts.accounts:
        if account.name == name:
            return account.id.hex()
    raise NoEntry(f"the volume has no account {name!r}")
