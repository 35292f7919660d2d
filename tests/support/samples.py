"""Files to be stored: seeded, of every type that a provider might recognise."""

import io
import os
import random
import sqlite3
import struct
import sys
import zipfile
import zlib
from pathlib import Path


def noise(size_bytes: int, seed: object = 0) -> bytes:
    """Bytes without pattern, the same for the same seed."""
    return random.Random(repr(seed)).randbytes(size_bytes)


def write_noise(path: Path, size_bytes: int, seed: object = 0) -> bytes:
    """A file of noise; its content."""
    data = noise(size_bytes, seed)
    path.write_bytes(data)
    return data


def tree_of(top: Path) -> dict[str, object]:
    """Every name below, and the content behind it."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(directory) / name
            key = str(path.relative_to(top))
            if path.is_symlink():
                found[key] = os.readlink(path)
            else:
                found[key] = path.read_bytes() if path.is_file() else None
    return found


def corpus(directory: Path) -> dict[str, bytes]:
    """A file of each type that OBF-1 names; {name: its first bytes that give it away}."""
    directory.mkdir(parents=True, exist_ok=True)
    made = {
        "picture.png": (_png(), b"\x89PNG\r\n\x1a\n"),
        "photo.jpg": (_jpeg(), b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
        "paper.pdf": (_pdf(), b"%PDF-1.4\n"),
        "archive.zip": (
            _zip({"a.txt": b"one" * 5000, "b.txt": noise(20_000)}),
            b"PK\x03\x04\x14\0",
        ),
        "song.mp3": (_mp3(), b"ID3\x03\0\0\0\0"),
        "letter.docx": (_docx(), b"[Content_Types].xml"),
        "program.elf": (_elf(), b"\x7fELF\x02\x01\x01"),
    }
    for name, (data, _) in made.items():
        (directory / name).write_bytes(data)
    make_database(directory / "records.sqlite", rows=500)
    return {name: magic for name, (_, magic) in made.items()} | {
        "records.sqlite": b"SQLite format 3\0"
    }


def make_database(path: Path, *, rows: int) -> None:
    """An SQLite database."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("create table records (number integer primary key, content blob)")
        connection.executemany(
            "insert into records values (?, ?)", ((i, noise(200, i)) for i in range(rows))
        )
    connection.close()


def _png() -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    lines = b"".join(b"\0" + noise(3 * 120, row) for row in range(120))
    size = struct.pack(">IIBBBBB", 120, 120, 8, 2, 0, 0, 0)
    parts = part(b"IHDR", size) + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _jpeg() -> bytes:
    start = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x48\x00\x48\x00\x00"
    quantisation = b"\xff\xdb\x00\x43\x00" + bytes(range(1, 65))
    frame = b"\xff\xc0\x00\x0b\x08\x00\x40\x00\x40\x01\x01\x11\x00"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + noise(30_000).replace(b"\xff", b"\xfe")
    return start + quantisation + frame + scan + b"\xff\xd9"


def _pdf() -> bytes:
    text = b"".join(b"BT /F1 12 Tf (line %d of the paper) Tj ET\n" % i for i in range(400))
    body = b"1 0 obj\n<< /Type /Catalog >>\nendobj\n2 0 obj\n<< /Length %d >>\nstream\n" % len(text)
    return b"%PDF-1.4\n" + body + text + b"endstream\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _docx() -> bytes:
    content_types = b'<?xml version="1.0"?><Types xmlns="content-types"></Types>'
    document = (
        b"<w:document><w:body>"
        + b"<w:p>A line of a letter.</w:p>" * 900
        + noise(9000).hex().encode()
    )
    return _zip(
        {
            "[Content_Types].xml": content_types,
            "_rels/.rels": b"<x/>",
            "word/document.xml": document,
        }
    )


def _mp3() -> bytes:
    tag = b"ID3\x03\0\0\0\0\0\x17" + b"TIT2\0\0\0\x0d\0\0\0A short song"
    frame = b"\xff\xfb\x90\x00"
    return tag + b"".join(frame + noise(413, i).replace(b"\xff", b"\0") for i in range(80))


def _elf() -> bytes:
    return Path(sys.executable).resolve().read_bytes()[:300_000]
