"""Random spec files for hypothesis: lists of tokens, and texts with blanks and comments between."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "window", "_private", "sparsek", "a_name_of_some_length", "inner"])
NUMBERS = st.sampled_from(["0", "1_024", "2.5", "1e9", "123456789012345678901234567890"])
STRINGS = st.sampled_from(["'hard'", '"soft"', "'say \"a\"'", "''", "'#'"])


def joined(lists: list[list[str]], separator: str, *, last: bool = False) -> list[str]:
    """Lists with a token between each two; `last`: and behind the last one."""
    tokens = [token for part in lists for token in (*part, separator)]
    return tokens if last else tokens[:-1]


@st.composite
def arithmetic(draw: st.DrawFn, depth: int = 2) -> list[str]:
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind <= 2:
        return [draw(NUMBERS | NAMES | st.sampled_from(["True", "False"]))]
    if kind == 3:
        return ["-", "(", *draw(arithmetic(depth - 1)), ")"]
    parts = [["(", *draw(arithmetic(depth - 1)), ")"]]
    parts += draw(st.lists(st.builds(lambda n: [n], NUMBERS | NAMES), min_size=1, max_size=2))
    return joined(parts, draw(st.sampled_from(["+", "-", "*", "//", "%"])))


@st.composite
def call(draw: st.DrawFn) -> list[str]:
    name = draw(NAMES)
    if draw(st.booleans()):
        return [name]
    values = draw(st.lists(arithmetic() | st.builds(lambda s: [s], STRINGS), max_size=3))
    arguments = [[*draw(st.sampled_from([[], ["k", "="]])), *value] for value in values]
    trailing = bool(values) and draw(st.booleans())
    return [name, "(", *joined(arguments, ",", last=trailing), ")"]


@st.composite
def total(draw: st.DrawFn) -> list[str]:
    """Arithmetic over the indices of a pair."""
    operand = st.sampled_from([["i"], ["j"], ["7"], ["-", "j"], ["s", "[", "i", ",", "j", "]"]])
    parts = draw(st.lists(operand, min_size=1, max_size=2))
    return joined(parts, draw(st.sampled_from(["+", "-", "*", "//", "%"])))


@st.composite
def condition(draw: st.DrawFn, depth: int = 2) -> list[str]:
    kind = draw(st.integers(0, 3)) if depth else 0
    if kind == 0:
        signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
        return joined(draw(st.lists(total(), min_size=2, max_size=3)), draw(signs))
    if kind == 1:
        return ["not", "(", *draw(condition(depth - 1)), ")"]
    parts = [["not", *draw(condition(0))], ["(", *draw(condition(depth - 1)), ")"]]
    parts += draw(st.lists(condition(0), max_size=2))
    return joined(parts, "and" if kind == 2 else "or")


@st.composite
def pattern(draw: st.DrawFn, depth: int = 3) -> list[str]:
    kind = draw(st.integers(0, 5)) if depth else 0
    if kind == 0:
        return draw(call())
    if kind == 5:
        return ["where", "(", *draw(condition()), ")"]
    if kind == 1:
        return ["~", "(", *draw(pattern(depth - 1)), ")"]
    if kind == 2:
        return ["(", *draw(pattern(depth - 1)), ")"]
    parts = draw(st.lists(pattern(depth - 1), min_size=2, max_size=3))
    return joined(parts, draw(st.sampled_from(["|", "&", "-"])))


@st.composite
def whole(draw: st.DrawFn) -> list[str]:
    """A pattern, perhaps with modifiers, perhaps in parentheses."""
    tokens = draw(pattern())
    if draw(st.booleans()):
        modifiers = draw(st.lists(call(), min_size=1, max_size=3))
        tokens = [*tokens, "with", *joined(modifiers, ",")]
    return ["(", *tokens, ")"] if draw(st.booleans()) else tokens


@st.composite
def parameters(draw: st.DrawFn) -> list[str]:
    defaults = {"int": "3", "float": "-2.5", "str": "'x'", "bool": "True"}
    bounds = {"int": [">=", "1", "<=", "9"], "float": ["<=", "-2"]}
    kinds = draw(st.lists(st.sampled_from(sorted(defaults)), max_size=4))
    bounded = draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    written = [
        [f"p{i}", ":", kind, *(bounds.get(kind, []) if bound else []), "=", defaults[kind]]
        for i, (kind, bound) in enumerate(zip(kinds, bounded, strict=True))
    ]
    return ["(", *joined(written, ",", last=bool(kinds) and draw(st.booleans())), ")"]


@st.composite
def example(draw: st.DrawFn) -> list[str]:
    tensors = draw(
        st.sampled_from([[], [["s", "=", "-", "1"]], [["s", "=", *"[[1,2,],[-3,4]]"], ["t=0"]]])
    )
    given = ["given", *joined(tensors, ",")] if tensors else []
    picture = draw(st.sampled_from(["'#'", '"""\n  #.\n\n\t.1"""', "'''##'''"]))
    return ["example", *draw(whole()), *given, "=", picture]


DOCS = st.sampled_from(["'Doc.'", '"""Long,\n\tlong. \n"""', "'''a \"b\"'''", "''"])
IMPORTS = st.sampled_from(
    ["from a import b%d", "from .. near . by import c%d, d%d", "from . x import a_long_name%d"]
)


@st.composite
def files(draw: st.DrawFn) -> list[str]:
    found = [draw(DOCS)] if draw(st.booleans()) else []
    for number in range(draw(st.integers(0, 4))):
        match draw(st.sampled_from(["import", "definition", "example"])):
            case "import":
                found += draw(IMPORTS).replace("%d", str(number)).replace(",", " , ").split()
            case "definition":
                doc = [draw(DOCS)] if found and draw(st.booleans()) else []
                signature = draw(st.just([]) | parameters())
                found += [*doc, "pattern", f"x{number}", *signature, "=", *draw(whole())]
            case _:
                found += draw(example())
    return found


BLANKS = st.sampled_from([" ", " ", " ", "\t", "\n", "  \r\n", "\n\n\n", "\f "])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A file with blanks, line ends and comments between its tokens."""
    comments = st.sampled_from(["#", "# one", "#two \t", "# \tthree # '''", "#! (|"])
    some = draw(st.sampled_from([0, 10, 3, 1]))  # one gap in so many has comments
    text = ""
    for token in (*draw(files()), ""):
        for _ in range(draw(st.integers(0, 2)) if some and draw(st.integers(1, some)) == 1 else 0):
            text += draw(BLANKS) + draw(comments) + draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
        text += draw(BLANKS) + token
    return text
