"""window(16)

Triton kernels for cpu: float32, head_dim 64, value_dim 64,
2 of the 2 query heads that read the same keys in one tile.

Sweep 0: `window: 0 <= q - k < 16`, <spec>:1:1-11

Symbols
    B, Hq, Hk, G    batch, query heads, KV heads, score groups
    Nq, Nk          queries and keys; query i stands at position i + Nk - Nq
    unit            consecutive query heads that share a KV head and a score group
    rows            the rows of a tile: PACKED heads by QUERIES positions
    x               logit in units of log 2;  weight = exp2(x - row_max)
    time_i          clock of selection i: position - lag; key j is in for j <= time_i < evict_i[j]
    m_i             its gate: clip((key_score - row_theta) + row_gap, 0, 1), row_gap = theta - tau
"""

import torch
import triton
import triton.language as tl

from attncomp.runtime import launch

HEAD_DIM = tl.constexpr(64)
VALUE_DIM = tl.constexpr(64)
BLOCK_HEAD_DIM = tl.constexpr(64)
BLOCK_VALUE_DIM = tl.constexpr(64)
UNIT_HEADS = tl.constexpr(2)
PACKED = tl.constexpr(2)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
SIZES = [  # integers that take any value without a compilation of their own
    "n_queries", "n_keys", "n_units", "n_kv_heads", "n_tiles", "n_segments", "n_blocks",
    "heads_per_kv", "blocks", "n_best", "groups", "capacity", "n_children", "n_parents",
    "child_capacity", "parent_capacity", "first_time", "span", "children_each", "near", "far",
    "first_key", "end_key", "q_batch", "q_head", "q_row", "k_batch", "k_head", "k_row", "v_batch",
    "v_head", "v_row",
]


