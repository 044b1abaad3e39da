"""What the template of the key-major backward for Hopper needs of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from attncomp.codegen import triton_view
from attncomp.codegen.expressions import sources
from attncomp.codegen.hopper import KEY_QUERIES
from attncomp.codegen.plan import HopperShape, KernelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperKeysView:
    """What the template of dk and dv needs of a plan: arguments are those of its selections."""

    shape: HopperShape
    queries: int = KEY_QUERIES
    arguments: tuple[triton_view.Argument, ...]

    @property
    def parameters(self) -> list[str]:
        """Of the kernel."""
        tensors = ["q", "k", "v", "dout", "lse_log2", "row_deltas", "dk", "dv"]
        sizes = ["n_queries", "n_keys", "n_units", "heads_per_kv", "n_tiles", "blocks"]
        state = [argument.parameter for argument in self.arguments]
        return [*tensors, *state, "scale", "scale_log2", *sizes, "n_kv_heads"]

    @property
    def values(self) -> list[str]:
        """The host's expressions for what stands between tensors and factors."""
        return [argument.value for argument in self.arguments]

    @property
    def shared(self) -> list[str]:
        """What producers and consumers share: slots and barriers."""
        slots = [f"{name}_slots" for name in ("q", "k", "v", "dout", "lse", "delta")]
        return [*slots, "key_full", "key_empty", "full", "empty"]


def hopper_keys_view(plan: KernelPlan) -> HopperKeysView | None:
    """What the template of dk and dv needs of a plan; None where the plan has no such kernel."""
    if plan.hopper_keys is None:
        return None
    arguments = []
    for i in sources(plan):
        evict = triton_view.state_text(plan, i, "evict")
        arguments += [
            triton_view.Argument(f"evict_{i}", evict),
            triton_view.Argument(f"groups_{i}", f"{evict}.shape[1]"),
            triton_view.Argument(f"dk_new_{i}", f"dk_new_{i}"),
            triton_view.Argument(f"dv_new_{i}", f"dv_new_{i}"),
        ]
    return HopperKeysView(shape=plan.hopper_keys, arguments=tuple(arguments))
