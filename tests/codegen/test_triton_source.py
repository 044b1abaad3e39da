"""What the text of generated Triton modules holds, and what it must not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from dense import Shape, random_inputs
from triton_support import interpreter, load_plan, make_plan, run_plan

from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.ir.schedule import Problem
from attncomp.runtime.ahead_of_time import compile_plan

LAGGED = "sparsek(k=512, lag=256) | window(256)"
PATTERNS = (
    "window(256)",
    "causal",
    "full",
    "first(4) | window(64)",
    "window(4) - full",
    LAGGED,
    "sparsek(k=512) | window(256)",
    "sparsek(k=8, gate='value') | first(4)",
    "sparsek(k=8, gate='logit') & window(99) | window(9)",
    "sparsek(k=8, gate='straight_through')",
    "window(12) - sparsek(k=3, gate='hard')",
    "sparsek(k=8) | sparsek(k=8, lag=16)",
)
GOLDEN = Path(__file__).parent.parent / "golden" / "kernels"
# By name of the golden file; interpreted schedules, for tuning a device must change none.
GOLDEN_PATTERNS = {"window": "window(16)"}


def plan_for(pattern: str, *, head_dim: int = 64, target: str = "sm_90") -> KernelPlan:
    problem = Problem(
        backend="triton",
        target=target,
        dtype="float32" if target == "cpu" else "bfloat16",
        head_dim=head_dim,
        value_dim=head_dim,
        unit_heads=2,
    )
    return lower(pattern, problem)


def functions(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def segment(source: str, node: ast.stmt) -> str:
    """The text of a statement; `ast.get_source_segment` looks at every character of the source."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    lines = source.split("\n")[node.lineno - 1 : node.end_lineno]
    lines[-1] = lines[-1].encode()[: node.end_col_offset].decode()
    lines[0] = lines[0].encode()[node.col_offset :].decode()
    return "\n".join(lines)


def loops(source: str, function: str) -> list[str]:
    """The text of a function's loops over key or query tiles."""
    nodes = functions(source)[function].body
    return [segment(source, node) for node in nodes if isinstance(node, ast.For)]


def gathered_loops(source: str) -> list[str]:
    """The loops that walk key lists, in all kernels of a module with one selection."""
    both = loops(source, "forward_kernel") + loops(source, "backward_query_kernel")
    return [text for text in both if "keys_0_base" in text] + loops(
        source, "backward_gathered_0_kernel"
    )


