"""The sizes that docs/formats.md works out are those of the code."""

from pathlib import Path

from aggfs.coding.codec import cell_range, fragment_bytes
from aggfs.formats.header import decode_header
from aggfs.formats.sizes import cell_bytes, sealed_length
from aggfs.formats.table import TableRow, encode_rows, encode_table
from tests.formats.test_golden_stripes import golden

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "formats.md").read_text("utf-8")


def test_the_worked_stripe() -> None:
    full = sealed_length(256 * 1024)
    row = TableRow(bytes(16), bytes(16), bytes(16), b"photo.jpg", 4 << 20, 0, 16)
    table = encode_table([full] * 16, encode_rows([row]))
    sealed = [full] * 16 + [sealed_length(len(table))]
    sizes = {
        "sealed block": full,
        "cell": cell_bytes(full, 3),
        "filler": 3 * cell_bytes(full, 3) - full,
        "table": len(table),
        "sealed table": sealed[-1],
        "table offset": cell_range(sealed, 3, 16)[0],
        "table cell and MAC": cell_range(sealed, 3, 16)[1],
        "fragment": fragment_bytes(sealed, 3),
        "tail": fragment_bytes(sealed, 3) - sum(cell_range(sealed, 3, 16)),
        "all": 5 * fragment_bytes(sealed, 3),
    }
    for what, size in sizes.items():
        assert f" {size}" in DOCUMENT, f"{what}: {size}"


def test_the_worked_header() -> None:
    data = bytes.fromhex(golden("header.json")["object"])
    header = decode_header(data)
    assert f"= {len(header.associated) - 32};" in DOCUMENT
    assert f"sealed {len(header.sealed)};" in DOCUMENT
    assert f"padded to {len(data)}." in DOCUMENT
