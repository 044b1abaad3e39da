"""Calls of a kind seen before, by their records: allocations and launches."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dense import Shape, random_inputs
from launch_support import Launches, addressed_launches, metadata
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from triton_support import OVERFLOWS

import attncomp
from attncomp.runtime import calls, quick_launch, replay
from attncomp.runtime.replay import Record, Records

pytestmark = OVERFLOWS

SHAPE = Shape(
    batch=1, query_heads=2, kv_heads=1, groups=2, n_queries=14, n_keys=17, head_dim=16, value_dim=16
)
SPARSE = "sparsek(k=7, lag=3) | window(5)"
CALLS = (
    ("window(6)", False),
    (SPARSE, False),
    (SPARSE, True),
    ('sparsek(k=5, gate="hard") | first(2)', True),
    ('sparsek(k=3, scores="near") | sparsek(k=4, scores="far")', True),
    ("window(7) with sink", True),
)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Launches]:
    """Parameter: blocks of a cluster."""
    attncomp.api._compile_text.cache_clear()  # what is known of calls, too
    with addressed_launches(monkeypatch, clusters=getattr(request, "param", 1)) as found:
        yield found
    attncomp.api._compile_text.cache_clear()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records that served calls."""
    found: list[Record] = []
    run = Record.run

    def note(record: Record, given: Sequence[Tensor]) -> list[Tensor] | None:
        made = run(record, given)
        if made is not None:
            found.append(record)
        return made

    monkeypatch.setattr(Record, "run", note)
    return found


def drawn(pattern: attncomp.CompiledPattern, generator: torch.Generator) -> dict[str, Any]:
    """Fresh tensors of a call, all with gradients."""
    inputs = random_inputs(SHAPE, generator, dtype=torch.float32)
    tensors = {"q": inputs.q, "k": inputs.k, "v": inputs.v}
    for name in pattern.tensors:
        size = (2,) if name == "sink" else (1, 2, 17)
        tensors[name] = torch.randn(size, generator=generator)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


class Watched(TorchDispatchMode):
    """Makes calls go the long way."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def results(
    pattern: attncomp.CompiledPattern, given: dict[str, Any], dout: Tensor | None
) -> list[Tensor]:
    """out and lse, and the gradients for dout, if any."""
    if dout is None:
        with torch.no_grad():
            return list(pattern(**given, return_lse=True))
    out, lse = pattern(**given, return_lse=True)
    return [out, lse, *torch.autograd.grad(out, list(given.values()), dout, allow_unused=True)]


@pytest.mark.parametrize(
    ("spec", "backward", "launches"),
    [*[(*call, 1) for call in CALLS], (SPARSE, True, 2)],
    indirect=["launches"],
)
def test_records_change_nothing(
    spec: str,
    backward: bool,
    launches: Launches,
    used: list[Record],
    generator: torch.Generator,
) -> None:
    """Of forward from the third call on, of backward from the fourth on, with some exceptions."""
    pattern = attncomp.compile(spec, backend="triton")
    both = backward and "sink" not in spec
    for served in (0, 0, 1, 2 + both):
        given = drawn(pattern, generator)
        dout = torch.randn(given["q"].shape, generator=generator) if backward else None
        found = results(pattern, given, dout)
        assert len(used) == served
    assert bool(launches.driven) == (launches.clusters == 1)
    with Watched():
        wanted = results(pattern, given, dout)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def known(spec: str, generator: torch.Generator) -> tuple[attncomp.CompiledPattern, dict[str, Any]]:
    """A pattern with calls of the kind of these tensors on record, without gradients."""
    pattern = attncomp.compile(spec, backend="triton")
    given = {name: tensor.detach() for name, tensor in drawn(pattern, generator).items()}
    for _ in range(2):
        pattern(**given)
    return pattern, given


@pytest.mark.parametrize(("spec", "count"), [("window(6)", 2), (SPARSE, 3)])
def test_a_call_allocates_its_results_and_one_buffer(
    spec: str,
    count: int,
    launches: Launches,
    used: list[Record],
    generator: torch.Generator,
) -> None:
    pattern, given = known(spec, generator)
    launches.idle = True
    pattern(**given)
    assert len(used[0].made) == count


@pytest.mark.parametrize(("limit", "served"), [(34, 1), (33, 0)])
def test_many_scores_leave_no_record(
    limit: int,
    served: int,
    launches: Launches,
    used: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    monkeypatch.setattr(calls, "_RECORDED", limit)
    pattern, given = known(SPARSE, generator)
    pattern(**given)
    assert len(used) == served


def calls_of(run: Callable[[], object]) -> int:
    """How many functions, those of C included, a run calls."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def test_a_known_call_calls_few_functions(launches: Launches, generator: torch.Generator) -> None:
    """It was 489 with each launch and allocation worked out anew, and thousands with gradients."""
    pattern, given = known(SPARSE, generator)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
    dout = torch.randn(given["q"].shape, generator=generator)

    def both() -> object:
        return torch.autograd.grad(pattern(**leaves), list(leaves.values()), dout)

    for _ in range(2):
        both()
    launches.idle = True
    assert calls_of(lambda: pattern(**given)) < 80
    assert calls_of(both) < 260


