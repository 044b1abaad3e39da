"""Compiled patterns inside torch on a GPU: caches, torch.compile, autocast, custom ops, streams."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attncomp

pytestmark = pytest.mark.gpu

PATTERN = "sparsek(k=64, lag=32) | window(32)"
COMPILED = attncomp.compile(PATTERN)
HEADS, KV_HEADS, GROUPS, HEAD_DIM = 8, 2, 2, 64


def make_inputs(
    n_queries: int,
    n_keys: int | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    batch: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and scores on the GPU, all with gradients."""
    n_keys = n_queries if n_keys is None else n_keys

    def normal(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*size, dtype=dtype, device="cuda").requires_grad_()

    return (
        normal(batch, HEADS, n_queries, HEAD_DIM),
        normal(batch, KV_HEADS, n_keys, HEAD_DIM),
        normal(batch, KV_HEADS, n_keys, HEAD_DIM),
        normal(batch, GROUPS, n_keys, dtype=torch.float32),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> Tensor:
    return COMPILED(q, k, v, scores=scores)


def step(function: Any, inputs: tuple[Tensor, ...], dout: Tensor) -> tuple[Tensor, ...]:
    out = function(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, dout)


def gradient_for(inputs: tuple[Tensor, ...]) -> Tensor:
    return torch.randn_like(inputs[0]).detach()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that Triton compiles or loads from its disk cache from now on."""
    names: list[str] = []

    def note(*, fn: Any, **_: object) -> None:
        names.append(fn.name)

    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", note)
    return names


def generated() -> set[str]:
    return {name for name in sys.modules if name.startswith("attncomp_generated_")}


def test_a_first_call_compiles_side_by_side(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads: set[str] = set()

    def note(*, cache_hit: bool, **_: object) -> None:
        assert not cache_hit
        threads.add(threading.current_thread().name)

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(triton.knobs.compilation, "listener", note)
    compiled = attncomp.compile("sparsek(k=61, lag=29) | window(31)")
    inputs = make_inputs(777)
    step(lambda q, k, v, s: compiled(q, k, v, scores=s), inputs, gradient_for(inputs))
    assert len(threads) > 1
    assert all(name.startswith("attncomp-compile") for name in threads)


def test_new_lengths_compile_nothing(compilations: list[str]) -> None:
    def run(*lengths: int, batch: int = 1) -> None:
        inputs = make_inputs(*lengths, batch=batch)
        step(attend, inputs, gradient_for(inputs))

    run(1000)
    modules = generated()
    compilations.clear()
    for lengths in ((1001,), (1024,), (600,), (777,), (513, 1000), (1, 900), (1500, 900)):
        run(*lengths)
    run(800, batch=3)
    run(5000)
    assert compilations == []
    assert generated() == modules


def test_other_strides_compile_at_most_once_more(compilations: list[str]) -> None:
    """Strides count only as aligned or not."""
    plain = make_inputs(1000)
    step(attend, plain, gradient_for(plain))

    def odd(pad: int) -> None:
        inputs = [torch.nn.functional.pad(x.detach(), (0, pad))[..., :-pad] for x in plain[:3]]
        leaves = (*(x.requires_grad_() for x in inputs), plain[3])
        step(attend, leaves, gradient_for(plain))

    odd(1)
    compilations.clear()
    odd(3)
    odd(5)
    for x in plain[:3]:
        x.data = x.data.transpose(1, 2).contiguous().transpose(1, 2)
    step(attend, plain, gradient_for(plain))
    assert compilations == []


# What inductor has to say about float32 products, of which there are none here.
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_torch_compile_of_forward_and_backward() -> None:
    def layer(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> Tensor:
        return attend(q * 2, k, v, scores - 1).relu()

    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True)
    for length in (1000, 1001, 777):
        inputs = make_inputs(length)
        dout = gradient_for(inputs)
        for found, wanted in zip(
            step(compiled, inputs, dout), step(layer, inputs, dout), strict=True
        ):
            assert torch.allclose(found, wanted, rtol=1e-2, atol=1e-2)


def test_autocast() -> None:
    """Float32 inputs are cast, so are their gradients back; a surrounding cast changes nothing."""
    inputs = make_inputs(500, dtype=torch.float32)
    halves = (*(x.detach().bfloat16().requires_grad_() for x in inputs[:3]), inputs[3])
    dout = gradient_for(halves)

    def cast(*tensors: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return attend(*tensors)

    found, wanted = step(cast, inputs, dout), step(attend, halves, dout)
    assert found[0].dtype == torch.bfloat16
    assert [x.dtype for x in found[1:]] == [torch.float32] * 4
    for x, y in zip(found, wanted, strict=True):
        assert torch.equal(x, y.to(x.dtype))


class Recorder(TorchDispatchMode):
    """Keeps the arguments of every call of an op of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "attncomp":
            self.calls[func._schema.name.split("::")[1]] = func, args
        return func(*args, **(kwargs or {}))


def leaf(argument: Any, *, gradient: bool) -> Any:
    """Tensors as leaves, floating ones with or without a gradient, in lists too."""
    if isinstance(argument, (list, tuple)):
        return [leaf(member, gradient=gradient) for member in argument]
    if isinstance(argument, Tensor):
        return argument.detach().requires_grad_(gradient and argument.is_floating_point())
    return argument


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_opcheck() -> None:
    inputs = make_inputs(90, 100)
    with Recorder() as recorder:
        out, lse = COMPILED(*inputs[:3], scores=inputs[3], return_lse=True)
        torch.autograd.grad([out, lse], inputs, [torch.randn_like(out), torch.randn_like(lse)])
    assert set(recorder.calls) == {"select", "attend", "attend_backward"}
    for name, (op, args) in recorder.calls.items():
        # q, k, v and scores of `attend` have gradients; there are no second ones.
        leaves = [leaf(x, gradient=name == "attend" and i < 4) for i, x in enumerate(args)]
        torch.library.opcheck(op, tuple(leaves))


@pytest.fixture
def synchronizing_fails() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def warm() -> tuple[tuple[Tensor, ...], Tensor]:
    """Inputs, and the gradient of out, of a call that has been made before."""
    inputs = make_inputs(1000)
    dout = gradient_for(inputs)
    step(attend, inputs, dout)
    torch.cuda.synchronize()
    return inputs, dout


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_warm_calls_never_wait_for_the_gpu(
    warm: tuple[tuple[Tensor, ...], Tensor], synchronizing_fails: None
) -> None:
    step(attend, *warm)


def test_streams(warm: tuple[tuple[Tensor, ...], Tensor]) -> None:
    """Kernels run on the current stream, which is not the default one."""
    wanted = step(attend, *warm)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        found = step(attend, *warm)
        torch.cuda.current_stream().synchronize()
    for x, y in zip(found, wanted, strict=True):
        assert torch.equal(x, y)


GRAPHED = {
    "window(32)": (),
    PATTERN: ("scores",),
    "documents & causal | first(4)": ("documents",),
}


def graph_inputs(spec: str) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """What wants gradients, q, k and v first, and the tensors that a pattern takes by name."""
    q, k, v, scores = make_inputs(1000)
    if "scores" in GRAPHED[spec]:
        return (q, k, v, scores), {"scores": scores}
    if "documents" in GRAPHED[spec]:
        starts = torch.rand(1, 1000, device="cuda") < 0.01
        return (q, k, v), {"documents": starts.int().cumsum(-1)}
    return (q, k, v), {}


# The call that the replay is compared with runs on another stream than the leaves' first one.
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream does not match:UserWarning")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("spec", GRAPHED)
def test_cuda_graphs(spec: str, backward: bool) -> None:
    """A captured call, or a call and its gradients, serves other contents of its inputs."""
    pattern = attncomp.compile(spec)
    leaves, given = graph_inputs(spec)
    dout = gradient_for(leaves)

    def run() -> tuple[Tensor, ...]:
        out = pattern(*leaves[:3], **given)
        return (out, *torch.autograd.grad(out, leaves, dout)) if backward else (out,)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.set_grad_enabled(backward):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.set_grad_enabled(backward), torch.cuda.graph(graph):
        captured = run()
    for _ in range(2):
        fresh, fresh_given = graph_inputs(spec)
        with torch.no_grad():
            for old, new in zip(leaves, fresh, strict=True):
                old.copy_(new)
            dout.normal_()
            if "documents" in given:
                given["documents"].copy_(fresh_given["documents"])
        for result in captured:
            result.detach().fill_(torch.nan)
        graph.replay()
        found = [result.detach().clone() for result in captured]
        for one, other in zip(found, run(), strict=True):
            assert torch.equal(one, other.detach())
