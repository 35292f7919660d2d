"""Sealed stripes and their fragments, made from fixed keys, for tests of coding and formats."""

import random
from collections.abc import Sequence

from aggfs.coding import codec
from aggfs.coding.codec import SealedStripe
from aggfs.coding.keys import Keyring, VolumeKeys
from aggfs.formats.fragment import Kind, Suite
from aggfs.model import NO_ACCOUNT, Layout, StripeRow

VOLUME = bytes(range(16))
MASTERS = (bytes([1]) * 32, bytes([2]) * 32)
SID = bytes(range(100, 124))


def keys_of_test_volume(*, suite: Suite = Suite.AES_256_GCM) -> VolumeKeys:
    """Keys that everybody may know."""
    return VolumeKeys(Keyring(VOLUME, MASTERS), suite=suite)


def content(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes without pattern, the same for the same seed."""
    return random.Random(seed).randbytes(size_bytes)


def content_or_zeros(size_bytes: int, seed: int) -> bytes:
    """The same, and zeros for seed 0."""
    return content(size_bytes, seed) if seed else bytes(size_bytes)


def sealed_stripe(
    keys: VolumeKeys,
    blocks: Sequence[bytes],
    *,
    sid: bytes = SID,
    kind: Kind = Kind.DATA,
    table: bytes = b"rows",
    compress: str | None = None,
) -> SealedStripe:
    return codec.at_once(
        codec.seal_steps(keys, sid=sid, kind=kind, blocks=blocks, table=table, compress=compress)
    )


def fragments_of(
    keys: VolumeKeys,
    sealed: SealedStripe,
    *,
    k: int,
    n: int,
    layout: Layout = Layout.CONTIGUOUS,
    indices: Sequence[int] | None = None,
) -> dict[int, bytes]:
    """Whole objects by index."""
    made = codec.at_once(codec.encode_steps(keys, sealed, k=k, n=n, layout=layout, indices=indices))
    return {index: b"".join(pieces) for index, pieces in made.items()}


def row_of(
    sealed: SealedStripe, *, k: int, n: int, layout: Layout = Layout.CONTIGUOUS
) -> StripeRow:
    return StripeRow(
        sid=sealed.sid,
        k=k,
        layout=layout,
        storage_class=0,
        epoch=sealed.epoch,
        sealed_bytes=sealed.sealed_bytes,
        places=(NO_ACCOUNT,) * n,
    )


def runs_of(row: StripeRow, fragments: dict[int, bytes]) -> dict[int, memoryview]:
    """The cells of all blocks of a stripe, table included, cut out of whole fragments."""
    start, length = codec.run_range(row.sealed_bytes, row.k, 0, len(row.sealed_bytes))
    return {index: memoryview(data)[start : start + length] for index, data in fragments.items()}