def loads(source: str, names: tuple[str, ...]) -> list[str]:
    """All statements that load one of the tiles `names`."""
    found = [
        segment(source, node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in names
    ]
    return [text for text in found if "tl.load(" in text]


@pytest.mark.parametrize("target", ["cpu", "sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_is_a_module_without_rendered_gaps(pattern: str, target: str) -> None:
    source = render(plan_for(pattern, target=target))
    compile(source, "<generated>", "exec")
    assert "Undefined" not in source
    # `None` as an index, as an optional dlse, and nowhere else.
    rest = re.sub(r"\[:, None\]|\[None, :\]|\bis (not )?None|None if|\(or None\)", "", source)
    assert "None" not in rest


@pytest.mark.parametrize("pattern", PATTERNS)
def test_is_tidy(pattern: str) -> None:
    """As a formatter would leave its blank lines: no spaces at line ends, at most two in a row."""
    source = render(plan_for(pattern))
    assert re.findall(r".*[ \t]+\n", source) == []
    assert "\n\n\n\n" not in source
    assert source.endswith("\n") and not source.endswith("\n\n")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_sweep_is_labelled_with_its_place(pattern: str) -> None:
    plan = plan_for(pattern)
    source = render(plan)
    kernels = functions(source)
    assert source.startswith(f'"""{plan.pattern}\n')
    for index, sweep in enumerate(plan.sweeps):
        assert re.fullmatch(r"<spec>:1:\d+(-\d+)?", sweep.origin)
        heading = rf".*{re.escape(sweep.label)}\W.*{re.escape(sweep.origin)}\W*$"
        assert re.search(rf"^Sweep {index}: {heading}", source, re.MULTILINE)
        by_key = "backward_key_kernel"
        if sweep.source is not None:
            by_key = f"backward_gathered_{sweep.source}_kernel"
        for name in ("forward_kernel", "backward_query_kernel", by_key):
            code = segment(source, kernels[name])
            assert re.search(rf"^    # {heading}", code, re.MULTILINE), name
    assert ("No pair is attended." in source) == (not plan.sweeps)


def test_lagged_selection_needs_no_comparison_with_the_window() -> None:
    """The selection begins where the window ends: two integer comparisons are the whole mask.

    None is needed for keys that are selected throughout a tile.
    """
    loops = gathered_loops(render(plan_for(LAGGED)))
    assert [bool(re.search("mask = ", text)) for text in loops] == [False, True] * 3
    for text in loops[1::2]:
        assert "distance" not in text
        assert "256" not in re.sub(r"time_0 = shared_position - 256", "", text)
        (mask,) = re.findall(r"^ *mask = (.*)", text, re.MULTILINE)
        assert len(re.findall("<", mask)) == 2
        assert "key_valid" not in mask


def test_overlapping_selection_leaves_the_window_out() -> None:
    """Each pair in both is attended once, by the window's sweep.

    None is in it of the keys that are selected, and outside of the window, throughout a tile.
    """
    loops = gathered_loops(render(plan_for("sparsek(k=512) | window(256)")))
    assert [bool(re.search("mask = ", text)) for text in loops] == [False, True] * 3
    for text in loops[1::2]:
        assert re.search(r"mask = .* & .*\(+distance >= 256\)", text)
        assert "distance <" not in text


@pytest.mark.parametrize("pattern", ["window(256)", "causal", "full", "first(4) | window(64)"])
def test_crisp_patterns_have_no_selection(pattern: str) -> None:
    source = render(plan_for(pattern))
    kernels = functions(source)
    code = "\n".join(segment(source, kernel) for kernel in kernels.values())
    assert not re.search(r"gate|evict|theta|ranking|(?<!warp)group|slope|dscore|m0", code)
    assert set(kernels) - {"of_rows"} == {
        "select",
        "both_heads",
        "consume",
        "produce",
        "hopper_forward_kernel",
        "hopper_forward",
        "forward_kernel",
        "forward",
        "consume_for_dq",
        "produce_for_dq",
        "hopper_query_kernel",
        "backward_query_kernel",
        "consume_for_keys",
        "produce_keys",
        "produce_queries",
        "hopper_key_kernel",
        "backward_key_kernel",
        "backward",
    }


def test_hard_selection_has_no_thresholds() -> None:
    source = render(plan_for("sparsek(k=8, gate='hard') | window(4)"))
    code = "\n".join(segment(source, kernel) for kernel in functions(source).values())
    assert not re.search(r"theta_0|delta_0|score_0|dscore|slope", code)


def test_full_tiles_have_no_mask() -> None:
    """Of the window's three loops the middle one; the diagonal has only two loops."""
    for pattern, masked in (("window(1024)", [True, False, True]), ("causal", [False, True])):
        source = render(plan_for(pattern))
        for kernel in ("forward_kernel", "backward_query_kernel"):
            found = ["mask" in text.partition("\n")[2] for text in loops(source, kernel)]
            assert found == masked


def test_a_power_of_two_needs_no_mask_of_columns() -> None:
    tiles = ("q_tile", "k_tile", "v_tile", "dout_tile", "out_tile")
    columns = re.compile(r"column\[.*\] < (HEAD|VALUE)_DIM")
    for pattern in PATTERNS:
        found = loads(render(plan_for(pattern, head_dim=64)), tiles)
        assert not any(columns.search(text) for text in found)


def test_other_head_dims_mask_the_columns() -> None:
    """Every load of a tile of q, k and v, or its padding would be another head's numbers."""
    columns = re.compile(r"column\[.*\] < (HEAD|VALUE)_DIM")
    for pattern in PATTERNS:
        found = loads(render(plan_for(pattern, head_dim=80)), ("q_tile", "k_tile", "v_tile"))
        assert found
        assert all(columns.search(text) for text in found)


def test_offsets_into_tensors_are_64_bits_wide() -> None:
    """Rows are widened before a stride multiplies them, heads and batches once for a program."""
    source = render(plan_for(LAGGED))
    for text in re.findall(r"[^\n]*\b[qkv]_row\b[^\n]*", source):
        if "*" in text:
            wide = r"\.to\([tg]l\.int64\) \* [qkv]_row|\(row_offsets \* [kv]_row"
            assert re.search(rf"{wide}|_row\.to\(gl\.int64\) \*", text), text
    assert set(re.findall(r"row_offsets = (.*)", source)) == {"key.to(tl.int64)"}
    for text in re.findall(r"place_offsets = (.*)", source):
        assert ".to(gl.int64)" in text
    kernels = [segment(source, kernel) for kernel in functions(source).values()]
    kernels = [text for text in kernels if "q_row" in text]
    assert len(kernels) == 10
    for text in kernels:
        for name in ("batch", "head", "kv_head"):
            values = re.findall(rf"^ +{name} = (.*)", text, re.MULTILINE)
            # The last value counts: one may follow from another that is wide already.
            wide = r"\.to\([tg]l\.int64\)$|^head // |^kv_head \* "
            assert not values or re.search(wide, values[-1]), values


def test_equal_plans_have_equal_sources_but_for_labels() -> None:
    sources = [
        re.sub(r"<spec>:[\d:-]+", "", render(plan_for(text)).partition("\n")[2])
        for text in ("window(8) | sparsek(k=4)", "sparsek(4)|(window(8))|window(3)")
    ]
    assert sources[0] == sources[1]


@pytest.mark.parametrize("name", GOLDEN_PATTERNS)
def test_golden(name: str, update_golden: bool) -> None:
    path = GOLDEN / f"{name}.py"
    found = render(plan_for(GOLDEN_PATTERNS[name], target="cpu"))
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert path.read_text() == found, f"if the change is meant: pytest --update-golden {path}"


def test_no_orphans(update_golden: bool) -> None:
    orphans = {path for path in GOLDEN.iterdir() if path.stem not in GOLDEN_PATTERNS}
    if update_golden:
        for path in orphans:
            path.unlink()
        orphans = set()
    assert orphans == set()


def test_interpreting_and_compiling_live_in_one_process() -> None:
    shape = Shape(n_queries=20, n_keys=20, head_dim=16, value_dim=16)
    inputs = random_inputs(shape, torch.Generator().manual_seed(0), dtype=torch.float32)
    results = []
    for _ in range(2):
        with interpreter():
            results.append(run_plan(make_plan("sparsek(k=3) | window(2)", shape), inputs, 0.25))
        compiled = ["hopper_forward_kernel", "forward_kernel"]
        reports = compile_plan(plan_for("window(16)"), "sm_90", names=compiled)
        assert [report.name for report in reports] == compiled
    assert torch.equal(results[0].dq, results[1].dq)
    # Outside, a module is compiled: without a GPU it loads and does not run.
    module = load_plan(make_plan("window(3)", shape))
    assert not hasattr(module.forward_kernel, "rewrite")
