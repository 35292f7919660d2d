"""make and a C compiler: what is built depends on modification times, and on links and modes."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.support.mounting import needs_fuse
from tests.support.programs import run

pytestmark = needs_fuse

PARTS = 40
MAKEFILE = """
CFLAGS = -O0 -MMD -MP
objects = $(patsubst %.c,build/%.o,$(wildcard *.c))

program: build/libparts.a
	$(CC) -o $@ -Wl,--whole-archive $< -Wl,--no-whole-archive
build/libparts.a: $(objects)
	$(AR) crs $@ $^
build/%.o: %.c
	@mkdir -p build
	$(CC) $(CFLAGS) -c -o $@ $<
-include $(wildcard build/*.d)
"""


def write_project(top: Path) -> None:
    """Functions in as many files, half of which include a header; `program` prints their sum."""
    top.joinpath("Makefile").write_text(MAKEFILE)
    top.joinpath("shared.h").write_text("#define FACTOR 1\n")
    for number in range(PARTS):
        include, factor = ('#include "shared.h"\n', "FACTOR *") if number % 2 else ("", "")
        text = f"{include}int part{number}(void) {{ return {factor} {number}; }}\n"
        top.joinpath(f"part{number}.c").write_text(text)
    calls = " + ".join(f"part{number}()" for number in range(PARTS))
    declared = "".join(f"int part{number}(void);\n" for number in range(PARTS))
    main = f'int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    top.joinpath("main.c").write_text(f"#include <stdio.h>\n{declared}{main}")


def compiled(told: str) -> int:
    """How many files make has compiled."""
    return told.count(" -c -o ")


def test_make_compiles_in_parallel_and_only_what_changed(place: Path, cold: Callable[[], None]):
    write_project(place)
    assert compiled(run("make", "-j4", at=place)) == PARTS + 1
    assert run(place / "program", at=place) == f"{sum(range(PARTS))}\n"
    assert "up to date" in run("make", "-j4", at=place)
    place.joinpath("shared.h").write_text("#define FACTOR 2\n")
    assert compiled(run("make", "-j4", at=place)) == PARTS // 2
    total = f"{sum(range(0, PARTS, 2)) + 2 * sum(range(1, PARTS, 2))}\n"
    assert run(place / "program", at=place) == total
    cold()
    assert "up to date" in run("make", "-j4", at=place)
    assert run(place / "program", at=place) == total
    os.utime(place / "part7.c")
    assert compiled(run("make", "-j4", at=place)) == 1
