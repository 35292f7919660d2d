"""`scripts/drill systemd`: volumes as services of a real systemd, in a machine booted for it.

Run by scripts/drill, in mount and process namespaces of its own:

  python scripts/drill_systemd.py WORK_DIRECTORY [--short]

`--short` plays one scene, which needs no user manager: the tests do that.
Each scene says what it does and what was seen. Exits with 1 where something was not as it must be.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nspawn import PROGRAMS, Failed, Machine

MIB = 1 << 20
HEAL_SECONDS = 60.0
EXPOSURE_LIMIT = 4.0
STATUS_ALL = "everything is in the accounts"
CONFINEMENT = r"^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):\s*(\S+)"
USERS = ("alice", "bob")
SYSTEM = "env XDG_CONFIG_HOME=/etc XDG_STATE_HOME=/var/lib"
ACCOUNTS = " ".join(f"--account={name}=$accounts/{name}?provider={name}" for name in "abc")


class Drill:
    """The scenes, in order; each leaves what the next needs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sums: dict[str, str] = {}

    # --- saying and judging -----------------------------------------------------------------------

    def see(self, what: str, *, holds: bool = True) -> None:
        print(f"  {'seen' if holds else 'NOT SEEN'}: {what}", flush=True)
        if not holds:
            raise Failed(what)

    def until(self, what: str, holds: Callable[[], bool], seconds: float = HEAL_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                self.see(f"{what} (within {seconds:.0f} s)", holds=False)
            time.sleep(0.1)
        self.see(what)

    # --- services ---------------------------------------------------------------------------------

    def systemctl(self, *words: str, user: str = "root", check: bool = True) -> str:
        level = [] if user == "root" else ["--user"]
        return self.machine.run("systemctl", *level, *words, user=user, check=check)

    def property(self, unit: str, name: str, user: str = "root") -> str:
        return self.systemctl("show", "--value", "-p", name, unit, user=user)

    def is_active(self, unit: str, user: str = "root") -> bool:
        return self.property(unit, "ActiveState", user) == "active"

    def see_state(self, unit: str, user: str = "root") -> None:
        """Active, and what `systemctl status` says of it."""
        state = self.property(unit, "ActiveState", user)
        words = self.property(unit, "StatusText", user)
        self.see(f"{user}: {unit} is {state}, status {words!r}", holds=state == "active")

    def write(self, path: str, mebibytes: int, *, user: str, sync: bool = False) -> None:
        """Random bytes into a file, and their hash kept outside."""
        flag = " conv=fsync" if sync else ""
        found = self.machine.shell(
            f"head -c {mebibytes * MIB} /dev/urandom >/tmp/{user}.data;"
            f" dd if=/tmp/{user}.data of={path} bs=1M status=none{flag};"
            f" sha256sum </tmp/{user}.data; rm /tmp/{user}.data",
            user=user,
        )
        self.sums[path] = found.split()[0]

    def see_files(self, why: str, *, user: str, paths: list[str] | None = None) -> None:
        """Every byte of the files that were written."""
        chosen = [path for path in self.sums if paths is None or path in paths]
        for path in chosen:
            found = self.machine.shell(f"sha256sum <{path}", user=user).split()[0]
            self.see(f"{why}: every byte of {path}", holds=found == self.sums[path])

    def stored_mebibytes(self, accounts: str) -> float:
        return int(self.machine.run("du", "-sb", accounts).split()[0]) / MIB

    def process(self, unit: str, user: str = "root") -> int:
        return int(self.property(unit, "MainPID", user))

    def kill(self, unit: str, signal: str, user: str = "root") -> int:
        pid = self.process(unit, user)
        self.machine.run("kill", f"-{signal}", str(pid))
        return pid

    def see_healed(self, unit: str, before: int, why: str, user: str = "root") -> None:
        def healed() -> bool:
            return self.is_active(unit, user) and self.process(unit, user) not in (0, before)

        self.until(f"{why}: {unit} is active again, with another process", healed)

    # --- scenes -----------------------------------------------------------------------------------

    def add_users(self) -> None:
        for user in USERS:
            self.machine.run("useradd", "--create-home", "--shell", "/bin/bash", user)

    def users_begin(self) -> None:
        """Two users, each with a volume of the same name."""
        for user in USERS:
            self.machine.run("loginctl", "enable-linger", user)
            home = f"/home/{user}"
            self.machine.shell(
                f"chmod 700 ~; accounts={home}/accounts; mkdir -p $accounts/{{a,b,c}};"
                f" aggfs init photos {ACCOUNTS} >~/words",
                user=user,
            )
            self.until(
                f"{user}: a user manager runs",
                lambda user=user: (
                    "running" in self.systemctl("is-system-running", user=user, check=False)
                ),
            )
            began = time.monotonic()
            self.systemctl("enable", "--now", "aggfs@photos", user=user)
            self.see(f"{user}: started in {time.monotonic() - began:.1f} s")
            listed = self.machine.run("ls", "-A", f"{home}/photos", user=user)
            kind = self.machine.run("findmnt", "-no", "FSTYPE,SOURCE", f"{home}/photos")
            self.see(f"when the start returned, the folder answered: {kind}", holds=listed == "")
            self.see_state("aggfs@photos", user)
            self.write(f"{home}/photos/{user}", 3, user=user, sync=True)
        for user, other in (USERS, USERS[::-1]):
            self.see_files("own", user=user, paths=[f"/home/{user}/photos/{user}"])
            found = self.machine.run("ls", f"/home/{other}/photos", user=user, check=False)
            self.see(f"{user} cannot enter {other}'s: {found}", holds="ermission denied" in found)

    def stop_brings_everything(self) -> None:
        """Stopped with data that is nowhere but here."""
        accounts, path = "/home/alice/accounts", "/home/alice/photos/unflushed"
        before = self.stored_mebibytes(accounts)
        self.write(path, 40, user="alice")
        began = time.monotonic()
        self.systemctl("stop", "aggfs@photos", user="alice")
        seconds = time.monotonic() - began
        result = self.property("aggfs@photos", "Result", "alice")
        words = self.property("aggfs@photos", "StatusText", "alice")
        self.see(f"stopped in {seconds:.1f} s, {result}, {words!r}", holds=result == "success")
        self.see("status says so", holds=words == f"stopped: {STATUS_ALL}")
        grown = self.stored_mebibytes(accounts) - before
        self.see(f"the accounts hold {grown:.0f} MiB more for 40 MiB (2 of 3)", holds=grown > 59)
        left = self.machine.run("ls", "-A", "/home/alice/photos", user="alice")
        self.see("the folder is empty", holds=left == "")
        self.systemctl("start", "aggfs@photos", user="alice")
        self.see_files("after the next start", user="alice", paths=[path])

    def stop_without_accounts(self) -> None:
        """Two of three accounts are away: the stop ends all the same, and nothing is lost."""
        path, unit = "/home/alice/photos/offline", "aggfs@photos"
        self.machine.shell(
            "mkdir -p ~/.config/systemd/user/aggfs@photos.service.d;"
            " printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/env aggfs mount -f --linger 15"
            " %%i ${FOLDER}\\nTimeoutStopSec=5\\n'"
            " >~/.config/systemd/user/aggfs@photos.service.d/drill.conf",
            user="alice",
        )
        self.systemctl("daemon-reload", user="alice")
        self.systemctl("restart", unit, user="alice")
        self.machine.shell("mv accounts/a accounts/b .", user="alice")
        self.write(path, 8, user="alice")
        began = time.monotonic()
        self.systemctl("stop", unit, user="alice")
        seconds, result = time.monotonic() - began, self.property(unit, "Result", "alice")
        words = self.property(unit, "StatusText", "alice")
        self.see(
            f"TimeoutStopSec=5 was extended to {seconds:.1f} s, {result}, {words!r}",
            holds=result == "success" and seconds > 10 and "MiB wait" in words,
        )
        self.machine.shell("mv a b accounts/", user="alice")
        self.systemctl("start", unit, user="alice")
        self.see_files("after the accounts came back", user="alice", paths=[path])
        self.machine.run("aggfs", "flush", "photos:/", user="alice")
        self.until(
            f"status: {STATUS_ALL}",
            lambda: self.property(unit, "StatusText", "alice") == STATUS_ALL,
        )

    def crash_heals(self) -> None:
        """kill -9, and a loop that hangs."""
        unit, path = "aggfs@photos", "/home/alice/photos/fsynced"
        self.write(path, 12, user="alice", sync=True)
        before = self.kill(unit, "KILL", "alice")
        self.see_healed(unit, before, "kill -9", "alice")
        self.see_files("after kill -9", user="alice", paths=[path])
        self.machine.shell(
            "printf '[Service]\\nWatchdogSec=4\\nTimeoutAbortSec=2\\n'"
            " >~/.config/systemd/user/aggfs@photos.service.d/watchdog.conf",
            user="alice",
        )
        self.systemctl("daemon-reload", user="alice")
        self.systemctl("restart", unit, user="alice")
        time.sleep(9)  # more than twice the watchdog: a healthy loop is left alone
        restarts = self.property(unit, "NRestarts", "alice")
        self.see("9 s under a watchdog of 4 s: not restarted", holds=restarts == "0")
        before = self.kill(unit, "STOP", "alice")
        self.see_healed(unit, before, "a loop that hangs is ended by the watchdog", "alice")
        self.see_files("after the watchdog", user="alice", paths=[path])

    def machine_volume(self) -> None:
        """A volume of the machine: its own user, one capability, credentials, seen by everybody."""
        self.machine.run("systemd-sysusers")
        self.machine.run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/aggfs.conf")
        self.machine.shell(
            "install -d -o aggfs -g aggfs /srv/accounts/{a,b,c};"
            " mkdir -p /etc/credstore; umask 077;"
            " printf '[west]\\naws_access_key_id=ID\\n' >/etc/credstore/aggfs.shared;"
            f" accounts=/srv/accounts; runuser -u aggfs -- {SYSTEM}"
            f" aggfs init shared {ACCOUNTS} >/root/words"
        )
        self.systemctl("enable", "--now", "aggfs@shared")
        self.see_state("aggfs@shared")
        self.see_confined()
        self.machine.run("chown", "alice:", "/srv/shared")
        self.write("/srv/shared/album", 5, user="alice", sync=True)
        self.see_files("seen by another user", user="bob", paths=["/srv/shared/album"])
        before = self.kill("aggfs@shared", "KILL")
        self.see_healed("aggfs@shared", before, "kill -9")
        self.see_files("after kill -9", user="bob", paths=["/srv/shared/album"])
        self.write("/srv/shared/late", 20, user="alice")
        self.systemctl("stop", "aggfs@shared")
        words = self.property("aggfs@shared", "StatusText")
        self.see(f"stopped with unflushed data: {words!r}", holds=words == f"stopped: {STATUS_ALL}")
        self.systemctl("start", "aggfs@shared")
        self.see_files("after the next start", user="bob", paths=["/srv/shared/late"])

    def see_confined(self) -> None:
        told = self.machine.run("systemd-analyze", "security", "--no-pager", "aggfs@shared")
        level = re.search(r"exposure level for \S+: ([0-9.]+)", told)
        exposure = float(level[1]) if level else 10.0
        self.see(f"systemd-analyze security: {exposure}", holds=exposure <= EXPOSURE_LIMIT)
        pid = self.process("aggfs@shared")
        status = self.machine.run("cat", f"/proc/{pid}/status")
        fields = dict(re.findall(CONFINEMENT, status, re.MULTILINE))
        self.see(
            f"its process: {fields}",
            holds=fields["Uid"] != "0"
            and (int(fields["CapEff"], 16), int(fields["CapBnd"], 16)) == (1 << 21, 1 << 21)
            and (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2"),
        )
        variables = self.machine.run("cat", f"/proc/{pid}/environ").split("\0")
        keys = next(text for text in variables if text.startswith("AWS_SHARED_CRED")).split("=")[1]
        found = self.machine.run("cat", keys, user="aggfs")
        self.see(f"it reads its credentials at {keys}", holds="[west]" in found)
        found = self.machine.run("cat", keys, user="alice", check=False)
        self.see(f"alice does not: {found.split(': ')[-1]}", holds="ermission denied" in found)

    def credentials(self) -> None:
        """Keys of S3 accounts, in a file and by name, that only the service can read."""
        keys = "[west]\\naws_access_key_id=ID\\naws_secret_access_key=KEY\\n"
        server = "http://127.0.0.1:5000"
        self.machine.run(
            *("systemd-run", "--quiet", "--unit=s3", PROGRAMS / "bin/python", "-m", "moto.server"),
            *("-H", "127.0.0.1", "-p", "5000"),
        )
        self.until(
            "an S3 server runs",
            lambda: (
                "yes"
                in self.machine.shell("(</dev/tcp/127.0.0.1/5000) 2>/dev/null && echo yes || true")
            ),
        )
        client = f"boto3.client('s3', region_name='us-east-1', endpoint_url='{server}')"
        self.machine.run(
            *(PROGRAMS / "bin/python", "-c"),
            f"import boto3; [{client}.create_bucket(Bucket=name) for name in ('west', 'east')]",
            environment={"AWS_ACCESS_KEY_ID": "ID", "AWS_SECRET_ACCESS_KEY": "KEY"},
        )
        options = f"endpoint={server}&region=us-east-1&path_style=true"
        self.machine.shell(
            f"umask 077; printf '{keys}' >/etc/credstore/aggfs.clouds;"
            " printf ID >/root/east-id; printf KEY >/root/east-key;"
            " mkdir -p /etc/systemd/system/aggfs@clouds.service.d; printf '[Service]\\n"
            "LoadCredential=EAST_ID:/root/east-id\\nLoadCredential=EAST_KEY:/root/east-key\\n'"
            " >/etc/systemd/system/aggfs@clouds.service.d/keys.conf;"
            " systemctl daemon-reload; install -d -o aggfs /srv/accounts/d;"
            " install -o aggfs -m 400 /etc/credstore/aggfs.clouds /run/keys;"
            f" runuser -u aggfs -- {SYSTEM}"
            " AWS_SHARED_CREDENTIALS_FILE=/run/keys EAST_ID=ID EAST_KEY=KEY aggfs init clouds"
            " --account=d=/srv/accounts/d?provider=d"
            f" '--account=west=s3://west?{options}&provider=west&profile=west'"
            f" '--account=east=s3://east?{options}&provider=east"
            "&access_key_env=EAST_ID&secret_key_env=EAST_KEY' >/root/words.clouds; rm /run/keys"
        )
        self.systemctl("start", "aggfs@clouds")
        self.machine.run("dd", "if=/dev/urandom", "of=/srv/clouds/f", "bs=1M", "count=4")
        self.machine.shell(f"runuser -u aggfs -- {SYSTEM} aggfs flush clouds:/")
        told = self.machine.shell(f"runuser -u aggfs -- {SYSTEM} aggfs status clouds --json")
        used = {each["name"]: each["used_bytes"] for each in json.loads(told)["accounts"]}
        self.see(f"all three accounts hold their part: {used}", holds=min(used.values()) > 2 * MIB)
        self.machine.run("rm", "/etc/credstore/aggfs.clouds")
        self.systemctl("restart", "aggfs@clouds")
        self.machine.run("touch", "/srv/clouds/g")
        self.until(
            "without its key an account is down, and the folder is served",
            lambda: self.property("aggfs@clouds", "StatusText").endswith("no answer from west"),
        )
        self.see_state("aggfs@clouds")
        self.systemctl("stop", "aggfs@clouds", "s3")

    def automount(self) -> None:
        """A line of fstab for a volume of alice, another for one of the machine."""
        self.machine.shell(
            "accounts=/home/alice/attic; mkdir -p $accounts/{a,b,c};"
            f" aggfs init attic {ACCOUNTS} >~/words.attic",
            user="alice",
        )
        lines = (
            "aggfs#attic /srv/attic aggfs setuid=alice,allow_other,linger=60,nofail,_netdev,noexec,"
            "x-systemd.automount,x-systemd.mount-timeout=60 0 0",
            "aggfs#shared /srv/plain aggfs user,noauto,nofail,allow_other 0 0",
        )
        written = " ".join(map(repr, lines))
        self.machine.shell(f"mkdir -p /srv/attic /srv/plain; printf '%s\\n' {written} >/etc/fstab")
        self.systemctl("daemon-reload")
        self.systemctl("start", "srv-attic.automount")
        state = self.property("srv-attic.mount", "ActiveState")
        self.see(f"the automount waits, the mount is {state}", holds=state == "inactive")
        began = time.monotonic()
        self.machine.run("ls", "-A", "/srv/attic", user="alice", seconds=90)
        kind = self.machine.run("findmnt", "-no", "FSTYPE,SOURCE", "-t", "fuse.aggfs", "/srv/attic")
        self.see(
            f"the first look mounts it in {time.monotonic() - began:.1f} s: {kind}",
            holds="aggfs:attic" in kind,
        )
        owner = self.machine.shell("pgrep -u alice -f 'aggfs mount.*/srv/attic'")
        self.see(f"served by a process of alice: {owner}")
        self.write("/srv/attic/file", 10, user="alice")
        self.systemctl("stop", "srv-attic.mount")
        self.see_files("unmounted; a look mounts it anew", user="alice", paths=["/srv/attic/file"])
        self.systemctl("stop", "aggfs@shared")
        self.machine.run("mount", "/srv/plain")
        fields = self.machine.run("findmnt", "-no", "SOURCE,OPTIONS", "/srv/plain")
        uid = self.machine.run("id", "-u", "aggfs")
        self.see(f"mount /srv/plain: {fields}", holds=f"user_id={uid}" in fields)
        self.sums["/srv/plain/album"] = self.sums["/srv/shared/album"]
        self.see_files("the machine's volume by mount(8)", user="bob", paths=["/srv/plain/album"])
        self.machine.run("umount", "/srv/plain")
        del self.sums["/srv/plain/album"]
        self.until(
            "umount ends its daemon",
            lambda: not self.machine.shell("pgrep -u aggfs || true"),
        )
        self.systemctl("start", "aggfs@shared")

    def reboot(self) -> None:
        """With data that nobody synced, just before."""
        self.write("/home/alice/photos/last", 15, user="alice")
        self.write("/srv/shared/last", 15, user="alice")
        self.write("/srv/attic/last", 5, user="alice")
        began = time.monotonic()
        self.machine.reboot()
        self.see(f"rebooted in {time.monotonic() - began:.1f} s")
        for user in USERS:
            self.until(
                f"{user}: mounted at boot, without a login",
                lambda user=user: self.is_active("aggfs@photos", user),
            )
        self.see_state("aggfs@shared")
        for user in ("bob", "alice"):
            own = [path for path in self.sums if path.startswith(f"/home/{user}/")]
            self.see_files("after the reboot", user=user, paths=own)
        machine = [path for path in self.sums if path.startswith("/srv/")]
        self.see_files("after the reboot", user="alice", paths=machine)


SCENES = (
    Drill.users_begin,
    Drill.stop_brings_everything,
    Drill.stop_without_accounts,
    Drill.crash_heals,
    Drill.machine_volume,
    Drill.credentials,
    Drill.automount,
    Drill.reboot,
)
SHORT = (Drill.machine_volume,)


def main(work: str, scenes: Sequence[Callable[[Drill], None]]) -> int:
    """Play these scenes; the exit code."""
    began = time.monotonic()
    machine = Machine(Path(work))
    with machine:
        drill = Drill(machine)
        print(f"booted: {machine.run('systemctl', '--version').splitlines()[0]}", flush=True)
        drill.add_users()
        for scene in scenes:
            print(f"{scene.__name__.replace('_', ' ')}: {scene.__doc__}", flush=True)
            try:
                scene(drill)
            except Failed as error:
                print(f"FAILED: {error}", flush=True)
                print(machine.run("journalctl", "--no-pager", "-n", "60", check=False))
                return 1
    print(f"passed: {len(scenes)} scenes in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], SHORT if "--short" in sys.argv else SCENES))
