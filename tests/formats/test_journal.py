"""Segments, heads and checkpoints: signed, strict, and readable for ever."""

import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding import keys
from aggfs.errors import Damaged, UnknownVersion
from aggfs.formats import checkpoint, journal
from aggfs.model import Stamp
from aggfs.sync.merge import apply_batch, is_acceptable
from aggfs.sync.tree import DictTree
from tests.support import journal_samples as samples

TRIES = 20_000
GOLDEN_FILES = Path(__file__).parent / "golden"
GOLDEN = json.loads((GOLDEN_FILES / "journal.json").read_text("utf-8"))
GOLDEN["records"] |= json.loads((GOLDEN_FILES / "checkpoint_past.json").read_text("utf-8"))
SEED = bytes.fromhex(GOLDEN["signing_seed"])
VOLUME = samples.VOLUME
PUBLIC = keys.signing_public_key(SEED)


def sign(text: bytes) -> bytes:
    return keys.sign(SEED, text)


def verify(device: bytes, text: bytes, signature: bytes) -> bool:
    return device == samples.DEVICE and keys.is_signed(PUBLIC, text, signature)


def anybody(device: bytes, text: bytes, signature: bytes) -> bool:
    """The signature of one who may write, and writes nonsense."""
    return True


def records() -> dict[str, bytes]:
    parts = checkpoint.encode_parts(
        samples.CHECKPOINT_HEAD, samples.CHECKPOINT_ROWS, VOLUME, sign, part_bytes=500
    )
    return {
        "control segment": journal.encode_segment(samples.CONTROL_SEGMENT, VOLUME, sign),
        "namespace segment": journal.encode_segment(samples.NAMESPACE_SEGMENT, VOLUME, sign),
        "head": journal.encode_head(samples.HEAD, VOLUME, sign),
        **{f"checkpoint part {count}": record for count, record in enumerate(parts)},
        "checkpoint of the past": b"".join(
            checkpoint.encode_parts(samples.CHECKPOINT_HEAD, samples.PAST_ROWS, VOLUME, sign)
        ),
    }


DECODERS = {
    "control segment": journal.decode_segment,
    "namespace segment": journal.decode_segment,
    "head": journal.decode_head,
    "checkpoint part 0": checkpoint.decode_part,
    "checkpoint part 1": checkpoint.decode_part,
    "checkpoint of the past": checkpoint.decode_part,
}


def test_the_golden_records_are_written_and_read_as_ever() -> None:
    made = records()
    assert {name: record.hex() for name, record in made.items()} == GOLDEN["records"]
    for name, record in made.items():
        DECODERS[name](record, VOLUME, verify)
    assert journal.record_hash(made["head"]).hex() == GOLDEN["hash of the head"]


def test_what_was_written_comes_back() -> None:
    made = records()
    for name, segment in (
        ("control segment", samples.CONTROL_SEGMENT),
        ("namespace segment", samples.NAMESPACE_SEGMENT),
    ):
        assert journal.decode_segment(made[name], VOLUME, verify) == segment
    assert journal.decode_head(made["head"], VOLUME, verify) == samples.HEAD
    parts = [
        checkpoint.decode_part(made[f"checkpoint part {count}"], VOLUME, verify)
        for count in range(len(made) - 4)
    ]
    assert tuple(checkpoint.rows_of(parts)) == samples.CHECKPOINT_ROWS
    past = checkpoint.decode_part(made["checkpoint of the past"], VOLUME, verify)
    assert past.rows == samples.PAST_ROWS
    assert parts[0].head == samples.CHECKPOINT_HEAD


@pytest.mark.parametrize("name", DECODERS)
def test_every_changed_bit_is_noticed(name) -> None:
    record = records()[name]
    for at in range(len(record)):
        changed = bytearray(record)
        changed[at] ^= 1 << at % 8
        with pytest.raises(Damaged):
            DECODERS[name](bytes(changed), VOLUME, verify)


@pytest.mark.parametrize("name", DECODERS)
def test_a_record_of_another_volume_device_type_or_version_is_refused(name) -> None:
    record = records()[name]
    decode = DECODERS[name]
    with pytest.raises(Damaged):
        decode(record, bytes(16), verify)
    with pytest.raises(Damaged):
        decode(record, VOLUME, lambda device, text, signature: False)
    with pytest.raises(Damaged):
        decode(record[:1] + b"?" + record[2:], VOLUME, anybody)
    with pytest.raises(UnknownVersion):
        decode(b"\x02" + record[1:], VOLUME, anybody)


def damaged(record: bytes, chance: random.Random) -> bytes:
    """Bytes near a record, or far from it."""
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(300))
    if kind == 1:
        return record[: chance.randrange(len(record))]
    changed = bytearray(record)
    for _ in range(chance.randrange(1, 6)):
        changed[chance.randrange(2, len(changed))] = chance.randrange(256)
    if kind == 2:
        at = chance.randrange(2, len(changed))
        changed[at:at] = chance.randbytes(chance.randrange(1, 9))
    elif kind == 3:
        at = chance.randrange(2, len(changed))
        del changed[at : at + chance.randrange(1, 40)]
    return bytes(changed)


@pytest.mark.parametrize("name", DECODERS)
def test_damaged_or_random_bytes_give_a_record_or_damaged_and_nothing_else(name) -> None:
    record, chance = records()[name], random.Random(name)
    good = 0
    for _ in range(TRIES):
        try:
            DECODERS[name](damaged(record, chance), VOLUME, anybody)
        except Damaged:
            continue
        good += 1
    assert good < TRIES


def test_what_a_hostile_member_can_sign_never_breaks_the_fold() -> None:
    chance = random.Random(7)
    record = records()["namespace segment"]
    tree, taken = DictTree(), 0
    for _ in range(TRIES // 4):
        try:
            segment = journal.decode_segment(damaged(record, chance), VOLUME, anybody)
        except Damaged:
            continue
        apply_batch(
            tree, [(Stamp(clock, segment.device), entry) for clock, entry in segment.entries]
        )
        taken += 1
    assert taken > 100


entries = st.sampled_from((*samples.NAMESPACE_ENTRIES, *samples.CONTROL_ENTRIES))


@given(st.lists(st.tuples(st.integers(0, 1 << 62), entries), max_size=30))
def test_any_list_of_entries_comes_back_in_order(pairs) -> None:
    segment = journal.Segment(samples.DEVICE, 1, 3, bytes(32), tuple(pairs))
    record = journal.encode_segment(segment, VOLUME, sign)
    assert journal.decode_segment(record, VOLUME, verify) == segment
    assert all(is_acceptable(entry) for _, entry in segment.entries)


def test_lists_longer_than_their_limit_are_refused() -> None:
    placements = (samples.PLACE.placements[0],) * 65
    long = msgspec.structs.replace(samples.PLACE, placements=placements)
    segment = journal.Segment(samples.DEVICE, 1, 1, bytes(32), ((1, long),))
    with pytest.raises(Damaged):
        journal.decode_segment(journal.encode_segment(segment, VOLUME, sign), VOLUME, verify)


def test_a_length_that_promises_gigabytes_costs_no_memory() -> None:
    promise = b"\x01S" + b"\x95" + b"\xc4\x08device 1" + b"\x01\x01" + b"\xc4\x20" + bytes(32)
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(Damaged):
            journal.decode_segment(promise + claim + bytes(64), VOLUME, anybody)
