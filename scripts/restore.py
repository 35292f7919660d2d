#!/usr/bin/env python3
"""Restore a volume from its accounts and a key, without aggfs.

    restore.py [--words-file F | --passphrase-file F | --key-file F] INTO ACCOUNT...

INTO is a folder that is empty or does not exist. An ACCOUNT is a directory, or
s3://BUCKET/PREFIX?endpoint=URL&region=R&profile=P (credentials as the AWS tools find them). Of n
accounts any k will do (of fragments in copies: any that have one of each). Without an option the
words or the passphrase are asked for. Nothing is written to any account. Exit code 1: something is
missing, and was named.

Needs Python 3.10, `cryptography` (44 for passphrases) and `zfec`; `boto3` for S3 and `zstandard`
for volumes that compress with it. Everything here follows docs/formats.md; the numbers in
comments are its sections.
"""

import argparse
import getpass
import hashlib
import hmac
import os
import re
import stat
import struct
import sys
import unicodedata
import zlib
from collections import OrderedDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import parse_qsl, unquote, urlsplit

import zfec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK = 256 * 1024
DATA, TABLE, SEGMENT, CHECKPOINT, HEAD = 1, 2, 3, 4, 5  # kinds of blocks (4)
ROOT, NOWHERE = bytes(16), b""
STRIPES_KEPT = 8
LOUD = bytes.fromhex("00010508181f28384856586878 8c9495969798999a9b aab8c5c6 e9ebf0ff")  # (6)


class Lost(Exception):
    """Something cannot be had; the text says what and why."""


def warn(text):
    """Tell the user, and go on."""
    warn.count += 1
    print(f"restore: {text}", file=sys.stderr)


warn.count = 0


# --- accounts -------------------------------------------------------------------------------------


class Directory:
    """An account that is a directory: an object's key is its path."""

    def __init__(self, path):
        self.path = path

    def keys(self):
        with os.scandir(self.path) as first:
            for folder in first:
                if folder.is_dir():
                    for name in os.listdir(folder.path):
                        yield f"{folder.name}/{name}"

    def get(self, key):
        with open(os.path.join(self.path, key), "rb") as file:
            return file.read()


class Bucket:
    """An account that is a part of an S3 bucket."""

    def __init__(self, url):
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise SystemExit("restore: accounts in S3 need boto3: pip install boto3") from None
        self.errors = BotoCoreError, ClientError, ValueError  # the last: an endpoint that is none
        parts = urlsplit(url)
        settings = dict(parse_qsl(parts.query))
        style = "path" if settings.get("path_style") in ("yes", "true", "1") else "auto"
        self.bucket = parts.netloc
        self.prefix = unquote(parts.path).strip("/")
        self.prefix += "/" if self.prefix else ""
        with self.told_as_os_error():
            session = boto3.Session(profile_name=settings.get("profile"))
            self.client = session.client(
                "s3",
                endpoint_url=settings.get("endpoint"),
                region_name=settings.get("region"),
                config=Config(s3={"addressing_style": style}, retries={"max_attempts": 5}),
            )

    @contextmanager
    def told_as_os_error(self):
        try:
            yield
        except self.errors as error:
            raise OSError(str(error)) from error

    def keys(self):
        with self.told_as_os_error():
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for found in page.get("Contents", ()):
                    yield found["Key"][len(self.prefix) :]

    def get(self, key):
        with self.told_as_os_error():
            return self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()


class Account:
    """An account that answers. Its id is in its header (7)."""

    def __init__(self, place):
        self.place = place
        self.store = Bucket(place) if place.startswith("s3://") else Directory(place)
        self.keys = set(self.store.keys())
        self.id = None

    def get(self, key):
        """The object, or None."""
        try:
            return self.store.get(key)
        except OSError as error:
            print(f"restore: {self.place}: {key}: {error}", file=sys.stderr)
            return None


def open_accounts(places):
    """The accounts that can be listed."""
    accounts = []
    for place in places:
        try:
            accounts.append(Account(place))
        except OSError as error:
            print(f"restore: {place} is left out: {error}", file=sys.stderr)
    return accounts


# --- reading bytes --------------------------------------------------------------------------------


