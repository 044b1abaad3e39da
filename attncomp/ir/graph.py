"""The DAG of ops that passes rewrite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import networkx as nx

from attncomp.ir.ops import Op

NodeId = int


class Graph:
    """A rooted DAG of ops with ordered operands.

    A graph grows by `add` and is finished by `set_root`; passes build a new one and leave the old
    one as it is. Node ids are small integers in the order of adding, operands before users.
    """

    def __init__(self) -> None:
        self._dag: nx.DiGraph[int] = nx.DiGraph()
        self._root: NodeId | None = None

    def add(self, op: Op, operands: Sequence[NodeId] = ()) -> NodeId:
        """Append a node whose operands are already in the graph; return its id."""
        for operand in operands:
            if operand not in self._dag:
                raise KeyError(f"operand {operand} of {op} is not in the graph")
        node = self._dag.number_of_nodes()
        self._dag.add_node(node, op=op, operands=tuple(operands))
        self._dag.add_edges_from((operand, node) for operand in operands)
        return node

    def set_root(self, node: NodeId) -> Graph:
        """Declare the node that the graph stands for; return the graph."""
        if node not in self._dag:
            raise KeyError(f"root {node} is not in the graph")
        self._root = node
        return self

    @property
    def root(self) -> NodeId:
        if self._root is None:
            raise ValueError("the graph has no root yet")
        return self._root

    def op(self, node: NodeId) -> Op:
        op: Op = self._dag.nodes[node]["op"]
        return op

    def operands(self, node: NodeId) -> tuple[NodeId, ...]:
        operands: tuple[NodeId, ...] = self._dag.nodes[node]["operands"]
        return operands

    def users(self, node: NodeId) -> tuple[NodeId, ...]:
        return tuple(self._dag.successors(node))

    def __len__(self) -> int:
        return int(self._dag.number_of_nodes())

    def walk(self) -> Iterator[NodeId]:
        """Nodes that the root needs, operands before users, each once; smallest ids first."""
        needed = nx.ancestors(self._dag, self.root) | {self.root}
        yield from nx.lexicographical_topological_sort(self._dag.subgraph(needed))

    def rewrite(
        self,
        rule: Callable[[Graph, Op, tuple[NodeId, ...]], NodeId],
        into: Callable[[], Graph] | None = None,
    ) -> Graph:
        """A new graph, built bottom-up: `rule(new, op, operands in new)` returns a node of new.

        `into` makes the empty graph that is built into; a plain Graph if not given.
        """
        new = Graph() if into is None else into()
        images: dict[NodeId, NodeId] = {}
        for node in self.walk():
            operands = tuple(images[operand] for operand in self.operands(node))
            images[node] = rule(new, self.op(node), operands)
        return new.set_root(images[self.root])
