"""All handlers in one class: what pyfuse3 is given."""

from aggfs.mount.attributes import AttributeHandlers
from aggfs.mount.contents import ContentHandlers
from aggfs.mount.directories import DirectoryHandlers
from aggfs.mount.errors import guarded
from aggfs.mount.names import NameHandlers


@guarded
class VolumeOperations(NameHandlers, AttributeHandlers, ContentHandlers, DirectoryHandlers):
    """A volume as a folder. Every handler answers a request; none ends the daemon.

    What is not here the binding cannot serve, or the kernel does better: locks, poll, lseek,
    fallocate, copy_file_range, ioctl, O_TMPFILE (docs/semantics.md).
    """
