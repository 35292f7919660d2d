"""The code: any k of n cells give the k back, and ISA-L computes exactly what zfec defines."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.coding import erasure
from aggfs.coding.erasure import Coder, IsalCoder, ZfecCoder, fastest_coder

CODERS = [ZfecCoder(), fastest_coder()]


def cells_of(coder: Coder, primaries: list[bytes], n: int) -> list[bytes]:
    k = len(primaries)
    parity = [bytearray(len(primaries[0])) for _ in range(k, n)]
    coder.encode(primaries, range(k, n), [memoryview(cell) for cell in parity])
    return [*primaries, *(bytes(cell) for cell in parity)]


def primaries_from(coder: Coder, k: int, given_cells: dict[int, bytes]) -> list[bytes]:
    length = len(next(iter(given_cells.values())))
    wanted = [index for index in range(k) if index not in given_cells]
    out = [bytearray(length) for _ in wanted]
    coder.decode(k, given_cells, wanted, [memoryview(cell) for cell in out])
    found = given_cells | {i: bytes(cell) for i, cell in zip(wanted, out, strict=True)}
    return [found[index] for index in range(k)]


def test_isal_is_used_here() -> None:
    if not isinstance(fastest_coder(), IsalCoder):
        pytest.skip("libisal2 is not installed: zfec alone is tested")
    assert fastest_coder().name == "isa-l"


@st.composite
def codes(draw: st.DrawFn) -> tuple[int, int, int, random.Random]:
    k = draw(st.integers(1, 16))
    n = draw(st.integers(k, 32))
    return k, n, draw(st.sampled_from([16, 32, 48, 80, 1024, 4112])), draw(st.randoms())


@given(codes())
def test_any_k_of_n_cells_give_the_block_back(code: tuple[int, int, int, random.Random]) -> None:
    k, n, length, chance = code
    primaries = [chance.randbytes(length) for _ in range(k)]
    made = [cells_of(coder, primaries, n) for coder in CODERS]
    assert made[0] == made[1]
    chosen = chance.sample(range(n), k)
    for coder in CODERS:
        assert primaries_from(coder, k, {i: made[0][i] for i in chosen}) == primaries


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_a_cell_does_not_depend_on_how_many_there_are(k: int) -> None:
    primaries = [bytes([j + 1]) * 16 for j in range(k)]
    many = cells_of(ZfecCoder(), primaries, 32)
    assert cells_of(ZfecCoder(), primaries, k + 2) == many[: k + 2]


@settings(max_examples=30)
@given(st.integers(1, 10), st.randoms())
def test_matrices_are_inverse_to_each_other(k: int, chance: random.Random) -> None:
    given_rows = chance.sample(range(14), k)
    inverse = erasure.decode_rows(given_rows, range(k))
    primaries = [chance.randbytes(16) for _ in range(k)]
    cells = cells_of(ZfecCoder(), primaries, 14)
    assert len(inverse) == k
    assert erasure.encode_rows(k, range(k)) == [
        bytes(int(i == j) for j in range(k)) for i in range(k)
    ]
    assert primaries_from(ZfecCoder(), k, {i: cells[i] for i in given_rows}) == primaries


def test_cells_of_unequal_length_are_refused() -> None:
    out = [memoryview(bytearray(16))]
    for coder in CODERS:
        with pytest.raises(ValueError, match="length"):
            coder.encode([bytes(16), bytes(32)], [2], out)


class Liar(ZfecCoder):
    """Computes nearly the code."""

    def encode(self, primaries, indices, out) -> None:
        super().encode(primaries, indices, out)
        out[-1][0] ^= 1


def test_a_library_that_computes_something_else_is_not_trusted() -> None:
    assert erasure.agrees(fastest_coder(), ZfecCoder())
    assert not erasure.agrees(Liar(), ZfecCoder())


def test_cells_may_lie_anywhere_in_larger_buffers() -> None:
    whole = bytearray(range(256)) * 4
    views = [memoryview(whole)[at : at + 48] for at in (5, 201, 777)]
    room = bytearray(200)
    for coder in CODERS:
        coder.encode(views, [3, 4], [memoryview(room)[3:51], memoryview(room)[101:149]])
        expected = cells_of(ZfecCoder(), [bytes(view) for view in views], 5)
        assert room[3:51] == expected[3]
        assert room[101:149] == expected[4]
