"""`attncomp-inspect` on patterns with groups of heads: each group by itself."""

from __future__ import annotations

from cli_support import output

SPEC = "heads{0:4 -> window(2), 4: -> first(1)}"


def test_each_group_has_its_sections() -> None:
    found = output(SPEC, "--heads", "8", "--mask", "3", "--emit", "plan")
    titles = [line for line in found.splitlines() if line.startswith("===")]
    assert titles == [
        "=== heads 0:4, plan ===",
        "=== heads 0:4, mask ===",
        "=== heads 4:8, plan ===",
        "=== heads 4:8, mask ===",
    ]
    assert "\n#..\n##.\n.##\n" in found and found.endswith("\n#..\n#..\n#..\n")
    assert f"gate of {SPEC}, head 4 of 8: 3 queries" in found


def test_the_fewest_heads_by_default() -> None:
    assert "=== heads 4:5, explain ===" in output(SPEC)
