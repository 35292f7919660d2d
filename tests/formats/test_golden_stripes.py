"""Golden bytes of stripes, keys and headers. The files are never edited, only added: what one of
them fixes is readable for ever. Written out from docs/formats.md where that is short."""

import hmac
import json
import zlib
from hashlib import sha256, shake_256
from pathlib import Path

import pytest
import zfec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aggfs.coding import codec, decode, erasure, keys, slots
from aggfs.coding.cipher import XtsUnit
from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.keys import Keyring, VolumeKeys
from aggfs.coding.records import read_table
from aggfs.formats.fragment import Kind, Suite
from aggfs.formats.table import decode_rows, encode_rows
from aggfs.model import Layout, Member
from tests.support.stripes import row_of, runs_of

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text("utf-8"))


def unhex(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


STRIPE = golden("stripe.json")
COPIES = golden("copies.json")["stripes"]  # of the same blocks
VOLUME = bytes.fromhex(STRIPE["volume"])
MASTERS = tuple(unhex(STRIPE["masters"]))
SID = bytes.fromhex(STRIPE["sid"])
BLOCKS = unhex(STRIPE["blocks"])


def test_a_salt_that_programs_take_for_something_is_derived_again() -> None:
    fixed = golden("salts.json")
    known = VolumeKeys(Keyring(VOLUME, MASTERS))
    assert [row["steps"] for row in fixed["quiet"]] == [0, 1, 2, 3]
    for row in fixed["quiet"]:
        assert known.header_salt(fixed["epoch"], bytes.fromhex(row["fields"])).hex() == row["salt"]


def test_keys_and_names() -> None:
    fixed = golden("keys.json")
    device, account = bytes.fromhex(fixed["device"]), bytes.fromhex(fixed["account"])
    known = VolumeKeys(Keyring(VOLUME, MASTERS))
    salt = bytes(32)
    assert unhex(fixed["stripe_key"]) == [known.stripe_key(epoch, SID) for epoch in (1, 2)]
    made = {
        "cell_key, epoch 2, k 3, layout 0, index 4": known.cell_key(2, SID, 3, 0, 4),
        "scatter_key, epoch 2, block 1": known.scatter_key(2, SID, 1),
        "filler_key, epoch 2": known.filler_key(2, SID),
        "tail_key, epoch 2": known.tail_key(2, salt),
        "header_key, epoch 2": known.header_key(2, salt),
        "charter_key, epoch 2": known.charter_key(2, salt),
        "local_key, purpose 'files'": known.local_key(b"files"),
    }
    assert {name: fixed[name] for name in made} == {name: key.hex() for name, key in made.items()}
    names = {
        "fragment_name, epoch 2, index 4": known.fragment_name(2, SID, 4, account),
        "segment_name, epoch 2, chain 1, sequence 7": known.segment_name(2, device, 1, 7, account),
        "head_name, epoch 2": known.head_name(2, device, account),
        "checkpoint_name, epoch 2, sequence 7, part 3": known.checkpoint_name(
            2, device, 7, 3, account
        ),
        "header_name of '8 random'": keys.header_name(b"8 random"),
    }
    assert {name: fixed[name] for name in names} == names


def test_the_code_is_zfecs() -> None:
    for k, rows in golden("code.json")["rows"].items():
        assert unhex(rows) == erasure.encode_rows(int(k), range(int(k), int(k) + 4))


def test_sparse_files() -> None:
    fixed = golden("xts.json")
    plain = bytes(i % 251 for i in range(65536 + 64))
    stored = XtsUnit(bytes.fromhex(fixed["key"])).encrypt(0, plain)
    assert stored[fixed["offset"] :].hex() == fixed["ciphertext"]


@pytest.mark.parametrize(
    "fixed", STRIPE["stripes"] + COPIES, ids=lambda one: f"{one['k']} of {one['n']}"
)
def test_stripes(fixed: dict) -> None:
    k, n, layout = fixed["k"], fixed["n"], Layout(fixed["layout"])
    known = VolumeKeys(Keyring(VOLUME, MASTERS), suite=Suite(fixed["suite"]))
    sealed = codec.at_once(
        codec.seal_steps(
            known, sid=SID, kind=Kind.DATA, blocks=BLOCKS, table=bytes.fromhex(STRIPE["rows"])
        )
    )
    # The table is left out: how small zlib makes it is zlib's affair.
    assert [sealed.block(i).hex() for i in range(len(BLOCKS))] == fixed["sealed"][:-1]
    staged = codec.load_staged(bytes.fromhex(fixed["staged"]))
    assert list(codec.open_each(known, staged, 0, len(BLOCKS))) == BLOCKS
    made = codec.at_once(codec.encode_steps(known, staged, k=k, n=n, layout=layout))
    fragments = unhex(fixed["fragments"])
    assert [b"".join(made[index]) for index in range(n)] == fragments
    last = dict(enumerate(fragments[n - k :], n - k))
    row, rows = read_table(known, open_header_of_fragment(known, fragments[n - 1]), last)
    assert row.sealed_bytes == tuple(fixed["sealed_bytes"])
    assert encode_rows(decode_rows(rows)).hex() == STRIPE["rows"]
    full = row_of(staged, k=k, n=n, layout=layout)
    runs = runs_of(full, last)
    assert list(decode.decode_each(known, full, Kind.DATA, 0, len(BLOCKS), runs)) == BLOCKS


def derived(master: bytes, purpose: bytes, *parts: bytes) -> bytes:
    return hmac.digest(master, b"aggfs " + purpose + VOLUME + b"".join(parts), sha256)


def test_a_stripe_is_read_as_the_document_says() -> None:
    """Two of three fragments, layout contiguous, from docs/formats.md and nothing of ours."""
    fixed = STRIPE["stripes"][0]
    fragments = dict(enumerate(unhex(fixed["fragments"])))
    del fragments[0]
    master = MASTERS[1]
    for index, data in fragments.items():
        salt, head = data[:32], data[32:128]
        fields = AESGCM(derived(master, b"header key", salt)).decrypt(bytes(12), head, salt)
        assert derived(master, b"header salt", fields) == salt
        assert fields[:45] == bytes([1, Kind.DATA]) + VOLUME + SID + bytes([2, 0, index])
        assert fields[45:61] == b"".join(
            number.to_bytes(4, "big")
            for number in (2, 3, 128 + 48 + 16 + 176 + 16, fixed["sealed_bytes"][-1])
        )
    offset = 128
    opened = []
    for block, length in enumerate(fixed["sealed_bytes"]):
        cell = -(-length // 32) * 16
        cells = {i: data[offset : offset + cell] for i, data in fragments.items()}
        macs = {i: data[offset + cell : offset + cell + 16] for i, data in fragments.items()}
        nonce = block.to_bytes(12, "big")
        for index, mac in macs.items():
            key = derived(master, b"cell", SID, bytes([2, 0, index]))
            assert AESGCM(key).encrypt(nonce, b"", cells[index]) == mac
        joined = b"".join(zfec.Decoder(2, 3).decode(list(cells.values()), list(cells)))
        kind = Kind.TABLE if block == 2 else Kind.DATA
        place = bytes([1, kind]) + VOLUME + (2).to_bytes(4, "big") + SID + block.to_bytes(4, "big")
        plain = AESGCM(derived(master, b"stripe", SID)).decrypt(nonce, joined[:length], place)
        used = int.from_bytes(plain[-3:], "big")
        opened.append(zlib.decompressobj().decompress(plain) if plain[-4] else plain[:used])
        offset += cell + 16
    assert opened[:2] == BLOCKS
    assert opened[2][-len(STRIPE["rows"]) // 2 :].hex() == STRIPE["rows"]


def test_a_stripe_in_copies_is_read_as_the_document_says() -> None:
    """Of 2-of-4 in copies, layout contiguous, the second copy of each cell: no code at all."""
    fixed = COPIES[0]
    assert (fixed["layout"], fixed["k"], fixed["n"]) == (2, 2, 4)
    fragments = unhex(fixed["fragments"])
    master, offset, opened = MASTERS[1], 128, []
    for block, length in enumerate(fixed["sealed_bytes"]):
        cell, joined = -(-length // 32) * 16, b""
        for index in (2, 3):
            found = fragments[index][offset : offset + cell]
            key = derived(master, b"cell", SID, bytes([2, 2, index]))
            mac = AESGCM(key).encrypt(block.to_bytes(12, "big"), b"", found)
            assert mac == fragments[index][offset + cell : offset + cell + 16]
            assert found == fragments[index - 2][offset : offset + cell]
            joined += found
        opened.append(joined[:length].hex())
        offset += cell + 16
    assert opened[:-1] == fixed["sealed"][:-1]


def test_headers() -> None:
    fixed = golden("header.json")
    data = bytes.fromhex(fixed["object"])
    secrets = [
        slots.passphrase(fixed["passphrase"]),
        slots.recovery_words(fixed["recovery_words"]),
        slots.key_file(fixed["key_file"].encode()),
        slots.device_secret(bytes.fromhex(fixed["device_secret"])),
    ]
    members = tuple(
        Member(
            bytes.fromhex(one["device"]),
            one["name"],
            bytes.fromhex(one["signing_key"]),
            bytes.fromhex(one["slot_key"]),
            one["lapsed_after"],
        )
        for one in fixed["members"]
    )
    for secret in secrets:
        opened = slots.open_header(data, secret)
        assert opened.keyring == Keyring(
            bytes.fromhex(fixed["volume"]), tuple(unhex(fixed["masters"]))
        )
        assert opened.generation == fixed["generation"]
        assert opened.account.hex() == fixed["account"]
        assert opened.members == members
        assert [slot.slot.hex() for slot in opened.slots] == fixed["slots"]
        policy = opened.policy
        assert {name: getattr(policy, name) for name in fixed["policy"]} == fixed["policy"]


def test_an_interleaved_block_is_gathered_as_the_document_says() -> None:
    fixed = STRIPE["stripes"][1]
    fragments = unhex(fixed["fragments"])
    k, block, length = fixed["k"], 1, fixed["sealed_bytes"][1]
    cells = [-(-size // (16 * k)) * 16 for size in fixed["sealed_bytes"]]
    offset = 128 + cells[0] + 16
    parts = [fragments[i][offset : offset + cells[block]] for i in range(k)]
    key = derived(MASTERS[1], b"scatter", SID, block.to_bytes(4, "big"))
    stream = shake_256(b"aggfs interleave" + bytes([k]) + key).digest(10_000)
    draws = (int.from_bytes(stream[at : at + 4], "big") for at in range(0, 10_000, 4))

    def shuffled(m: int) -> list[int]:
        things = list(range(m))
        for last in range(m - 1, -1, -1):
            other = next(draws) % (last + 1)
            things[last], things[other] = things[other], things[last]
        return things

    rows = [shuffled(k) for _ in range(16)]
    places = [shuffled(16) for _ in range(k)]
    whole = bytes(
        parts[q][group * 16 + places[q][r]]
        for group in range(cells[block] // 16)
        for r in range(16)
        for q in rows[r]
    )
    assert whole[:length].hex() == fixed["sealed"][block]
