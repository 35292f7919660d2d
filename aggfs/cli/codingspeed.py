"""How fast this machine makes fragments of blocks, and blocks of fragments. One core, no disk."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aggfs.coding.cipher import KEY_BYTES
from aggfs.coding.codec import Scratch, SealedStripe, at_once, encode_steps, run_range, seal_steps
from aggfs.coding.decode import decode_each
from aggfs.coding.keys import Keyring, VolumeKeys
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS, STRIPE_BYTES, Layout, Sid, StripeRow

SID_BYTES = 24


@dataclass(frozen=True, slots=True)
class CodingSpeed:
    """Bytes of files a second: sealed and coded; and checked, decoded and opened again from the
    fragments that make most work."""

    encode_per_second: float
    decode_per_second: float


def coding_speed(k: int, n: int, *, seconds: float) -> CodingSpeed:
    """Measure one code, each way for half of these seconds and at least one stripe."""
    keys = VolumeKeys(Keyring(os.urandom(16), (os.urandom(KEY_BYTES),)))
    blocks = [os.urandom(BLOCK_BYTES)] * STRIPE_BLOCKS
    sealing, coding, opening = Scratch(), Scratch(), Scratch()

    def encode() -> tuple[SealedStripe, dict[int, list[Buffer]]]:
        sid = Sid(os.urandom(SID_BYTES))
        sealed = at_once(
            seal_steps(keys, sid=sid, kind=Kind.DATA, blocks=blocks, table=b"", scratch=sealing)
        )
        layout = Layout.CONTIGUOUS
        return sealed, at_once(encode_steps(keys, sealed, k=k, n=n, layout=layout, scratch=coding))

    sealed, made = encode()
    runs = {index: _run(sealed, pieces, k) for index, pieces in made.items() if index >= n - k}
    row = StripeRow(
        sealed.sid, k, Layout.CONTIGUOUS, 0, keys.epoch, sealed.sealed_bytes, (b"",) * n
    )

    def decode() -> None:
        for _ in decode_each(keys, row, Kind.DATA, 0, STRIPE_BLOCKS, runs, opening):
            pass

    return CodingSpeed(_stripe_rate(encode, seconds / 2), _stripe_rate(decode, seconds / 2))


def _run(sealed: SealedStripe, pieces: Sequence[Buffer], k: int) -> memoryview:
    """What of a fragment is read for all blocks of its stripe."""
    start, length = run_range(sealed.sealed_bytes, k, 0, STRIPE_BLOCKS)
    return memoryview(b"".join(pieces))[start : start + length]


def _stripe_rate(work: Callable[[], object], seconds: float) -> float:
    """Bytes a second, where each call is worth a stripe."""
    began = now = time.perf_counter()
    stripes = 0
    while not stripes or now - began < seconds:
        work()
        stripes += 1
        now = time.perf_counter()
    return stripes * STRIPE_BYTES / (now - began)