class Reader:
    """Takes fields off the front of some bytes; `Lost` where they end too early."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        if self.at > len(self.data):
            raise Lost("a record ends too early")
        return self.data[self.at - count : self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "big")


def unpack(data):
    """One MessagePack value, as far as the formats use it: no maps, no floats, no extensions."""
    reader = Reader(data)
    value = _unpack(reader, 0)
    if reader.at != len(data):
        raise Lost("a record is longer than what it says")
    return value


_SIZED = {0xC4: (1, bytes), 0xC5: (2, bytes), 0xC6: (4, bytes), 0xD9: (1, str), 0xDA: (2, str)}
_SIZED |= {0xDB: (4, str), 0xDC: (2, list), 0xDD: (4, list)}
_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
_NUMBERS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_SINGLE = {0xC0: None, 0xC2: False, 0xC3: True}


def _unpack(reader, depth):
    lead = reader.number(1)
    if lead < 0x80 or lead >= 0xE0:
        return lead if lead < 0x80 else lead - 256
    if 0x90 <= lead < 0xC0:
        kind, size = (list, lead & 0x0F) if lead < 0xA0 else (str, lead & 0x1F)
    elif lead in _SINGLE:
        return _SINGLE[lead]
    elif lead in _NUMBERS:
        form = _NUMBERS[lead]
        return struct.unpack(form, reader.take(struct.calcsize(form)))[0]
    elif lead in _SIZED:
        width, kind = _SIZED[lead]
        size = reader.number(width)
    else:
        raise Lost(f"a record holds a value of unknown type {lead:#x}")
    if kind is list:
        if depth > 8:
            raise Lost("a record is nested too deeply")
        return [_unpack(reader, depth + 1) for _ in range(size)]
    data = bytes(reader.take(size))
    return data if kind is bytes else data.decode(errors="replace")


# --- keys (3) -------------------------------------------------------------------------------------


def mac(key, *parts):
    """HMAC-SHA256."""
    return hmac.digest(key, b"".join(parts), "sha256")


def nonce(number):
    return number.to_bytes(12, "big")


def opened(key, at, sealed, associated):
    """The plaintext of AES-256-GCM, or `Lost`."""
    try:
        return AESGCM(key).decrypt(nonce(at), bytes(sealed), associated)
    except InvalidTag:
        raise Lost("the seal is broken") from None


def gmac(key, at, data):
    return AESGCM(key).encrypt(nonce(at), b"", bytes(data))


def u32(number):
    return number.to_bytes(4, "big")


class Keys:
    """The keyring of a volume: a master key for each epoch, and what follows from it."""

    def __init__(self, volume, masters):
        self.volume, self.masters = volume, masters

    def derive(self, epoch, purpose, *place):
        if not 1 <= epoch <= len(self.masters):
            raise Lost(f"epoch {epoch} is not in the keyring")
        return mac(self.masters[epoch - 1], b"aggfs ", purpose, self.volume, *place)

    def epochs(self):
        """The newest first."""
        return range(len(self.masters), 0, -1)

    def name(self, epoch, purpose, *place):
        """The key of an object (2)."""
        text = mac(self.derive(epoch, b"names"), purpose, *place)[:20].hex()
        return f"{text[:2]}/{text[2:]}"


# --- headers and slots (7) ------------------------------------------------------------------------

Slot = namedtuple("Slot", "id kind cost salt public description commitment private master")
Header = namedtuple("Header", "salt volume generation epoch slots open_part sealed")
Charter = namedtuple("Charter", "account masters k n suite members")
Secret = namedtuple("Secret", "kind value")
PASSPHRASE, WORDS, KEY_FILE = 1, 2, 3


def is_header_name(key):
    """Whether an object's name says that it is a header (2)."""
    if not re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{38}", key):
        return False
    name = bytes.fromhex(key.replace("/", ""))
    return name[8:] == hashlib.sha256(b"aggfs header 1" + name[:8]).digest()[:12]


def read_header(data):
    """A header before any secret is known."""
    salt, masked = data[:32], data[32:]
    pad = hashlib.shake_256(b"aggfs header mask 1" + salt).digest(len(masked))
    plain = bytes(one ^ other for one, other in zip(masked, pad, strict=True))
    if plain[:32] != hashlib.sha256(salt + plain[32:]).digest():
        raise Lost("this is no header, or it is damaged")
    reader = Reader(plain[32:])
    if reader.number(1) != 1:
        raise Lost("the header was written by a newer aggfs")
    open_part = reader.take(reader.number(4))
    sealed = reader.take(reader.number(4))
    fields = Reader(open_part)
    volume, generation, epoch = fields.take(16), fields.number(8), fields.number(4)
    slots = [read_slot(fields.take(229)) for _ in range(fields.number(1))]
    return Header(salt, volume, generation, epoch, slots, open_part, sealed)


def read_slot(data):
    fields = Reader(data)
    identity, kind = fields.take(8), fields.number(1)
    cost = tuple(fields.number(4) for _ in range(3))
    salt, public = fields.take(16), fields.take(32)
    rest = (fields.take(32), fields.take(48), fields.take(80))
    return Slot(identity, kind, cost, salt, public, data[:69], *rest)


def slot_keys(slot, secret):
    """The commit key and the seal key."""
    if slot.kind != PASSPHRASE:
        info = b"aggfs slot " + bytes([slot.kind])
        both = hkdf_expand(mac(slot.salt, secret.value), info, 64)
    else:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        memory, passes, lanes = slot.cost
        if not (8192 <= memory <= 1 << 20 and 1 <= passes <= 16 and 1 <= lanes <= 16):
            raise Lost("a slot's cost is out of bounds")
        both = Argon2id(
            salt=slot.salt, length=64, iterations=passes, lanes=lanes, memory_cost=memory
        ).derive(secret.value)
    return both[:32], both[32:]