def step(pattern: attncomp.CompiledPattern, given: dict[str, Any], kind: str) -> list[Tensor]:
    """Gradients of sums over out, or lse, or both; half of the numbers of dout, where it is odd."""
    out, lse = pattern(**given, return_lse=True)
    results = {"out": [out], "lse": [lse], "both": [out, lse], "odd": [out]}[kind]
    wide = [torch.linspace(-1, 1, 2 * x.numel()).view(*x.shape[:-1], -1) for x in results]
    grads = [x[..., ::2] if kind == "odd" else x[..., : x.shape[-1] // 2] for x in wide]
    return list(torch.autograd.grad(results, list(given.values()), grads))


def test_gradients_by_what_is_used(
    launches: Launches, used: list[Record], generator: torch.Generator
) -> None:
    """Of out and of lse in any order, for scores of fewer bits, laid out in any way."""
    pattern = attncomp.compile(SPARSE, backend="triton")
    given = drawn(pattern, generator)
    given["scores"] = given["scores"].detach().half().requires_grad_()
    for kind in ("out", "out", "both", "out"):
        step(pattern, given, kind)
    assert len(used) == 2
    for kind in ("odd", "lse"):
        found = step(pattern, given, kind)
        with Watched():
            wanted = step(pattern, given, kind)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)
    assert len(used) == 6


def test_unaligned_tensors_go_the_long_way(
    launches: Launches, used: list[Record], generator: torch.Generator
) -> None:
    pattern, given = known("window(6)", generator)
    wanted = pattern(**given)
    assert len(used) == 1
    room = torch.empty(given["q"].numel() + 1)
    unaligned = room[1:].view(given["q"].shape).copy_(given["q"])
    assert torch.equal(pattern(**(given | {"q": unaligned})), wanted)
    assert len(used) == 1


def test_an_unaligned_first_call_does_not_count(
    launches: Launches, used: list[Record], generator: torch.Generator
) -> None:
    pattern = attncomp.compile("window(6)", backend="triton")
    given = {name: tensor.detach() for name, tensor in drawn(pattern, generator).items()}
    room = torch.empty(given["q"].numel() + 1)
    unaligned = room[1:].view(given["q"].shape).copy_(given["q"])
    for _ in range(3):
        wanted = pattern(**(given | {"q": unaligned}))
    assert not used
    for _ in range(2):
        assert torch.equal(pattern(**given), wanted)
    assert len(used) == 1


def test_a_tensor_given_twice_is_two(
    launches: Launches, used: list[Record], generator: torch.Generator
) -> None:
    pattern = attncomp.compile("window(8)", backend="triton")
    q, k, v = (drawn(pattern, generator)[name].detach() for name in ("q", "k", "v"))
    for _ in range(2):
        pattern(q, k, k)
    found = pattern(q, k, v)
    assert len(used) == 1
    with Watched():
        assert torch.equal(found, pattern(q, k, v))


def test_strides_of_scores_make_a_kind(launches: Launches, generator: torch.Generator) -> None:
    pattern, given = known(SPARSE, generator)
    wanted = pattern(**given)
    turned = given["scores"].mT.contiguous().mT
    for _ in range(3):
        assert torch.equal(pattern(**(given | {"scores": turned})), wanted)


def test_what_makes_another_kind(launches: Launches, generator: torch.Generator) -> None:
    """Strides of q, the scale, and how products of float32 are formed."""
    pattern, given = known("window(6)", generator)
    turned = given["q"].transpose(1, 2).contiguous().transpose(1, 2)
    changes: tuple[dict[str, Any], ...] = ({"q": turned}, {"scale": 0.5})
    for change in changes:
        found = pattern(**(given | change))
        with Watched():
            assert torch.equal(found, pattern(**(given | change)))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if before == "highest" else "highest")
    try:
        launches.slow.clear()
        pattern(**given)
        assert launches.slow == ["forward_kernel"]  # compiled anew
    finally:
        torch.set_float32_matmul_precision(before)


