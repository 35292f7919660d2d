"""A program that runs a volume, asks for a movement or a round of compaction, and is killed.

Run as `python -m tests.support.moving_until_killed STATE VERB ARGUMENTS < CONFIG`, the arguments in
JSON: a line is told on stdout when it is under way, and another one should it come to its end.
"""

import json
import pickle
import sys
from pathlib import Path

import trio

from tests.support.running import running


async def main(state: str, verb: str, arguments: str) -> None:
    config = pickle.load(sys.stdin.buffer)  # noqa: S301 - the test wrote it
    async with running(config, Path(state)) as volume:
        print("moving", flush=True)
        if verb == "compact":
            await volume.control("compact", {})
        else:
            if (await volume.control("movement", {})).get("state") != "running":
                await volume.control(verb, json.loads(arguments))
            while (await volume.control("movement", {}))["state"] == "running":  # noqa: ASYNC110
                await trio.sleep(0.01)
        print("done", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
