"""A program that runs a volume, asks for a movement, and is killed on the way.

Run as `python -m tests.support.moving_until_killed STATE VERB NAME < CONFIG`: a line is told on
stdout when the movement is under way, and another one should it come to its end.
"""

import pickle
import sys
from pathlib import Path

import trio

from tests.support.running import running


async def main(state: str, verb: str, name: str) -> None:
    config = pickle.load(sys.stdin.buffer)  # noqa: S301 - the test wrote it
    async with running(config, Path(state)) as volume:
        arguments: dict[str, object] = {"name": name} if name else {}
        if (await volume.control("movement", {})).get("state") != "running":
            await volume.control(verb, arguments)
        print("moving", flush=True)
        while (await volume.control("movement", {}))["state"] == "running":  # noqa: ASYNC110
            await trio.sleep(0.01)
        print("done", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
