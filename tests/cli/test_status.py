"""`aggfs status`, for people and for programs."""

import json

from aggfs.cli import exits, show
from aggfs.cli.main import run
from aggfs.cli.places import place_of
from tests.support.answering import answering

GIB = 1 << 30
ANSWER = {
    "name": "photos",
    "volume": "00" * 16,
    "device": "00" * 8,
    "k": 2,
    "n": 3,
    "code": "parity",
    "fragments_per_provider": 1,
    "allow_complete_copy": False,
    "read_only": False,
    "total_bytes": 20 * GIB,
    "used_bytes": 5 * GIB,
    "free_bytes": 15 * GIB,
    "stored_bytes": 8 * GIB,
    "dirty_bytes": 4096,
    "staged_bytes": 4 << 20,
    "stripes": {"staged": 1, "stored": 2, "full": 300},
    "outbox_entries": 7,
    "outbox_age_seconds": 12.0,
    "segment_age_seconds": 300.0,
    "accounts": [
        {
            "id": "01" * 8,
            "name": "one",
            "driver": "directory",
            "provider": "first",
            "place": "/srv/one",
            "healthy": True,
            "error": "",
            "full": False,
            "quota_bytes": 10 * GIB,
            "capacity_bytes": 10 * GIB,
            "used_bytes": 4 * GIB,
            "level": 0.4,
        },
        {
            "id": "02" * 8,
            "name": "two",
            "driver": "s3",
            "provider": "example.com",
            "place": "s3://s3.example.com/two",
            "healthy": False,
            "error": "no answer",
            "full": False,
            "quota_bytes": 0,
            "capacity_bytes": 10 * GIB,
            "used_bytes": 4 * GIB,
            "level": 0.4,
        },
    ],
    "warnings": ["one and two share a disk"],
}


def make_known(name: str) -> None:
    place = place_of(name)
    place.config_path.parent.mkdir(parents=True)
    place.config_path.write_text("")


def test_status_of_copies_claims_no_more_than_holds(home, capsys):
    """Any two of four may be lost in code, in copies any one."""
    make_known("photos")
    in_copies = {**ANSWER, "n": 4, "code": "copies"}
    with answering(place_of("photos").socket_path, {"status": in_copies}):
        assert run(["status"]) == exits.DONE
    text = capsys.readouterr().out
    assert "2 fragments, each in 2 copies, give the data back; any 1 of 4 may be lost; at" in text


def test_status_says_what_matters(home, capsys):
    make_known("photos")
    with answering(place_of("photos").socket_path, {"status": ANSWER}):
        assert run(["status"]) == exits.DONE
    text = capsys.readouterr().out
    assert "volume photos on no folder\n" in text
    assert "any 2 of 3 fragments give the data back; at most 1 at one provider" in text
    assert "5.00 GiB used of 20.0 GiB, 15.0 GiB free; 8.00 GiB lie in the accounts" in text
    assert "300 full, 2 stored, 1 staged (4.00 MiB); 4.00 KiB dirty" in text
    assert "published 5 min ago; 7 entries wait, the oldest came 12 s ago" in text
    assert "one      first        directory  40.0 %  4.00 GiB of 10.0 GiB  healthy" in text
    assert "two      example.com  s3         40.0 %  4.00 GiB of 10.0 GiB  DOWN: no answer" in text
    assert "note: one and two share a disk" in text


def test_an_account_that_takes_nothing_more_is_shown_so(home, capsys):
    make_known("photos")
    full, other = ANSWER["accounts"]
    answer = ANSWER | {"accounts": [full | {"full": True}, other]}
    with answering(place_of("photos").socket_path, {"status": answer}):
        assert run(["status"]) == exits.DONE
    assert "4.00 GiB of 10.0 GiB  FULL\n" in capsys.readouterr().out


def test_what_moves_and_who_leaves_is_shown(home, capsys):
    make_known("photos")
    movement = {
        "kind": "drain",
        "state": "running",
        "moved_bytes": GIB,
        "total_bytes": 4 * GIB,
        "eta_seconds": 600.0,
        "text": "",
    }
    leaving, other = ANSWER["accounts"]
    answer = ANSWER | {"movement": movement, "accounts": [leaving | {"leaving": True}, other]}
    with answering(place_of("photos").socket_path, {"status": answer}):
        assert run(["status"]) == exits.DONE
    text = capsys.readouterr().out
    assert "drain: 25.0 %, 1.00 GiB of 4.00 GiB moved, 10 min to go\n" in text
    assert "4.00 GiB of 10.0 GiB  healthy, leaving\n" in text


def test_status_for_programs_is_what_the_daemon_says(home, capsys):
    make_known("photos")
    with answering(place_of("photos").socket_path, {"status": ANSWER}):
        assert run(["status", "--json"]) == exits.DONE
    assert json.loads(capsys.readouterr().out) == ANSWER | {"mountpoint": None}


def test_sizes_are_shown_with_three_digits():
    assert [show.size(n) for n in (0, 999, 1023, 1024, 10 * 1024, 1000 * 1024, 3 << 40)] == [
        "0 B",
        "999 B",
        "1.00 KiB",
        "1.00 KiB",
        "10.0 KiB",
        "0.98 MiB",
        "3.00 TiB",
    ]


def test_ages_are_shown_in_the_unit_people_use():
    assert [show.age(n) for n in (None, 0.4, 119, 120, 7200, 172800)] == [
        "never",
        "0 s ago",
        "119 s ago",
        "2 min ago",
        "2 h ago",
        "2 d ago",
    ]