def test_hooks_are_told_of_launches(
    launches: Launches,
    used: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    pattern, given = known(SPARSE, generator)
    for space in (replay, quick_launch):
        monkeypatch.setattr(space, "is_hooked", lambda: True)
    launches.quick.clear()
    pattern(**given)
    assert not used and not launches.quick


def test_checkpoints_see_the_same_saved(launches: Launches, generator: torch.Generator) -> None:
    """Whatever is known by the time of the second forward."""
    pattern = attncomp.compile(SPARSE, backend="triton")
    given = drawn(pattern, generator)
    dout = torch.randn(given["q"].shape, generator=generator)

    def call(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> Tensor:
        return pattern(q, k, v, scores=scores)

    leaves = list(given.values())
    wanted = torch.autograd.grad(call(*leaves), leaves, dout)
    for _ in range(2):
        out = checkpoint(call, *leaves, use_reentrant=False)
        for one, other in zip(torch.autograd.grad(out, leaves, dout), wanted, strict=True):
            assert torch.equal(one, other)
        call(*leaves)


def test_other_ops_have_no_record() -> None:
    x = torch.ones(4)
    (outputs, _), found = replay.record(lambda given: ((given[0] + 1,), ()), [x])
    assert found is None and torch.equal(outputs[0], x + 1)


def test_without_launches_there_is_no_record() -> None:
    records = Records()
    for _ in range(3):
        found = records.run(lambda given: ((given[0],), ()), [torch.ones(4)], "step")
        assert found.record is None


class Compiled:
    """A compiled kernel that notes addresses."""

    function, packed_metadata = 0, ()
    metadata, src = metadata(num_ctas=2), SimpleNamespace(signature={})

    def __init__(self) -> None:
        self.launched: list[tuple[int, ...]] = []

    def run(self, *args: Any) -> None:
        self.launched.append(args[9:])


def test_what_is_in_use_at_once_shares_no_memory(generator: torch.Generator) -> None:
    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    kernel = Compiled()
    compiled = quick_launch.Compiled.of(kernel)
    sizes = [draw(1, 5000) for _ in range(20)]
    uses = [sorted((draw(0, 30), draw(0, 30))) for _ in sizes]

    def call(given: Sequence[Tensor]) -> replay.Result:
        out = torch.empty(3)
        buffers = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        for i in range(30):
            used = [b for b, ends in zip(buffers, uses, strict=True) if i in ends]
            told = quick_launch.watcher.get()
            assert told is not None
            told(quick_launch.Launched(compiled, (1, 1, 1), (out, given[0], *used)))
        return (out,), ()

    x = torch.empty(4)
    _, found = replay.record(call, [x])
    assert found is not None and len(found.made) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "current_stream", lambda device: 0)
        made = found.run([x])
    assert made is not None and {args[:2] for args in kernel.launched} == {
        (made[0].data_ptr(), x.data_ptr())
    }
    at: dict[int, int] = {}
    for i, args in enumerate(kernel.launched):
        mine = [b for b, ends in enumerate(uses) if i in ends]
        for buffer, address in zip(mine, args[2:], strict=True):
            assert at.setdefault(buffer, address) == address
    together = 0
    for one, other in itertools.combinations(at, 2):
        meet = uses[one][0] <= uses[other][1] and uses[other][0] <= uses[one][1]
        apart = at[one] + sizes[one] <= at[other] or at[other] + sizes[other] <= at[one]
        assert apart or not meet
        together += not apart
    assert together > 0
    assert found.made[1][0][0] < sum(sizes)
