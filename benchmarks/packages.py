"""Peers that are packages of their own, imported when they are prepared."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace

import torch
from peers import Case, Parts, Steps, leaf
from torch import Tensor
from workloads import CAUSAL, TOP_BLOCKS, WINDOWS, Inputs, Workload, chosen_blocks

# The modules of flash_attn_func.
SEVERAL = {"flash-attn": "flash_attn", "FlashAttention-4": "flash_attn.cute"}


def missing(module: str) -> str | None:
    """Why a package cannot be imported; None where it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken install fails in ways of its own
        return f"not installed: {error}"
    return None


def _positions_first(tensor: Tensor) -> Tensor:
    """The same [B, H, N, D] with memory in the order [B, N, H, D], which these packages read."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def _steps(given: Inputs, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Steps:
    """Steps of a function of q, k, v [B, N, H, D] that gives out in that layout."""
    leaves = {
        name: leaf(_positions_first(tensor))
        for name, tensor in (("q", given.q), ("k", given.k), ("v", given.v))
    }

    def call() -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in leaves.values())
        return attend(q, k, v).transpose(1, 2)

    return Steps(call, leaves, _positions_first(given.dout))


def flash_case(package: str, workload: Workload, window: int | None = None) -> Case:
    """flash_attn_func of flash-attn, or of FlashAttention-4 in its package: causal or a window."""

    def prepare(given: Inputs) -> Steps:
        function = importlib.import_module(SEVERAL[package]).flash_attn_func
        sizes = {} if window is None else {"window_size": (window - 1, 0)}

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            result = function(q, k, v, causal=True, **sizes)
            return result[0] if isinstance(result, tuple) else result  # the other is lse

        return _steps(given, attend)

    quadratic = window is None
    return Case(f"{package} {workload.pattern}", workload, prepare, quadratic, SEVERAL[package])


def nsa_given_case() -> Case:
    """fla's NSA with the blocks of `topk_blocks(16, 64) & causal`, and nothing else of NSA."""

    def prepare(given: Inputs) -> Steps:
        function = importlib.import_module("fla.ops.nsa").parallel_nsa

        def select() -> Tensor:
            """Block indices [B, N, Hk, 16]; places that the past cannot fill hold -1."""
            chosen = chosen_blocks(given.tensors["block_scores"])
            own = torch.arange(chosen.shape[2], device=chosen.device)[:, None]
            chosen = chosen.masked_fill(chosen > own, -1)
            by_query = chosen.repeat_interleave(64, 2)[:, :, : given.setting.length]
            return by_query.transpose(1, 2).contiguous()

        def attend(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor) -> Tensor:
            return function(q, k, v, block_indices=blocks, block_counts=blocks.shape[-1])

        def parts() -> Parts:
            blocks = select()
            return Parts(select, _steps(given, lambda q, k, v: attend(q, k, v, blocks)).call)

        return replace(_steps(given, lambda q, k, v: attend(q, k, v, select())), parts=parts)

    return Case(f"fla NSA {TOP_BLOCKS.pattern}", TOP_BLOCKS, prepare, module="fla.ops.nsa")


def nsa_case() -> Case:
    """fla's NSA as it is: 16 blocks of 64 chosen by the compressed attention, and the sum of both.

    Quadratic in its compressed attention, of one key in 64.
    """

    def prepare(given: Inputs) -> Steps:
        function = importlib.import_module("fla.ops.nsa").parallel_nsa
        gate = given.q.new_ones(given.q.shape[0], given.q.shape[2], given.q.shape[1])

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return function(q, k, v, g_cmp=gate, g_slc=gate, block_counts=16, block_size=64)

        return _steps(given, attend)

    return Case("fla NSA with compression", None, prepare, quadratic=True, module="fla.ops.nsa")


def package_cases() -> list[Case]:
    """flash-attn, FlashAttention-4 and fla's NSA."""
    flash = [
        case
        for package in SEVERAL
        for case in (
            flash_case(package, CAUSAL),
            *(flash_case(package, workload, size) for size, workload in WINDOWS.items()),
        )
    ]
    return [*flash, nsa_given_case(), nsa_case()]