@triton.jit
def of_rows(x):
    """What [queries, keys] says for all heads, for each of a tile's rows [PACKED * queries, keys]."""
    queries: tl.constexpr = x.shape[0]
    keys: tl.constexpr = x.shape[1]
    x = tl.reshape(x, [1, queries // 8, 1, 8, keys])
    x = tl.broadcast_to(x, [PACKED // 2, queries // 8, 2, 8, keys])
    return tl.reshape(x, [PACKED * queries, keys])


def select(scores, n_queries):
    """The pattern has no selection, hence no state."""
    return ()


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    q, k, v, out, lse,
    scale_log2, n_queries, n_keys, n_units, heads_per_kv, blocks,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):
    """One tile of queries against every sweep: softmax over the union, in one pass."""
    QUERIES: tl.constexpr = 16
    KEYS: tl.constexpr = 16
    n_tiles = tl.cdiv(n_queries, QUERIES)
    tile = n_tiles - 1 - tl.program_id(0) // blocks  # the longest key ranges start first
    heads = n_units * UNIT_HEADS
    head = (tl.program_id(0) % blocks) * PACKED
    batch = (head // heads).to(tl.int64)
    head = (head % heads).to(tl.int64)
    kv_head = head // heads_per_kv
    row = tl.arange(0, PACKED * QUERIES)
    # two heads alternate every 8 rows: a thread's rows are 8 apart, so that they share a query
    row_head = row // (2 * QUERIES) * 2 + row // 8 % 2
    query = tile * QUERIES + row % (2 * QUERIES) // 16 * 8 + row % 8
    valid = query < n_queries
    offset = n_keys - n_queries
    position = query + offset
    shared_query = tile * QUERIES + tl.arange(0, QUERIES)  # each query once, for all heads
    shared_valid = shared_query < n_queries
    shared_position = shared_query + offset
    first = tile * QUERIES + offset
    last = tl.minimum(tile * QUERIES + QUERIES, n_queries) - 1 + offset
    key_column = tl.arange(0, KEYS)
    head_column = tl.arange(0, BLOCK_HEAD_DIM)
    value_column = tl.arange(0, BLOCK_VALUE_DIM)
    q_base = q + batch * q_batch * ALIGN
    q_offsets = (head + row_head) * q_head * ALIGN + query.to(tl.int64) * q_row * ALIGN
    q_tile = tl.load(  # [rows, head_dim]
        q_base + q_offsets[:, None] + head_column[None, :],
        mask=valid[:, None],
        other=0.0,
    )
    k_base = k + batch * k_batch * ALIGN + kv_head * k_head * ALIGN
    v_base = v + batch * v_batch * ALIGN + kv_head * v_head * ALIGN

    row_max = tl.full([PACKED * QUERIES], float("-inf"), tl.float32)
    row_sum = tl.zeros([PACKED * QUERIES], tl.float32)
    accumulator = tl.zeros([PACKED * QUERIES, BLOCK_VALUE_DIM], tl.float32)
    # `window: 0 <= q - k < 16`, <spec>:1:1-11
    lower = tl.maximum(0, first - 15)
    upper = tl.minimum(n_keys, last + 1)
    for start in tl.range(lower, upper, KEYS):
        key = start + key_column
        key_valid = key < upper
        row_offsets = key.to(tl.int64)
        k_tile = tl.load(  # [head_dim, keys]
            k_base + (row_offsets * k_row * ALIGN)[None, :] + head_column[:, None],
            mask=key_valid[None, :],
            other=0.0,
        )
        v_tile = tl.load(  # [keys, value_dim]
            v_base + (row_offsets * v_row * ALIGN)[:, None] + value_column[None, :],
            mask=key_valid[:, None],
            other=0.0,
        )
        product = tl.dot(q_tile, k_tile, input_precision=PRECISION)
        distance = shared_position[:, None] - key[None, :]
        mask = key_valid[None, :]
        mask = of_rows(mask & ((distance >= 0) & (distance < 16)))
        x = product * scale_log2
        x = tl.where(mask, x, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(x, axis=1))
        pivot = tl.where(new_max == float("-inf"), 0.0, new_max)
        weight = tl.exp2(x - pivot[:, None])
        rescale = tl.exp2(row_max - pivot)
        row_sum = row_sum * rescale + tl.sum(weight, axis=1)
        accumulator = accumulator * rescale[:, None]
        weight = weight.to(v_tile.dtype)
        accumulator = tl.dot(weight, v_tile, accumulator, input_precision=PRECISION)
        row_max = new_max

    empty = row_sum == 0.0
    row_sum = tl.where(empty, 1.0, row_sum)
    result = accumulator / row_sum[:, None]
    logsumexp = tl.where(empty, float("-inf"), (row_max + tl.log2(row_sum)) * LN_2)
    o_rows = (batch * heads + head + row_head) * n_queries + query
    tl.store(lse + o_rows, logsumexp, mask=valid)
    tl.store(
        out + o_rows[:, None] * VALUE_DIM + value_column[None, :],
        result.to(out.dtype.element_ty),
        mask=valid[:, None],
    )


def forward(q, k, v, state, scale):
    """Attention of q [B, Hq, Nq, D] to k [B, Hk, Nk, D], v [B, Hk, Nk, Dv].

    Returns out [B, Hq, Nq, Dv] of q's dtype and lse [B, Hq, Nq] in float32.
    """
    batch, heads, n_queries, _ = q.shape
    n_keys = k.shape[2]
    out = torch.empty((batch, heads, n_queries, 64), dtype=q.dtype, device=q.device)
    lse = torch.empty((batch, heads, n_queries), dtype=torch.float32, device=q.device)
    align = launch.alignment(q, k, v)
    blocks = batch * (heads // 2)
    forward_kernel[(launch.tiles(n_queries, 16) * blocks,)](
        q, k, v, out, lse,
        scale * 1.4426950408889634, n_queries, n_keys, heads // 2, heads // k.shape[1], blocks,
        *launch.strides(q, align), *launch.strides(k, align), *launch.strides(v, align),
        ALIGN=align, PRECISION=launch.precision(q),
        num_warps=4, num_stages=2, enable_fp_fusion=True,
    )
    return out, lse


@triton.jit(do_not_specialize=SIZES)
def backward_query_kernel(
    q, k, v, out, lse, dout, dlse, dq, lse_log2, row_deltas,
    scale, scale_log2, n_queries, n_keys, n_units, heads_per_kv, blocks,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    ALIGN: tl.constexpr, PRECISION: tl.constexpr, HAS_DLSE: tl.constexpr,
):
    """dq of one tile of queries, by the forward's sweeps; leaves each row's lse and delta."""
    QUERIES: tl.constexpr = 16
    KEYS: tl.constexpr = 16
    n_tiles = tl.cdiv(n_queries, QUERIES)
    tile = n_tiles - 1 - tl.program_id(0) // blocks  # the longest key ranges start first
    heads = n_units * UNIT_HEADS
    head = (tl.program_id(0) % blocks) * PACKED
    batch = (head // heads).to(tl.int64)
    head = (head % heads).to(tl.int64)
    kv_head = head // heads_per_kv
    row = tl.arange(0, PACKED * QUERIES)
    # two heads alternate every 8 rows: a thread's rows are 8 apart, so that they share a query
    row_head = row // (2 * QUERIES) * 2 + row // 8 % 2
    query = tile * QUERIES + row % (2 * QUERIES) // 16 * 8 + row % 8
    valid = query < n_queries
    offset = n_keys - n_queries
    position = query + offset
    shared_query = tile * QUERIES + tl.arange(0, QUERIES)  # each query once, for all heads
    shared_valid = shared_query < n_queries
    shared_position = shared_query + offset
    first = tile * QUERIES + offset
    last = tl.minimum(tile * QUERIES + QUERIES, n_queries) - 1 + offset
    key_column = tl.arange(0, KEYS)
    head_column = tl.arange(0, BLOCK_HEAD_DIM)
    value_column = tl.arange(0, BLOCK_VALUE_DIM)
    q_base = q + batch * q_batch * ALIGN
    q_offsets = (head + row_head) * q_head * ALIGN + query.to(tl.int64) * q_row * ALIGN
    q_tile = tl.load(  # [rows, head_dim]
        q_base + q_offsets[:, None] + head_column[None, :],
        mask=valid[:, None],
        other=0.0,
    )
    row_index = (batch * heads + head + row_head) * n_queries + query
    value_offsets = row_index[:, None] * VALUE_DIM + value_column[None, :]
    value_mask = valid[:, None]
    dout_tile = tl.load(dout + value_offsets, mask=value_mask, other=0.0)
    out_tile = tl.load(out + value_offsets, mask=value_mask, other=0.0)
    row_delta = tl.sum(dout_tile.to(tl.float32) * out_tile.to(tl.float32), axis=1)
    row_lse = tl.load(lse + row_index, mask=valid, other=float("-inf")) * LOG2_E
    empty = row_lse == float("-inf")
    if HAS_DLSE:
        row_delta -= tl.where(empty, 0.0, tl.load(dlse + row_index, mask=valid, other=0.0))
    row_lse = tl.where(empty, float("inf"), row_lse)  # so that every weight of an empty row is 0
    tl.store(lse_log2 + row_index, row_lse, mask=valid)
    tl.store(row_deltas + row_index, row_delta, mask=valid)
    k_base = k + batch * k_batch * ALIGN + kv_head * k_head * ALIGN
    v_base = v + batch * v_batch * ALIGN + kv_head * v_head * ALIGN

    dq_tile = tl.zeros([PACKED * QUERIES, BLOCK_HEAD_DIM], tl.float32)
    # `window: 0 <= q - k < 16`, <spec>:1:1-11
    lower = tl.maximum(0, first - 15)
    upper = tl.minimum(n_keys, last + 1)
    for start in tl.range(lower, upper, KEYS):
        key = start + key_column
        key_valid = key < upper
        row_offsets = key.to(tl.int64)
        k_tile = tl.load(  # [head_dim, keys]
            k_base + (row_offsets * k_row * ALIGN)[None, :] + head_column[:, None],
            mask=key_valid[None, :],
            other=0.0,
        )
        v_tile = tl.load(  # [value_dim, keys]
            v_base + (row_offsets * v_row * ALIGN)[None, :] + value_column[:, None],
            mask=key_valid[None, :],
            other=0.0,
        )
        product = tl.dot(q_tile, k_tile, input_precision=PRECISION)
        distance = shared_position[:, None] - key[None, :]
        mask = key_valid[None, :]
        mask = of_rows(mask & ((distance >= 0) & (distance < 16)))
        x = product * scale_log2
        weight = tl.exp2(x - row_lse[:, None])
        weight = tl.where(mask, weight, 0.0)
        dp = tl.dot(dout_tile, v_tile, input_precision=PRECISION)
        excess = dp - row_delta[:, None]
        dx = weight * excess
        ds = dx
        dq_tile = tl.dot(ds.to(k_tile.dtype), tl.trans(k_tile), dq_tile, input_precision=PRECISION)

    tl.store(
        dq + row_index[:, None] * HEAD_DIM + head_column[None, :],
        (dq_tile * scale).to(dq.dtype.element_ty),
        mask=valid[:, None],
    )


@triton.jit(do_not_specialize=SIZES)
def backward_key_kernel(
    q, k, v, dout, lse_log2, row_deltas, dk, dv,
    scale, scale_log2, n_queries, n_keys, n_units, heads_per_kv, n_tiles, n_kv_heads,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):
    """dk and dv of one tile of keys: its contiguous sweeps, then what the gathered ones left."""
    QUERIES: tl.constexpr = 16
    KEYS: tl.constexpr = 16
    tile = tl.program_id(0) % n_tiles
    kv_head = ((tl.program_id(0) // n_tiles) % n_kv_heads).to(tl.int64)
    batch = (tl.program_id(0) // n_tiles // n_kv_heads).to(tl.int64)
    heads = n_units * UNIT_HEADS
    offset = n_keys - n_queries
    key = tile * KEYS + tl.arange(0, KEYS)
    key_valid = key < n_keys
    first = tile * KEYS
    last = tl.minimum(tile * KEYS + KEYS, n_keys) - 1
    head_column = tl.arange(0, BLOCK_HEAD_DIM)
    value_column = tl.arange(0, BLOCK_VALUE_DIM)
    dk_tile = tl.zeros([KEYS, BLOCK_HEAD_DIM], tl.float32)
    dv_tile = tl.zeros([KEYS, BLOCK_VALUE_DIM], tl.float32)
    # a step's addresses: a scalar for its first query, and these for the queries from there
    lanes = tl.arange(0, QUERIES)
    q_lanes = lanes.to(tl.int64) * q_row * ALIGN
    q_base = q + batch * q_batch * ALIGN
    k_base = k + batch * k_batch * ALIGN + kv_head * k_head * ALIGN
    v_base = v + batch * v_batch * ALIGN + kv_head * v_head * ALIGN
    k_tile = tl.load(  # [keys, head_dim]
        k_base + (key.to(tl.int64) * k_row * ALIGN)[:, None] + head_column[None, :],
        mask=key_valid[:, None],
        other=0.0,
    )
    v_tile = tl.load(  # [keys, value_dim]
        v_base + (key.to(tl.int64) * v_row * ALIGN)[:, None] + value_column[None, :],
        mask=key_valid[:, None],
        other=0.0,
    )
    # `window: 0 <= q - k < 16`, <spec>:1:1-11
    lower = tl.maximum(first - offset, 0)
    upper = tl.minimum(last + 16 - offset, n_queries)
    for step in tl.range(0, tl.maximum(tl.cdiv(upper - lower, QUERIES), 0) * heads_per_kv):
        head = kv_head * heads_per_kv + step % heads_per_kv
        step_head = head
        start = lower + step // heads_per_kv * QUERIES
        query = start + lanes
        q_start = q_base + head * q_head * ALIGN + start.to(tl.int64) * q_row * ALIGN
        first_row = (batch * heads + head) * n_queries + start
        valid = query < n_queries
        position = query + offset
        shared_valid, shared_position = valid, position
        q_tile = tl.load(  # [queries, head_dim]
            q_start + q_lanes[:, None] + head_column[None, :],
            mask=valid[:, None],
            other=0.0,
        )
        dout_tile = tl.load(  # [queries, value_dim]
            dout + first_row * VALUE_DIM + (lanes * VALUE_DIM)[:, None] + value_column[None, :],
            mask=valid[:, None],
            other=0.0,
        )
        row_lse = tl.load(lse_log2 + first_row + lanes, mask=valid, other=float("inf"))
        row_delta = tl.load(row_deltas + first_row + lanes, mask=valid, other=0.0)
        product = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION)
        distance = shared_position[None, :] - key[:, None]
        mask = key_valid[:, None]
        mask = mask & ((distance >= 0) & (distance < 16))
        x = product * scale_log2
        weight = tl.exp2(x - row_lse[None, :])
        weight = tl.where(mask, weight, 0.0)
        value_weight = weight.to(dout_tile.dtype)
        dv_tile = tl.dot(value_weight, dout_tile, dv_tile, input_precision=PRECISION)
        dp = tl.dot(v_tile, tl.trans(dout_tile), input_precision=PRECISION)
        excess = dp - row_delta[None, :]
        dx = weight * excess
        ds = dx
        dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)

    row_index = (batch * n_kv_heads + kv_head) * n_keys + key
    tl.store(
        dk + row_index[:, None] * HEAD_DIM + head_column[None, :],
        (dk_tile * scale).to(dk.dtype.element_ty),
        mask=key_valid[:, None] & (head_column[None, :] < HEAD_DIM),
    )
    tl.store(
        dv + row_index[:, None] * VALUE_DIM + value_column[None, :],
        dv_tile.to(dv.dtype.element_ty),
        mask=key_valid[:, None] & (value_column[None, :] < VALUE_DIM),
    )


def backward(dout, dlse, q, k, v, out, lse, state, scale):
    """Gradients of `forward`: dq, dk, dv.

    dout [B, Hq, Nq, Dv] and dlse [B, Hq, Nq] (or None) are the gradients of out and lse.
    """
    batch, heads, n_queries, _ = q.shape
    n_kv_heads, n_keys = k.shape[1:3]
    n_units, heads_per_kv = heads // 2, heads // n_kv_heads
    dout = dout.contiguous()
    dlse = None if dlse is None else dlse.contiguous()
    scale_log2 = scale * 1.4426950408889634
    align = launch.alignment(q, k, v)
    strides = (*launch.strides(q, align), *launch.strides(k, align), *launch.strides(v, align))
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    lse_log2, row_deltas = torch.empty_like(lse), torch.empty_like(lse)
    blocks = batch * (heads // 2)
    backward_query_kernel[(launch.tiles(n_queries, 16) * blocks,)](
        q, k, v, out, lse, dout, lse if dlse is None else dlse, dq, lse_log2, row_deltas,
        scale, scale_log2, n_queries, n_keys, n_units, heads_per_kv, blocks, *strides,
        ALIGN=align, PRECISION=launch.precision(q), HAS_DLSE=dlse is not None,
        num_warps=4, num_stages=2, enable_fp_fusion=True,
    )
    n_tiles = launch.tiles(n_keys, 16)
    backward_key_kernel[(n_tiles * batch * n_kv_heads,)](
        q, k, v, dout, lse_log2, row_deltas, dk, dv,
        scale, scale_log2, n_queries, n_keys, n_units, heads_per_kv, n_tiles, n_kv_heads, *strides,
        ALIGN=align, PRECISION=launch.precision(q),
        num_warps=4, num_stages=2, enable_fp_fusion=True,
    )
    return dq, dk, dv
