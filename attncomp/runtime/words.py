"""Lists of blocks as words of bits, for tables that are given at the call.

A table of T x T blocks may list any number of them, so that lists of their numbers have to have
room for T * T: 1 GiB at a million positions in blocks of 64. Words of 64 bits have room for 48
blocks each, and take 43 MiB. The lower 48 bits say which of the blocks `48 * i` to `48 * i + 47`
are listed, the bits above are i. The words of a row that list any block come first, ascending; the
others have no bits and the greatest i. Shapes follow from sizes alone.

All is done for some rows at a time, in memory that is small beside the words.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

BITS: Final = 48  # of a word that list blocks; T below 2^15 times that leaves the sign alone
_LISTED: Final = (1 << BITS) - 1
_NOTHING: Final = ((1 << 15) - 1) << BITS
_CHUNK: Final = 4 << 20  # entries of the table at a time, or _ROWS rows of it
_ROWS: Final = 48  # a multiple of BITS
# Little-endian: times the first, the highest byte has the lowest bit of each of the eight bytes;
# the second repeats a byte, and the third keeps one bit of it in each.
_GATHER: Final = 0x0102040810204080
_REPEAT: Final = 0x0101010101010101
_SCATTER: Final = 0x8040201008040201 - (1 << 64)

_library = torch.library.Library("attncomp", "FRAGMENT")
_library.define(
    "list_words(Tensor table, Tensor lower, Tensor upper) -> (Tensor spans, Tensor words)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def words_a_row(n_blocks: int) -> int:
    """How many words have room for a row of blocks."""
    return (n_blocks + BITS - 1) // BITS


def list_words(table: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks of keys that a table lists for each block of queries.

    Takes the table [B', H', T, T], of integers or bool, and the first and last + 1 of the blocks of
    keys that count for each block of queries, [T] int32. Gives spans [B', H', T, 2] int32, the
    place of each row's first word, and that plus the number of blocks in the row, and the words
    [B', H', T * ceil(T / 48)] int64.

    An operation of its own: torch.compile would unroll its loop for each length.
    """
    spans, words = _list_words_op(table, lower, upper)
    return spans, words


_list_words_op = torch.ops.attncomp.list_words.default


@torch.library.register_fake("attncomp::list_words", lib=_library)
def _fake_list_words(table: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    rows, heads, n_blocks, _ = table.shape
    words = table.new_empty((rows, heads, n_blocks * words_a_row(n_blocks)), dtype=torch.int64)
    return table.new_empty((rows, heads, n_blocks, 2), dtype=torch.int32), words


def _list_words(table: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    rows, heads, n_blocks, _ = table.shape
    width = words_a_row(n_blocks)
    words = table.new_empty((rows, heads, n_blocks, width), dtype=torch.int64)
    count = table.new_empty((rows, heads, n_blocks), dtype=torch.int32)
    block = torch.arange(n_blocks, dtype=torch.int32, device=table.device)
    chunk = max(_ROWS, _CHUNK // max(1, rows * heads * width * BITS))
    for start in range(0, n_blocks, chunk):
        part = slice(start, min(start + chunk, n_blocks))
        size = (rows, heads, part.stop - start, width * BITS)
        listed = torch.zeros(size, dtype=torch.bool, device=table.device)
        inner = listed[..., :n_blocks].copy_(table[:, :, part])  # true for all but 0
        inner &= block >= lower[part, None]
        inner &= block < upper[part, None]
        count[:, :, part] = _counts(listed)
        words[:, :, part] = _compact(_packed(listed))
    return _spans(count, width), words.flatten(2)


_library.impl("list_words", _list_words, "CompositeExplicitAutograd")


def transposed_words(spans: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """For each block of keys the blocks of queries that list it, as `list_words` has them."""
    rows, heads, n_blocks, _ = spans.shape
    width = words_a_row(n_blocks)
    words = words.unflatten(2, (n_blocks, width))
    result = torch.empty_like(words)
    count = torch.zeros((rows, heads, n_blocks), dtype=torch.int32, device=words.device)
    chunk = max(_ROWS, _CHUNK // max(1, rows * heads * width * BITS) // BITS * BITS)
    for start in range(0, n_blocks, chunk):
        listed = unpacked(words[:, :, start : start + chunk])[..., :n_blocks].mT
        listed = torch.nn.functional.pad(listed, (0, -listed.shape[-1] % BITS)).contiguous()
        count += _counts(listed)
        packed = _packed(listed)
        result[..., start // BITS : start // BITS + packed.shape[-1]] = packed
    for start in range(0, n_blocks, chunk):
        part = slice(start, start + chunk)
        result[:, :, part] = _compact(result[:, :, part])
    return _spans(count, width), result.flatten(2)


def unpacked(words: Tensor) -> Tensor:
    """Whether rows of words [..., W] list each block, [..., 48 * W]."""
    width = words.shape[-1]
    place = (words >> BITS).clamp_(max=width)  # of words without a block: a column that is cut off
    bits = words.new_zeros((*words.shape[:-1], width + 1))
    bits = bits.scatter_(-1, place, words & _LISTED)[..., :width]
    octets = (bits.unsqueeze(-1) >> _octet(words.device)).bitwise_and_(255).flatten(-2)
    return octets.mul_(_REPEAT).bitwise_and_(_SCATTER).view(torch.uint8) != 0


def listed_blocks(words: Tensor) -> Tensor:
    """The blocks [..., 48 * W] int32 that rows of words [..., W] list, ascending; others behind."""
    bit = torch.arange(BITS, device=words.device)
    words = words.unsqueeze(-1)
    block = (words >> BITS) * BITS + bit
    listed = (words >> bit).bitwise_and_(1) == 1
    block = torch.where(listed, block, torch.iinfo(torch.int32).max).int()
    return block.flatten(-2).sort(dim=-1).values


def _counts(listed: Tensor) -> Tensor:
    """How many of each row [..., 48 * W] are true; a sum of bool would copy them to int64."""
    return (listed.view(torch.int64) * _REPEAT).bitwise_right_shift_(56).sum(-1)


def _packed(listed: Tensor) -> Tensor:
    """Rows of bits [..., 48 * W] as [..., W] int64, each bit at its place; overwrites the rows."""
    octets = listed.view(torch.int64)  # [..., 6 * W], a byte each once its bits are gathered
    octets.mul_(_GATHER).bitwise_right_shift_(56).bitwise_and_(255)
    octets = octets.unflatten(-1, (-1, BITS // 8)).bitwise_left_shift_(_octet(listed.device))
    return octets.sum(-1)


def _octet(device: torch.device) -> Tensor:
    """Where the bytes of a word that list blocks begin."""
    return torch.arange(0, BITS, 8, device=device)


def _compact(bits: Tensor) -> Tensor:
    """Words of rows of bits [..., W], those that list any block first."""
    index = torch.arange(0, bits.shape[-1] << BITS, 1 << BITS, device=bits.device)
    return (bits | index).masked_fill_(bits == 0, _NOTHING).sort(dim=-1).values


def _spans(count: Tensor, width: int) -> Tensor:
    end = count.shape[-1] * width
    begin = torch.arange(0, end, width, dtype=torch.int32, device=count.device)
    return torch.stack([begin.expand_as(count), begin + count], -1)
