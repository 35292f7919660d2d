"""How a folder is mounted, decided before it is."""

from dataclasses import dataclass

LONG_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options of one mount.

    `entry_seconds` and `attribute_seconds`: how long the kernel may answer by itself. Only this
    daemon changes the volume behind this mount, and it tells the kernel when it does, so they
    are long. `xattrs` False answers ENOSYS once and for all, which saves one request a write.
    `writeback_cache` lets the kernel hold written pages back; what does not hold then is in
    decision 0009. `allow_other`: other users of this machine may enter; needs `user_allow_other` in
    /etc/fuse.conf unless root mounts.
    """

    volume_name: str = "volume"
    allow_other: bool = False
    writeback_cache: bool = False
    xattrs: bool = True
    read_ahead_kib: int = 4096
    entry_seconds: float = LONG_SECONDS
    attribute_seconds: float = LONG_SECONDS
    concurrent_requests: int = 512

    def for_fuse(self) -> set[str]:
        """The option strings that libfuse understands. A request of 1 MiB is its default."""
        # A comma would end the option, a backslash quote the next character.
        name = self.volume_name.replace("\\", "_").replace(",", "_")
        ascii_name = name.encode("ascii", "replace").decode()
        chosen = {"default_permissions", f"fsname=aggfs:{ascii_name}", "subtype=aggfs"}
        if self.allow_other:
            chosen.add("allow_other")
        return chosen
