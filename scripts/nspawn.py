"""A machine with a real systemd: a container over an overlay of this machine's root file system.

Nothing that it does is seen outside: its disk is this machine's below a memory disk, its network
is its own loopback, its mounts, processes and cgroups end with it. To be used in mount and process
namespaces of its own (see scripts/drill), so that whatever fails, all of it ends with them.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CGROUPS = Path("/sys/fs/cgroup")
BOOT_SECONDS = 180.0
END_SECONDS = 60.0
REBOOT_CODE = 133  # systemd-nspawn --keep-unit leaves the booting to its caller
COMMAND_SECONDS = 300.0
DISK = "6g"
PROGRAMS = Path("/opt/aggfs")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What this machine runs besides is none of the drill's business.
MASKED = (
    *("systemd-networkd", "systemd-networkd.socket", "systemd-resolved", "systemd-timesyncd"),
    *("systemd-pstore", "systemd-udev-trigger", "e2scrub_reap", "apt-daily.timer"),
    *("apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *(
        "man-db.timer",
        "console-getty",
        "getty.target",
        "ldconfig",
        "systemd-journal-catalog-update",
    ),
)


class Failed(Exception):
    """A command in the machine, or the machine, did not do what was asked."""


class Machine:
    """Booted on entering, ended on leaving. `work` is an empty directory."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.root = work / "disk" / "root"
        self._cgroup = CGROUPS / work.name
        self._container: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> "Machine":
        try:
            self._listener.bind(str(self.work / "notify"))
            self._cgroup.mkdir()
            self._make_disk()
            self._make_programs()
            self._boot()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # --- the disk ---------------------------------------------------------------------------------

    def _make_disk(self) -> None:
        disk = self.work / "disk"
        disk.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", disk)
        for name in ("upper", "changes", "root"):
            (disk / name).mkdir()
        layers = f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/changes"
        _run("mount", "-t", "overlay", "-o", layers, "overlay", self.root)
        # As Debian's udev makes it; the machine's own node stays as it is.
        os.mknod(disk / "fuse", stat.S_IFCHR, os.makedev(10, 229))
        os.chmod(disk / "fuse", 0o666)  # noqa: S103 - whoever may log in may mount
        units = self.root / "etc/systemd/system"
        for wants in units.glob("*.wants"):
            shutil.rmtree(wants)
        remote = units / "multi-user.target.wants/remote-fs.target"
        remote.parent.mkdir()
        remote.symlink_to("/lib/systemd/system/remote-fs.target")  # as Debian has it: for fstab
        for name in MASKED:
            unit = units / (name if "." in name else f"{name}.service")
            unit.unlink(missing_ok=True)
            unit.symlink_to("/dev/null")
        (self.root / "etc/fstab").write_text("")
        (self.root / "etc/machine-id").write_text("")

    def _make_programs(self) -> None:
        """aggfs as an administrator would install it, in an environment of its own."""
        home = self.root / PROGRAMS.relative_to("/")
        python = Path(os.path.realpath(sys.executable))
        _run("chroot", self.root, python, "-m", "venv", "--without-pip", PROGRAMS)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = home / "lib" / version / "site-packages"
        shutil.copytree(TOP / "aggfs", packages / "aggfs", ignore=shutil.ignore_patterns("__py*"))
        (packages / "libraries.pth").write_text(f"{PROGRAMS}/libraries\n")
        (home / "libraries").mkdir()
        for name, module in (("aggfs", "main"), ("mount.aggfs", "mount_helper")):
            script = home / "bin" / name
            script.write_text(
                f"#!{PROGRAMS}/bin/python\nfrom aggfs.cli.{module} import main\n\nmain()\n"
            )
            script.chmod(0o755)
        for link, program in (
            ("usr/local/bin/aggfs", "aggfs"),
            ("sbin/mount.aggfs", "mount.aggfs"),
        ):
            place = self.root / link
            place.unlink(missing_ok=True)
            place.symlink_to(PROGRAMS / "bin" / program)
        for source, place in (
            ("user/aggfs@.service", "etc/systemd/user/aggfs@.service"),
            ("system/aggfs@.service", "etc/systemd/system/aggfs@.service"),
            ("system/aggfs.sysusers", "usr/lib/sysusers.d/aggfs.conf"),
            ("system/aggfs.tmpfiles", "usr/lib/tmpfiles.d/aggfs.conf"),
        ):
            shutil.copyfile(TOP / "systemd" / source, self.root / place)

    # --- its life ---------------------------------------------------------------------------------

    def _boot(self) -> None:
        libraries = _libraries()
        command = [
            *("systemd-nspawn", "--boot", f"--directory={self.root}", "--machine=aggfs-drill"),
            *("--register=no", "--keep-unit", "--notify-ready=yes", "--private-network"),
            *("--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
            *(f"--bind={self.work}/disk/fuse:/dev/fuse", "--bind=/dev/autofs"),
            "--capability=CAP_BPF",  # for DeviceAllow=
            f"--bind-ro={libraries}:{PROGRAMS}/libraries",
            *("systemd.show_status=no", "systemd.firstboot=off"),
        ]
        with (self.work / "console").open("ab") as console:
            self._container = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": SEARCH_PATH, "NOTIFY_SOCKET": str(self.work / "notify")},
                preexec_fn=self._enter_cgroup,
            )
        self._wait_until_booted()

    def _enter_cgroup(self) -> None:
        (self._cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def _wait_until_booted(self) -> None:
        deadline, ready, self._leader = time.monotonic() + BOOT_SECONDS, False, 0
        while not (ready and self._leader):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._listener], [], [], left)[0]:
                raise Failed(
                    f"the machine did not boot within {BOOT_SECONDS:.0f} s{self.console()}"
                )
            text = self._listener.recv(4096).decode()
            leader = re.search(r"^X_NSPAWN_LEADER_PID=(\d+)$", text, re.MULTILINE)
            if leader:
                self._leader, ready = int(leader[1]), False
            ready = ready or "READY=1" in text.splitlines()

    def console(self) -> str:
        """What the machine printed, to be shown where it failed."""
        path = self.work / "console"
        return "\n" + path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def reboot(self) -> None:
        """As its administrator would; returns when it is up again."""
        assert self._container is not None
        self.run("systemctl", "reboot", check=False)
        code = self._container.wait(BOOT_SECONDS)
        if code != REBOOT_CODE:
            raise Failed(f"the machine ended with {code} instead of booting again{self.console()}")
        self._boot()

    def end(self) -> None:
        """End it by its first process; nothing of it is left."""
        if self._container is not None:
            with contextlib.suppress(ProcessLookupError):
                if self._leader:
                    os.kill(self._leader, signal.SIGKILL)
            try:
                self._container.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._container.kill()
                self._container.wait(END_SECONDS)
        self._listener.close()
        for path in sorted(self._cgroup.rglob("*"), key=lambda path: -len(path.parts)):
            if path.is_dir():
                path.rmdir()
        if self._cgroup.exists():
            self._cgroup.rmdir()
        for mount in (self.root, self.work / "disk"):
            if os.path.ismount(mount):
                _run("umount", "-l", mount)

    # --- what is done in it -----------------------------------------------------------------------

    def run(
        self,
        *command: str | Path,
        user: str = "root",
        check: bool = True,
        seconds: float = COMMAND_SECONDS,
        environment: dict[str, str] | None = None,
    ) -> str:
        """Run a command in the machine; what it printed. `Failed` when it fails."""
        told = f"{user}: {' '.join(map(str, command))}"
        try:
            done = subprocess.run(
                [*self._way_in(user, environment or {}), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{told}: no end within {seconds:.0f} s") from None
        if check and done.returncode:
            raise Failed(f"{told}: exit code {done.returncode}\n{done.stdout.rstrip()}")
        return done.stdout.rstrip()

    def shell(self, script: str, user: str = "root", *, check: bool = True) -> str:
        """Run a script of bash in the user's home; it ends at the first error."""
        return self.run("bash", "-euo", "pipefail", "-c", f"cd; {script}", user=user, check=check)

    def _way_in(self, user: str, environment: dict[str, str]) -> list[str]:
        uid, gid, home = self._account(user)
        variables = {
            "PATH": SEARCH_PATH,
            "HOME": home,
            "USER": user,
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": f"/run/user/{uid}",
        } | environment
        return [
            *("nsenter", f"--target={self._leader}"),
            *("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"),
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "env", "-i"),
            *(f"{name}={value}" for name, value in variables.items()),
        ]

    def _account(self, user: str) -> tuple[int, int, str]:
        for line in (self.root / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, _, home, _ = line.split(":")
            if name == user:
                return int(uid), int(gid), home
        raise Failed(f"the machine has no user {user}")


def _libraries() -> str:
    """Where this interpreter's environment keeps what aggfs needs."""
    import trio

    return str(Path(trio.__file__).parent.parent)


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.returncode}")