def hkdf_expand(key, info, length):
    """HKDF-Expand with SHA-256 (RFC 5869)."""
    out, last = b"", b""
    while len(out) < length:
        last = mac(key, last, info, bytes([len(out) // 32 + 1]))
        out += last
    return out[:length]


def hpke_open(private, wrapped, info):
    """RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM."""

    def extract(suite, salt, label, data):
        return mac(salt or bytes(32), b"HPKE-v1", suite, label, data)

    def expand(suite, key, label, context, length):
        labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context
        return hkdf_expand(key, labelled, length)

    encapsulated, sealed = wrapped[:32], wrapped[32:]
    mine = X25519PrivateKey.from_private_bytes(private)
    shared = mine.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    context = encapsulated + mine.public_key().public_bytes_raw()
    key = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    schedule = b"\0" + extract(suite, b"", b"psk_id_hash", b"")
    schedule += extract(suite, b"", b"info_hash", info)
    secret = extract(suite, key, b"secret", b"")
    gcm = AESGCM(expand(suite, secret, b"key", schedule, 32))
    return gcm.decrypt(expand(suite, secret, b"base_nonce", schedule, 12), sealed, b"")


def master_of(header, secret):
    """The newest master key, None when the secret opens no slot of this header."""
    for slot in header.slots:
        if slot.kind == secret.kind:
            commit_key, seal_key = slot_keys(slot, secret)
            if hmac.compare_digest(slot.commitment, mac(commit_key, slot.description)):
                private = opened(seal_key, 0, slot.private, slot.description)
                info = b"aggfs master" + header.volume + u32(header.epoch) + slot.id
                return hpke_open(private, slot.master, info)
    return None


def read_charter(header, master):
    """The sealed part of a header."""
    keys = Keys(header.volume, [b""] * (header.epoch - 1) + [master])
    key = keys.derive(header.epoch, b"charter", header.salt)
    fields = Reader(opened(key, 0, header.sealed, header.salt + header.open_part))
    if fields.number(1) != 1:
        raise Lost("the header was written by a newer aggfs")
    account = fields.take(8)
    masters = [fields.take(32) for _ in range(fields.number(2))]
    k, n, _, _, suite, _ = fields.take(6)
    members = {}
    for _ in range(fields.number(2)):
        device = fields.take(8)
        name = fields.take(fields.number(1)).decode()
        members[device] = (name, fields.take(32))
        fields.take(40)
    return Charter(account, masters, k, n, suite, members)


def find_volume(accounts, secret):
    """The keys and the charter of the newest header that the secret opens; accounts get ids."""
    headers = []
    for account in accounts:
        for key in filter(is_header_name, account.keys):
            try:
                headers.append((read_header(account.get(key) or b""), account))
            except Lost:
                continue
    headers.sort(key=lambda pair: pair[0].generation, reverse=True)
    if not headers:
        raise Lost("there is no header of a volume in these accounts")
    for header, _ in headers:
        master = master_of(header, secret)
        if master is not None:
            break
    else:
        raise Lost("this secret opens no volume in these accounts")
    charter = read_charter(header, master)
    for other, account in headers:
        if other.volume == header.volume and other.epoch <= header.epoch and account.id is None:
            try:
                account.id = read_charter(other, charter.masters[other.epoch - 1]).account
            except Lost:
                continue
    return Keys(header.volume, charter.masters), charter


# --- stripes and fragments (4, 5, 6) --------------------------------------------------------------

FragmentHeader = namedtuple("FragmentHeader", "kind sid k layout epoch blocks offset length")
Row = namedtuple("Row", "kind sid k layout epoch lengths")


def read_fragment_header(keys, data):
    """(header, index) of a fragment."""
    salt, sealed = data[:32], data[32:128]
    for epoch in keys.epochs():
        try:
            fields = opened(keys.derive(epoch, b"header key", salt), 0, sealed, salt)
        except Lost:
            continue
        names = struct.unpack(">BB16s24sBBBIIII", fields[:61])
        version, kind, volume, sid, k, layout, index, said, blocks, offset, length = names
        if version != 1:
            raise Lost("a fragment was written by a newer aggfs")
        genuine = hmac.compare_digest(salt, header_salt(keys, epoch, fields))
        if genuine and (volume, said) == (keys.volume, epoch):
            return FragmentHeader(kind, sid, k, layout, epoch, blocks, offset, length), index
    raise Lost("this is no fragment of the volume")


def header_salt(keys, epoch, fields):
    salt = keys.derive(epoch, b"header salt", fields)
    while salt[0] in LOUD:
        salt = keys.derive(epoch, b"header salt", salt)
    return salt


def cell_of(row, index):
    """Which cell of each block a fragment holds; in copies (layouts 2 and 3) several hold one."""
    return index % row.k if row.layout >= 2 else index


def cell_bytes(sealed_length, k):
    return 16 * -(-sealed_length // (16 * k))


class Stripe:
    """One stripe, its blocks opened on demand. `sources` are (index, function that fetches the
    fragment or gives None), in the order in which they are to be tried."""

    def __init__(self, volume, row, sources):
        self.volume, self.row = volume, row
        self.waiting = list(sources)
        self.fragments = {}
        self.offsets, at = [], 128
        for length in row.lengths:
            self.offsets.append(at)
            at += cell_bytes(length, row.k) + 16
        self.bad = set()

    def fetch(self):
        """As many fragments as are missing to k, side by side; whether any more could be had."""
        good = {cell_of(self.row, index) for index in self.fragments.keys() - self.bad}
        count = max(1, self.row.k - len(good))
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        found = self.volume.pool.map(lambda one: (one[0], one[1]()), batch)
        self.fragments.update((index, data) for index, data in found if data is not None)
        return bool(batch)

    def block(self, number):
        """The plaintext of a block."""
        row, cells = self.row, {}
        while len(cells) < row.k:
            for index in sorted(self.fragments.keys() - self.bad):
                if cell_of(row, index) not in cells:
                    cell = self.cell(index, number)
                    if cell is not None:
                        cells[cell_of(row, index)] = cell
            if len(cells) < row.k and not self.fetch():
                raise Lost(f"{len(cells)} of {row.k} fragments of stripe {row.sid.hex()} are good")
        kind = TABLE if number == len(row.lengths) - 1 else row.kind
        sealed = self.joined(number, dict(sorted(cells.items())[: row.k]))
        return open_block(self.volume, kind, row, number, sealed)

    def cell(self, index, number):
        """A cell whose MAC is right, or None."""
        row, start = self.row, self.offsets[number]
        end = start + cell_bytes(row.lengths[number], row.k)
        data = self.fragments[index]
        place = row.sid + bytes([row.k, row.layout, index])
        key = self.volume.keys.derive(row.epoch, b"cell", place)
        if gmac(key, number, data[start:end]) == data[end : end + 16]:
            return data[start:end]
        self.bad.add(index)
        return None

    def joined(self, number, cells):
        """The sealed block from k different cells."""
        k = self.row.k
        if max(cells) < k:
            primaries = [cells[index] for index in range(k)]
        else:
            decoder = zfec.Decoder(k, max(cells) + 1)
            primaries = decoder.decode(list(cells.values()), list(cells))
        interleaved = self.row.layout & 1
        whole = self.gathered(primaries, number) if interleaved else b"".join(primaries)
        return whole[: self.row.lengths[number]]

    def gathered(self, primaries, number):
        """Layout `interleave` undone (6)."""
        k = self.row.k
        key = self.volume.keys.derive(self.row.epoch, b"scatter", self.row.sid, u32(number))
        draw = hashlib.shake_256(b"aggfs interleave" + bytes([k]) + key).digest(128 * k)
        draws = iter(struct.unpack(f">{32 * k}I", draw))

        def shuffle(count):
            order = list(range(count))
            for last in range(count - 1, -1, -1):
                other = next(draws) % (last + 1)
                order[last], order[other] = order[other], order[last]
            return order

        rows = [shuffle(k) for _ in range(16)]
        places = [shuffle(16) for _ in range(k)]
        whole = bytearray(sum(map(len, primaries)))
        for row in range(16):
            for column in range(k):
                cell = rows[row][column]
                whole[row * k + column :: 16 * k] = primaries[cell][places[cell][row] :: 16]
        return bytes(whole)


def open_block(volume, kind, row, number, sealed):
    """A sealed block's data (4)."""
    suite = volume.charter.suite if kind == DATA else 1
    associated = bytes([suite, kind]) + volume.keys.volume + u32(row.epoch) + row.sid + u32(number)
    key = volume.keys.derive(row.epoch, b"stripe", row.sid)
    if suite == 0:
        plain = sealed[:-16]
        if gmac(key, number, associated + plain) != sealed[-16:]:
            raise Lost("a block is damaged")
    else:
        plain = opened(key, number, sealed, associated)
    compression, length = plain[-4], int.from_bytes(plain[-3:], "big")
    if compression == 0:
        return plain[:length]
    if length > 1 << 20:
        raise Lost("a block says that it is longer than any")
    data = zlib.decompressobj().decompress(plain[:-4], length) if compression == 1 else None
    data = unzstd(plain[:-4], length) if compression == 2 else data
    if data is None or len(data) != length:
        raise Lost("a block is compressed in an unknown way")
    return data


def unzstd(data, length):
    try:
        import zstandard
    except ImportError:
        sys.exit("restore: this volume is compressed with zstd: pip install zstandard")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=length)


def row_of(volume, header, sources):
    """The row of a stripe that is known by a fragment's header only: its table has the lengths."""
    # Only place and length of the table's own cell matter to read it.
    known = Row(header.kind, header.sid, header.k, header.layout, header.epoch, [header.length])
    stripe = Stripe(volume, known._replace(lengths=[header.length] * header.blocks), sources)
    stripe.offsets[-1] = header.offset
    fields = Reader(stripe.block(header.blocks - 1))
    if fields.number(1) != 1:
        raise Lost("a stripe was written by a newer aggfs")
    lengths, count = [], fields.number(4)
    while len(lengths) < count:
        times, length = fields.number(4), fields.number(4)
        if not 1 <= times <= count - len(lengths):
            raise Lost("a stripe's table is damaged")
        lengths += [length] * times
    return known._replace(lengths=[*lengths, header.length])


class Volume:
    """The accounts with the keys: whatever lies there can be read."""

    def __init__(self, accounts, keys, charter):
        self.accounts = [account for account in accounts if account.id is not None]
        self.keys, self.charter = keys, charter
        self.pool = ThreadPoolExecutor(max(2, charter.n))
        self.rows = {}  # sid -> (stamp, stripe row)
        self._stripes = OrderedDict()

    def record(self, kind, purpose, place, accounts):
        """What a record holds whose fragments in these accounts have these names (8)."""
        objects = []
        for account in accounts:
            for epoch in self.keys.epochs():
                key = self.keys.name(epoch, purpose, place, account.id)
                if key in account.keys:
                    objects.append((account, key))
                    break
        stripes = {}
        for data in self.pool.map(lambda one: one[0].get(one[1]), objects):
            try:
                header, index = read_fragment_header(self.keys, data or b"")
            except Lost:
                continue
            if header.kind == kind:
                stripes.setdefault(header, []).append((index, lambda data=data: data))
        for header, sources in sorted(stripes.items(), key=lambda one: -len(one[1])):
            try:
                stripe = Stripe(self, row_of(self, header, sources), sources)
                blocks = range(len(stripe.row.lengths) - 1)
                return b"".join(stripe.block(number) for number in blocks)
            except Lost as error:
                print(f"restore: {error}", file=sys.stderr)
        raise Lost(f"less than k of {len(objects)} fragments are good")

    def block(self, sid, index):
        """The plaintext of a block of a data stripe."""
        stripe = self._stripes.get(sid)
        if stripe is None:
            stripe = self._stripes[sid] = self.stripe(sid)
            if len(self._stripes) > STRIPES_KEPT:
                self._stripes.popitem(last=False)
        self._stripes.move_to_end(sid)
        if index >= len(stripe.row.lengths) - 1:
            raise Lost(f"stripe {sid.hex()} has no block {index}")
        return stripe.block(index)

    def stripe(self, sid):
        """A data stripe: by its row, and if that is missing by what its fragments say."""
        known = self.rows.get(sid)
        if known is not None:
            _, (_, k, layout, _, epoch, lengths, places) = known
            sources = self.sources(sid, epoch, range(len(places)), places)
            return Stripe(self, Row(DATA, sid, k, layout, epoch, lengths), sources)
        for epoch in self.keys.epochs():
            sources = self.sources(sid, epoch, range(32), ())
            for _, fetch in sources:
                header, _ = read_fragment_header(self.keys, fetch() or b"")
                return Stripe(self, row_of(self, header, sources), sources)
        raise Lost(f"nothing is left of stripe {sid.hex()}")

    def sources(self, sid, epoch, indices, places):
        """Who has which fragment: those where it should be come first."""
        found = []
        for index in indices:
            for account in self.accounts:
                key = self.keys.name(epoch, b"fragment", sid, bytes([index]), account.id)
                if key in account.keys:
                    home = index < len(places) and places[index] == account.id
                    found.append((not home, index, lambda a=account, key=key: a.get(key)))
        return [(index, fetch) for _, index, fetch in sorted(found, key=lambda one: one[:2])]


# --- journals (8.1, 8.2, 8.4) ---------------------------------------------------------------------


def signed_body(volume, record, kind, device):
    """The body of a signed record of this device."""
    if record[:2] != b"\x01" + kind:
        raise Lost("a journal record is of another type, or of a newer aggfs")
    body = unpack(record[2:-64])
    key = volume.charter.members[device][1]
    try:
        message = b"aggfs journal 1" + volume.keys.volume + record[:-64]
        Ed25519PublicKey.from_public_bytes(key).verify(record[-64:], message)
    except InvalidSignature:
        raise Lost("a journal record is not signed by its device") from None
    if device not in (body[0], body[0][0]):  # a part of a checkpoint says it in its head
        raise Lost("a journal record is another device's")
    return body


def newest_head(volume, device):
    """The head with the highest count, None if there is none."""
    heads = []
    for account in volume.accounts:
        try:
            record = volume.record(HEAD, b"head", device, [account])
            heads.append(signed_body(volume, record, b"H", device))
        except Lost:
            continue
    return max(heads, key=lambda head: head[1], default=None)


def read_chain(volume, device, chain, start, end):
    """The entries of one chain from after one tip up to another, as (stamp, entry)."""
    last = start[1]
    for sequence in range(start[0] + 1, end[0] + 1):
        place = device + bytes([chain]) + sequence.to_bytes(8, "big")
        try:
            record = volume.record(SEGMENT, b"segment", place, volume.accounts)
            body = signed_body(volume, record, b"S", device)
            if body[1:3] != [chain, sequence] or (last is not None and body[3] != last):
                raise Lost("it does not follow the one before")
        except Lost as error:
            warn(f"segment {sequence} of chain {chain} of device {device.hex()}: {error}")
            last = None
            continue
        last = hashlib.sha256(record).digest()
        for clock, entry in body[4]:
            yield clock.to_bytes(8, "big") + device, entry
    if last is not None and end[0] >= start[0] and last != end[1]:
        warn(f"the journal of device {device.hex()} does not lead to its head")


def read_checkpoint(volume, head):
    """(cut, tips, rows) of the checkpoint that a head names."""
    device, sequence, count, rows, first = head[0], head[5], head[6], [], None
    for number in range(count):
        place = device + sequence.to_bytes(8, "big") + u32(number)
        record = volume.record(CHECKPOINT, b"checkpoint", place, volume.accounts)
        said, part, is_last, more = signed_body(volume, record, b"C", device)
        first = first or said
        if (said, part, is_last) != (first, number, number == count - 1) or said[1] != sequence:
            raise Lost("the parts of a checkpoint do not fit together")
        rows += more
    return first[2], first[3], rows


def load_checkpoint(volume, tree, heads):
    """Begin with the newest checkpoint that can be had: {(device, chain): tip} that it spares."""
    found = []
    for head in heads:
        try:
            if head[6]:
                found.append(read_checkpoint(volume, head))
        except Lost as error:
            warn(f"the checkpoint of device {head[0].hex()}: {error}")
    if not found:
        return {}
    cut, tips, rows = max(found, key=lambda one: one[0])
    tree.load(cut, rows)
    return {(device, chain): tip for device, *two in tips for chain, tip in enumerate(two)}


def read_journals(volume, tree):
    """Everything that the devices have published, into the tree."""
    heads = []
    for device, (name, _) in volume.charter.members.items():
        head = newest_head(volume, device)
        if head is None:
            print(f"device {name}: has published nothing")
        else:
            print(f"device {name}: {head[2][0] + head[3][0]} journal segments")
            heads.append(head)
    tips = load_checkpoint(volume, tree, heads)
    for head in heads:
        for chain, end in enumerate(head[2:4]):
            start = tips.get((head[0], chain), (0, bytes(32)))
            for stamp, entry in read_chain(volume, head[0], chain, start, end):
                tree.add(stamp, entry)


# --- what the entries say (8.5) -------------------------------------------------------------------

NEVER = bytes(16)
Link = namedtuple("Link", "inode parent name was_parent stamp observed")
Content = namedtuple("Content", "stamp bases size kept extents inline")


class Inode:
    """An inode's registers, (stamp, value) each, and its content versions."""

    __slots__ = ("named", "registers", "versions", "xattrs")

    def __init__(self):
        self.registers, self.xattrs, self.versions, self.named = {}, {}, {}, set()

    def set(self, stamp, **values):
        for name, value in values.items():
            if value is not None and stamp > self.registers.get(name, (b"",))[0]:
                self.registers[name] = (stamp, value)

    def get(self, name, default=0):
        return self.registers.get(name, (b"", default))[1]

    def heads(self):
        """The versions that no other names as base, the newest first."""
        found = [version for version in self.versions if version not in self.named]
        return sorted(found, key=lambda version: self.versions[version].stamp, reverse=True)

    def type(self):
        return stat.S_IFMT(self.get("type"))


class Tree:
    """The fold of a set of entries: `add` them in any order, then `finish`."""

    def __init__(self, rows):
        self.inodes, self.links, self.moves, self.rows, self.moved = {}, {}, [], rows, {}
        self.cut = NEVER
        self.inode(ROOT).set(NEVER, type=stat.S_IFDIR, mode=0o755)

    def inode(self, identity):
        return self.inodes.setdefault(identity, Inode())

    def add(self, stamp, entry):
        """Take one entry, unless a checkpoint has it; those of unknown tags are none of ours."""
        handler = HANDLERS.get(entry[0])
        if handler is not None and stamp >= self.cut:
            handler(self, stamp, *entry[1:])

    def load(self, cut, rows):
        """Begin with a checkpoint (8.4)."""
        for tag, *row in rows:
            IMAGES[tag](self, *row)
        self.cut = cut.to_bytes(8, "big")

    def inode_image(self, inode, mode, uid, gid, rdev, atime, mtime, _, __, target, stamps):
        row, stamps = self.inode(inode), stamps * (112 // len(stamps))
        created, *others = [stamps[at : at + 16] for at in range(0, 112, 16)]
        row.set(created, type=stat.S_IFMT(mode), rdev=rdev, target=target)
        values = {
            "mode": stat.S_IMODE(mode),
            "uid": uid,
            "gid": gid,
            "atime": atime,
            "mtime": mtime,
        }
        for (name, value), stamp in zip(values.items(), others, strict=False):
            row.set(stamp, **{name: value})

    def version_image(self, inode, version, stamp, superseded, content):
        if content is not None:
            self.content(stamp, *content[1:])
        if superseded:
            self.inode(inode).named.add(version)

    def extents_image(self, inode, version, extents):
        self.inode(inode).versions[version].extents.extend(extents)

    def link_image(self, link, inode, parent, name, was_parent, stamp, observed):
        self.links[link] = Link(inode, parent, name, was_parent, stamp, tuple(observed))

    def create(self, stamp, inode, mode, uid, gid, rdev, target, time, placement):
        link, placed, parent, _ = placement
        wrong = inode != placed or parent == NOWHERE or stat.S_ISDIR(mode) != (link == inode)
        if wrong or not acceptable(placement):
            return
        row = self.inode(inode)
        row.set(stamp, type=stat.S_IFMT(mode), mode=stat.S_IMODE(mode), uid=uid, gid=gid)
        row.set(stamp, rdev=rdev, target=target, atime=time, mtime=time)
        self.inode(parent).set(stamp, mtime=time)
        self.moves.append((stamp, [placement], ()))

    def place(self, stamp, placements, time, directories=(), observed=()):
        if all(map(acceptable, placements)):
            for directory in directories:
                self.inode(directory).set(stamp, mtime=time)
            self.moves.append((stamp, placements, observed))

    def attributes(self, stamp, inode, mode, uid, gid, atime, mtime, _):
        self.inode(inode).set(stamp, mode=mode, uid=uid, gid=gid, atime=atime, mtime=mtime)

    def xattr(self, stamp, inode, name, value, _):
        xattrs = self.inode(inode).xattrs
        if stamp > xattrs.get(name, (b"",))[0]:
            xattrs[name] = (stamp, value)

    def content(self, stamp, inode, version, bases, size, kept, extents, inline, mtime, _):
        if version in bases or (inline and extents):
            return
        row = self.inode(inode)
        row.set(stamp, mtime=mtime)
        row.versions[version] = Content(stamp, bases, size, kept, extents, inline)
        row.named.update(bases)

    def relocate(self, stamp, sid, index, count, to_sid, to_index):
        for step in range(count):
            place = (sid, index + step)
            if stamp > self.moved.get(place, (b"",))[0]:
                self.moved[place] = (stamp, to_sid, to_index + step)

    def stripe(self, stamp, row):
        if stamp > self.rows.get(row[0], (b"",))[0]:
            self.rows[row[0]] = (stamp, row)

    # --- links ------------------------------------------------------------------------------------

    def finish(self):
        """Put the links where they are, and find what each directory shows."""
        self.moves.sort(key=lambda move: move[0])
        for stamp, placements, observed in self.moves:
            self._move(stamp, placements, observed)
        self.moves = []
        return self._shown()

    def _move(self, stamp, placements, observed):
        saved = {placement[0]: self.links.get(placement[0]) for placement in placements}
        for link, inode, parent, name in placements:
            row = self.links.get(link)
            impossible = row is not None and row.inode != inode
            if link == inode and parent != NOWHERE:
                impossible = impossible or self._is_inside(parent, link)
            if impossible:
                self.links.update(saved)
                for new in [one for one, before in saved.items() if before is None]:
                    del self.links[new]
                return
            if parent != NOWHERE:
                self.links[link] = Link(inode, parent, name, parent, stamp, ())
            elif row is not None:
                self.links[link] = Link(
                    inode, NOWHERE, row.name, row.was_parent, stamp, tuple(observed)
                )
            else:
                self.links[link] = Link(inode, NOWHERE, name, NOWHERE, stamp, tuple(observed))

    def _is_inside(self, directory, ancestor):
        while directory != ancestor and directory in self.links:
            directory = self.links[directory].was_parent
        return directory == ancestor

    def _shown(self):
        """{directory: [(link id, link), ...]} of the links that are shown."""
        possible = {
            identity: link
            for identity, link in self.links.items()
            if link.was_parent != NOWHERE
            and self.inode(link.inode).type()
            and stat.S_ISDIR(self.inode(link.inode).type()) == (identity == link.inode)
        }
        shown = {one for one, link in possible.items() if link.parent != NOWHERE}
        shown |= set(self._kept(possible))
        todo = list(shown)
        while todo:  # what is filled lives, and so does what holds it
            parent = possible[todo.pop()].was_parent
            if parent in possible and parent not in shown:
                shown.add(parent)
                todo.append(parent)
        children = {}
        for identity in shown:
            children.setdefault(possible[identity].was_parent, []).append(
                (identity, possible[identity])
            )
        return children

    def _kept(self, possible):
        """The links of files that were removed while another device edited them."""
        by_inode = {}
        for identity, link in possible.items():
            if identity != link.inode:
                by_inode.setdefault(link.inode, []).append((link.stamp, identity, link))
        for inode, links in by_inode.items():
            if all(link.parent == NOWHERE for _, _, link in links):
                observed = {head for _, _, link in links for head in link.observed}
                if not observed.issuperset(self.inode(inode).heads()):
                    yield max(links)[1]


# By the tags of entries; the others are about devices and accounts (8.3).
HANDLERS = {1: Tree.create, 2: Tree.place, 3: Tree.attributes, 4: Tree.xattr, 5: Tree.content}
HANDLERS |= {6: Tree.relocate, 32: Tree.stripe}
# By the tags of rows of a checkpoint (8.4).
IMAGES = {1: Tree.inode_image, 2: Tree.version_image, 3: Tree.extents_image, 7: Tree.link_image}
IMAGES[4] = lambda tree, inode, name, stamp, value: tree.xattr(stamp, inode, name, value, None)
IMAGES[5] = lambda tree, sid, at, stamp, *to: tree.relocate(stamp, sid, at, 1, *to)
IMAGES[6] = lambda tree, stamp, entry: tree.add(stamp, entry)
IMAGES[8] = lambda tree, stamp, placements, observed: tree.moves.append(
    (stamp, placements, observed)
)
IMAGES[9] = lambda tree, *past: None  # where links were before: of no use here


def acceptable(placement):
    """No honest device writes a placement that is not."""
    link, inode, parent, name = placement
    fine = name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
    return fine and ROOT not in (link, inode) and len(parent) in (0, 16)


def names_in(tree, children, directories):
    """(name, inode, [directories merged into it]) of all that is shown in some directories that
    are one."""
    by_name = {}
    for directory in directories:
        for identity, link in children.get(directory, ()):
            by_name.setdefault(link.name, []).append((link.stamp, identity, link))
    used = set(by_name)
    for name, claims in by_name.items():
        claims.sort()
        folders = [link.inode for _, identity, link in claims if identity == link.inode]
        others = [(identity, link) for _, identity, link in claims if identity != link.inode]
        if folders:
            yield name, folders[0], folders
        else:
            yield name, others.pop(0)[1].inode, []
        for identity, link in others:
            yield conflict_name(name, identity, used), link.inode, []


def conflict_name(name, identity, used):
    """`photo.jpg` -> `photo (conflict 1a2b3c4d).jpg`, or the whole id if that is taken."""
    stem, dot, extension = name.rpartition(b".")
    if not stem or not dot or not 0 < len(extension) < 16:
        stem, dot, extension = name, b"", b""
    for digits in (identity.hex()[:8], identity.hex()):
        suffix = f" (conflict {digits})".encode() + dot + extension
        candidate = stem[: 255 - len(suffix)] + suffix
        if candidate not in used:
            break
    used.add(candidate)
    return candidate


# --- contents -------------------------------------------------------------------------------------


def block_map(tree, inode, version):
    """{block: (sid or inline bytes, index, how many of its bytes count)} of a content version."""
    chain, row = [], tree.inode(inode)
    while version is not None:
        content = row.versions.get(version)
        if content is None or len(chain) > len(row.versions):
            raise Lost("a version that it rests on is missing")
        chain.append(content)
        version = content.bases[0] if content.bases and not content.inline else None
    blocks = {}
    for content in reversed(chain):
        cut(blocks, content.kept)
        for block, sid, index, count in content.extents:
            for step in range(count):
                blocks[block + step] = (sid, index + step, BLOCK)
        if content.inline:
            blocks = {0: (content.inline, None, BLOCK)}
        cut(blocks, content.size)
    return blocks


def cut(blocks, size):
    """Nothing at `size` or beyond counts."""
    for block in [block for block in blocks if (block + 1) * BLOCK > size]:
        source, index, valid = blocks[block]
        valid = min(valid, size - block * BLOCK)
        if valid > 0:
            blocks[block] = (source, index, valid)
        else:
            del blocks[block]


def place_now(tree, sid, index):
    """Where a block lies after all relocations."""
    seen = set()
    while (sid, index) in tree.moved and (sid, index) not in seen:
        seen.add((sid, index))
        _, sid, index = tree.moved[sid, index]
    return sid, index


def write_content(volume, tree, path, inode, version):
    """Make a file with one version's content; gaps stay gaps. There is no file if it fails."""
    size = tree.inode(inode).versions[version].size if version else 0
    blocks = block_map(tree, inode, version) if version else {}
    with open(path, "xb") as file:
        try:
            for block in sorted(blocks):
                source, index, valid = blocks[block]
                data = source if index is None else volume.block(*place_now(tree, source, index))
                file.seek(block * BLOCK)
                file.write(data[:valid])
            file.truncate(size)
        except BaseException:
            os.unlink(path)
            raise


# --- the folder -----------------------------------------------------------------------------------


class Restorer:
    """Writes a tree into an empty folder."""

    def __init__(self, volume, tree, children):
        self.volume, self.tree, self.children = volume, tree, children
        self.made = {}  # inode -> its first path
        self.links = []  # (path, inode): further names of what is made
        self.files = []
        self.folders = []
        self.bytes = 0

    def run(self, into):
        into = os.fsencode(into)
        os.makedirs(into, exist_ok=True)
        if os.listdir(into):
            raise Lost(f"{os.fsdecode(into)} is not empty")
        self._make_names(into, ROOT)
        self._write_files()
        for path, inode in self.links:
            if os.path.lexists(self.made[inode]):
                os.link(self.made[inode], path, follow_symlinks=False)
        for path, inode in reversed(self.folders):
            self._set_attributes(path, inode)

    def _make_names(self, into, root):
        todo = [(into, root, [root])]
        while todo:
            path, inode, directories = todo.pop()
            self.folders.append((path, inode))
            for name, child, merged in names_in(self.tree, self.children, directories):
                child_path = os.path.join(path, name)
                if merged:
                    os.mkdir(child_path, 0o700)
                    todo.append((child_path, child, merged))
                elif child in self.made:
                    self.links.append((child_path, child))
                else:
                    self.made[child] = child_path
                    self._make(child_path, child)

    def _make(self, path, inode):
        """What is no directory. Files are filled later, in the order of their stripes."""
        row = self.tree.inode(inode)
        kind = row.type()
        try:
            if stat.S_ISREG(kind):
                self.files.append((path, inode))
                return
            if stat.S_ISLNK(kind):
                os.symlink(row.get("target", b""), path)
            elif stat.S_ISFIFO(kind):
                os.mkfifo(path, 0o600)
            else:
                os.mknod(path, kind | 0o600, row.get("rdev"))
        except OSError as error:
            warn(f"{os.fsdecode(path)}: cannot be made: {error.strerror}")
            return
        self._set_attributes(path, inode)

    def _write_files(self):
        def first_stripe(file):
            heads = self.tree.inode(file[1]).heads()
            extents = self.tree.inode(file[1]).versions[heads[0]].extents if heads else ()
            return (extents[0][1], extents[0][2]) if extents else (b"", 0)

        self.files.sort(key=first_stripe)
        for path, inode in self.files:
            shown, *others = self.tree.inode(inode).heads() or [None]
            self._write_file(path, inode, shown)
            for version in others:
                folder, name = os.path.split(path)
                other = conflict_name(name, version, set(os.listdir(folder)))
                self._write_file(os.path.join(folder, other), inode, version)

    def _write_file(self, path, inode, version):
        try:
            write_content(self.volume, self.tree, path, inode, version)
        except (Lost, OSError) as error:
            warn(f"{os.fsdecode(path)}: is left out: {error}")
            return
        self.bytes += os.lstat(path).st_size
        self._set_attributes(path, inode)

    def _set_attributes(self, path, inode):
        """As far as this user and file system may: what cannot be set is told, and is no loss."""
        row = self.tree.inode(inode)
        times = (row.get("atime"), row.get("mtime"))
        steps = [lambda: os.chown(path, row.get("uid"), row.get("gid"), follow_symlinks=False)]
        if os.geteuid() != 0:
            steps.clear()
        for name, (_, value) in row.xattrs.items():
            if value is not None:
                steps.append(lambda n=name, v=value: os.setxattr(path, n, v, follow_symlinks=False))
        if not stat.S_ISLNK(row.type()):
            steps.append(lambda: os.chmod(path, row.get("mode")))
        steps.append(lambda: os.utime(path, ns=times, follow_symlinks=False))
        for step in steps:
            try:
                step()
            except (OSError, OverflowError) as error:
                print(f"restore: {os.fsdecode(path)}: {error}", file=sys.stderr)


# --- the command ----------------------------------------------------------------------------------


def first_line(path):
    with open(path, encoding="utf-8") as file:
        return file.readline().rstrip("\n")


def words_secret(text):
    return Secret(WORDS, " ".join(text.lower().split()).encode())


def passphrase_secret(text):
    return Secret(PASSPHRASE, unicodedata.normalize("NFC", text).encode())


def read_secret(options):
    """The secret that the user has (7)."""
    if options.key_file:
        lead, _, digits = first_line(options.key_file).partition(" ")
        if lead != "aggfs-key-1" or len(digits.strip()) != 64:
            raise Lost(f"{options.key_file} is no key file")
        return Secret(KEY_FILE, bytes.fromhex(digits))
    if options.words_file:
        with open(options.words_file, encoding="utf-8") as file:
            return words_secret(file.read())
    if options.passphrase_file:
        return passphrase_secret(first_line(options.passphrase_file))
    text = getpass.getpass("Recovery words or passphrase: ")
    return words_secret(text) if len(text.split()) == 24 else passphrase_secret(text)


def restore(options):
    """All of it; `Lost` where nothing can be restored."""
    secret = read_secret(options)
    accounts = open_accounts(options.accounts)
    keys, charter = find_volume(accounts, secret)
    volume = Volume(accounts, keys, charter)
    print(f"{len(volume.accounts)} accounts of the volume; any {charter.k} of {charter.n} will do")
    tree = Tree(volume.rows)
    read_journals(volume, tree)
    restorer = Restorer(volume, tree, tree.finish())
    restorer.run(options.into)
    print(f"{len(restorer.files)} files with {restorer.bytes} bytes,", end=" ")
    print(f"{len(restorer.folders)} folders are in {options.into}")


def main():
    parser = argparse.ArgumentParser(description="Restore a volume of aggfs, without aggfs.")
    parser.add_argument("--words-file", help="file with the 24 recovery words")
    parser.add_argument("--passphrase-file", help="file whose first line is the passphrase")
    parser.add_argument("--key-file", help="a key file")
    parser.add_argument("into", help="an empty folder")
    parser.add_argument("accounts", nargs="+", metavar="account", help="directory or s3://...")
    try:
        restore(parser.parse_args())
    except (Lost, OSError) as error:
        sys.exit(f"restore: {error}")
    if warn.count:
        sys.exit(f"restore: {warn.count} things are missing, see above")


if __name__ == "__main__":
    main()
