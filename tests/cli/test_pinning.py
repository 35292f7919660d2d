"""`aggfs pin`, `unpin`, `warm`: asked for, followed to the end, listed."""

import json

from aggfs.cli import exits
from aggfs.cli.main import run
from aggfs.cli.places import place_of
from tests.support.answering import answering

HALF = {"size_bytes": 2 << 20, "missing_bytes": 1 << 20}
WHOLE = {"size_bytes": 2 << 20, "missing_bytes": 0}


def make_known(name: str) -> str:
    place = place_of(name)
    place.config_path.parent.mkdir(parents=True)
    place.config_path.write_text("")
    return place.socket_path


def test_pin_returns_when_it_is_here(home, capsys):
    with answering(make_known("photos"), {"pin": {}, "warm": WHOLE}):
        assert run(["pin", "photos:/a"]) == exits.DONE
    assert capsys.readouterr().out == "100.0 % of 2.00 MiB are here\n"


def test_pin_may_be_left_to_the_background(home, capsys):
    with answering(make_known("photos"), {"pin": {}}):
        assert run(["pin", "--no-wait", "photos:/a"]) == exits.DONE
    assert capsys.readouterr().out == ""


def test_warm_tells_programs_how_far_it_is(home, capsys):
    with answering(make_known("photos"), {"warm": WHOLE}):
        assert run(["warm", "photos:/a", "--json"]) == exits.DONE
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [WHOLE]


def test_an_empty_tree_is_here(home, capsys):
    nothing = {"size_bytes": 0, "missing_bytes": 0}
    with answering(make_known("photos"), {"warm": nothing}):
        assert run(["warm"]) == exits.DONE
    assert capsys.readouterr().out == "100.0 % of 0 B are here\n"


def test_pins_are_listed_with_what_is_missing(home, capsys):
    pins = {"pins": [{"path": "/a", **HALF}], "trouble": "no account answers"}
    with answering(make_known("photos"), {"pins": pins}):
        assert run(["pin"]) == exits.DONE
    text = capsys.readouterr().out
    assert "/a    2.00 MiB  1.00 MiB" in text
    assert "note: no account answers" in text


def test_nothing_pinned_is_said_so(home, capsys):
    with answering(make_known("photos"), {"pins": {"pins": [], "trouble": ""}}):
        assert run(["pin"]) == exits.DONE
    assert capsys.readouterr().out == "nothing is pinned\n"


def test_evict_tells_of_pinned_files(home, capsys):
    answer = {"evicted_bytes": 5, "kept_bytes": 0, "pinned_files": 2}
    with answering(make_known("photos"), {"evict": answer}):
        assert run(["evict"]) == exits.DONE
    assert "left 2 pinned files alone (--force takes them too)" in capsys.readouterr().out
