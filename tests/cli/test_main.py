"""The command line as a whole: exit codes, one-line errors, and nothing imported in vain."""

import json
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aggfs import errors
from aggfs.cli import exits
from aggfs.cli.client import NotRunning
from aggfs.cli.main import COMMANDS, _told_error, run
from aggfs.cli.places import place_of
from tests.support.answering import answering

TOP = Path(__file__).parent.parent.parent
COMMANDS_PAGE = TOP / "docs" / "commands.md"


def make_known(name: str) -> None:
    """A volume of this name seems to be here."""
    place = place_of(name)
    place.config_path.parent.mkdir(parents=True)
    place.config_path.write_text("")
    place.state_directory.mkdir(parents=True)


def test_what_a_daemon_was_asked_before_it_ended_is_not_done_a_second_time(home, capsys):
    make_known("photos")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place_of("photos").socket_path)
        listener.listen()

        def end() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)

        daemon = threading.Thread(target=end)
        daemon.start()
        assert run(["gc", "photos"]) == exits.NOT_RUNNING
        daemon.join()
    told = "the daemon ended before it answered: see what is done, and ask again"
    assert capsys.readouterr().err == f"aggfs: {told}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AggfsError("x"), exits.FAILED),
        (errors.BadConfig("x"), exits.BAD_CONFIG),
        (errors.WrongKey("x"), exits.WRONG_KEY),
        (errors.Busy("x"), exits.BUSY),
        (errors.Unreachable("x"), exits.UNREACHABLE),
        (errors.Refused("x"), exits.REFUSED),
        (errors.NotFound("x"), exits.REFUSED),
        (errors.QuotaFull("x"), exits.NO_SPACE),
        (errors.NoSpace("x"), exits.NO_SPACE),
        (errors.MountRefused("x"), exits.MOUNT_REFUSED),
        (errors.Damaged("x"), exits.DAMAGED),
        (errors.UnknownVersion("x"), exits.DAMAGED),
        (errors.TooFewFragments("x"), exits.DAMAGED),
        (errors.NoEntry("x"), exits.NO_ENTRY),
        (NotRunning("x"), exits.NOT_RUNNING),
    ],
)
def test_each_kind_of_error_has_its_exit_code(home, capsys, error, code):
    make_known("photos")
    with answering(place_of("photos").socket_path, {"status": error}):
        returned = run(["status", "photos"])
    printed = capsys.readouterr()
    # The daemon has no error of the kind "not running" to tell.
    assert returned == (exits.FAILED if isinstance(error, NotRunning) else code)
    assert exits.exit_code_of(error) == code
    assert printed.err == "aggfs: x\n"
    assert printed.out == ""


def test_every_exit_code_is_documented():
    codes = {
        value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)
    }
    documented = re.findall(r"^\| (\d+) \|", COMMANDS_PAGE.read_text(), re.MULTILINE)
    assert sorted(map(int, documented)) == sorted(codes)


def test_every_command_is_documented():
    page = COMMANDS_PAGE.read_text()
    assert [name for name in COMMANDS if f"| `aggfs {name}" not in page] == []


@pytest.mark.parametrize("arguments", [["nonsense"], ["where"], ["status", "--colour"]])
def test_a_wrong_command_line_is_told_as_such(home, capsys, arguments):
    assert run(arguments) == exits.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_not_there_is_told(home, capsys):
    assert run(["status", "photos"]) == exits.NO_ENTRY
    assert run(["status"]) == exits.NO_ENTRY
    assert run(["where", str(home / "file")]) == exits.NOT_RUNNING
    assert capsys.readouterr().err.count("\n") == 3


def test_several_volumes_must_be_told_apart(home, capsys):
    make_known("photos")
    make_known("music")
    assert run(["status"]) == exits.USAGE
    assert "music, photos" in capsys.readouterr().err


def test_a_volume_that_is_not_mounted_has_no_status(home, capsys):
    make_known("photos")
    assert run(["status"]) == exits.NOT_RUNNING
    assert capsys.readouterr().err == "aggfs: the volume 'photos' is not mounted\n"


def test_an_error_that_nobody_foresaw_is_one_line(home, capsys):
    make_known("photos")
    with answering(place_of("photos").socket_path, {"status": {"unexpected": True}}):
        assert run(["status"]) == exits.FAILED
    error = capsys.readouterr().err
    assert error.startswith("aggfs: unexpected KeyError: ")
    assert error.count("\n") == 1


def test_debugging_shows_where_an_error_arose(home):
    make_known("photos")
    with (
        answering(place_of("photos").socket_path, {"status": {}}),
        pytest.raises(KeyError),
    ):
        run(["--debug", "status"])


def imported_by(home: Path, *arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    program = (
        "import json, sys\n"
        "from aggfs.cli.main import run\n"
        f"code = run({list(arguments)!r})\n"
        "print(json.dumps([code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=TOP
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == exits.DONE, done.stderr
    return {name.split(".")[0] for name in modules}


def test_status_imports_nothing_that_takes_time(home):
    make_known("photos")
    from tests.cli.test_status import ANSWER

    with answering(place_of("photos").socket_path, {"status": ANSWER}):
        imported = imported_by(home, "status")
    slow = {"trio", "boto3", "botocore", "lmdb", "pyfuse3", "cryptography", "cattrs", "zfec"}
    assert imported & slow == set()


def test_top_imports_nothing_that_takes_time(home):
    make_known("photos")
    from tests.cli.test_top import SAMPLE

    with answering(place_of("photos").socket_path, {"counters": SAMPLE}):
        imported = imported_by(home, "top", "--once", "--interval=0.01")
    slow = {"trio", "boto3", "botocore", "lmdb", "pyfuse3", "cryptography", "cattrs", "zfec"}
    assert imported & slow == set()


@pytest.mark.parametrize("verb", ["flush", "evict", "why"])
def test_a_running_daemon_spares_the_commands_their_imports(home, verb):
    make_known("photos")
    answers = {
        "flush": {},
        "evict": {"evicted_bytes": 1, "kept_bytes": 0, "pinned_files": 0},
        "why": {"stripes": 1, "at_risk": 0, "lost": 0, "any": 1, "providers": []},
    }
    with answering(place_of("photos").socket_path, answers):
        imported = imported_by(home, verb)
    assert imported & {"trio", "boto3", "lmdb", "pyfuse3"} == set()


def test_of_errors_tied_together_the_one_that_users_know_is_told(capsys):
    tied = ExceptionGroup("a", [OSError("x"), ExceptionGroup("b", [errors.NoSpace("full")])])
    assert _told_error(tied) == exits.NO_SPACE
    assert capsys.readouterr().err == "aggfs: full\n"
