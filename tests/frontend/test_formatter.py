"""The canonical form of spec files: exact texts, and what holds for every file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_files import BLANKS, files, texts

from attncomp import errors
from attncomp.errors import PatternError, Source, Span
from attncomp.frontend.formatter import format_text
from attncomp.frontend.reader import read_file, tokens
from attncomp.frontend.specfile import parse_file

ROOT = Path(__file__).parents[2]

# What is written, and what becomes of it.
CASES = {
    "nothing": ("\n \t\n", ""),
    "comments only": ("\n#a\t b \n\n\n\n  # c", "#a  b\n\n# c\n"),
    "blanks": (
        "pattern\ta( w:int=512 ,s :str='hard',)=window( w )|first(count = w//2)&full( )",
        'pattern a(w: int = 512, s: str = "hard") = window(w) | first(count=w // 2) & full()\n',
    ),
    "signs": (
        "pattern a = ~ ~ b(- n, m = - ( - 2 )+3, k=1- -2)-  ~c",
        "pattern a = ~~b(-n, m=-(-2) + 3, k=1 - -2) - ~c\n",
    ),
    "quotes": (
        "'''Doc.'''\n'a \"b\" c' pattern a = b('', '\"')\n'''it ends \"there\"''' pattern c = d",
        '"""Doc."""\n\n"""a "b" c"""\npattern a = b("", \'"\')\n\n'
        "'''it ends \"there\"'''\npattern c = d\n",
    ),
    "a docstring stays": (
        '"""\n\tOne. \r\n\n\n  two"""\npattern a = b',
        '"""\n\tOne. \r\n\n\n  two"""\n\npattern a = b\n',
    ),
    "imports": (
        "from a import b from . c.d\nimport e ,f\n\n\n# why\nfrom ... g import h\npattern i = b",
        "from a import b\nfrom .c.d import e, f\n# why\nfrom ...g import h\n\npattern i = b\n",
    ),
    "parentheses around all": ("pattern a = ( (b | (c) ) )", "pattern a = b | (c)\n"),
    "pictures": (
        "pattern a = b example a = '''#'''"
        " example a = '''\n\t#..\n\r\n  .1.'''  # c\npattern c = a",
        'pattern a = b\n\nexample a = "#"\n\n'
        'example a = """\n    #..\n\n    .1.\n    """  # c\n\npattern c = a\n',
    ),
    "predicates": (
        "pattern a = where(i-j<3 and(j%2==0 or not s[ i,j//2 ]!=s[j,- -i]))-b",
        "pattern a = where(i - j < 3 and (j % 2 == 0 or not s[i, j // 2] != s[j, --i])) - b\n",
    ),
    "tensors": (
        "example a given s=[ [1,- 2.5,], [ 3,4 ] ] , t = 1 = '#'",
        'example a given s=[[1, -2.5], [3, 4]], t=1 = "#"\n',
    ),
}

BROKEN = '''\
pattern operators = (
    window(1024)
    | first(64)
        & sparsek(k=512, lag=1024) - (first(4) | window(256) & sparsek(k=16)) - full
    | (
        sparsek(k=512, lag=1024, gate="straight_through")
        | sparsek(k=256, lag=1024, gate="straight_through")
        | sparsek(
            k=128,
            lag=1000000000000000000000000000000000,
            gate="straight_through_and_beyond_it",
        )
    )
    | ~sparsek(
        k=1000000000000000000000000000000000000
            + 10000000000000000000000000000000000000 * 20000000000000000000000000,
    )
)

pattern parameters(
    first_of_all_parameters: int = 1,
    second_of_all_parameters: int = 2,
    third: int = 3,
) = window(first_of_all_parameters) | first(third)

pattern arguments = sparsek(
    k=1000000000000000000000000000000000000,
    lag=1000000000000000000000000000000000000,
)

pattern conditions = (
    where(
        a_tensor_of_documents[i] == a_tensor_of_documents[j]
        and (
            0 <= i - j < 1000000000000000000000000000
            or not a_tensor_with_a_long_name[i, j // 128] == 1
        )
    )
    | first(64)
)

pattern nested = (
    first(1)
    | first(100000000000000000000000000000000000)
        & window(100000000000000000000000000000)
        & full
)

example sparsek_window(k=2, size=1)
    given scores=[3, 0, 0.5, 0.75, -2, -2],
        others=[
            [1000000000000000000000000000000000, 1000000000000000000000000000000000],
            [1000000000000000000000000000000000, 1000000000000000000000000000000000],
        ] = """
    #.
    ##
    """

from a_long_name_of_some_module import a_long_name_of_some_pattern,
    another_long_name_of_some_pattern,
    one_more
'''

COMMENTS = (
    (
        """
        # of a
        pattern a  # end of a
          (n: int,  # of n
           # before m
           m: int)
          = window(n) |  # near
            # before first
            first(  # inside
              m # of m
              , ) |
            # before full
            full # last
        # of b

        # of b too
        pattern b = ( # of the parenthesis
            a(1, 2)
            # the end of b
          ) # behind
        # of the file
        """,
        """
        # of a
        pattern a(  # end of a
            n: int,  # of n
            # before m
            m: int,
        ) = (
            window(n)  # near
            # before first
            | first(  # inside
                m,  # of m
            )
            # before full
            | full
        )  # last

        # of b

        # of b too
        pattern b = (  # of the parenthesis
            a(1, 2)
            # the end of b
        )  # behind

        # of the file
        """,
    ),
    (
        """
        'Doc.' # of the doc
        from a import b, # one
          # before c
          c # two
        pattern  # moves on
        d = first(n = # to the end
          -
          # back
          3)
        example d # three
        given # four
        s = [1, # five
        2] = # six
        # seven
        '#' # eight
        """,
        '''
        """Doc."""  # of the doc

        from a import b,  # one
            # before c
            c  # two

        pattern d = (  # moves on
            first(
                # back
                n=-3,  # to the end
            )
        )

        # six
        example d  # three
            given s=[  # four
                1,  # five
                2,
                # seven
            ] = "#"  # eight
        ''',
    ),
)


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_exact_text(text: str, expected: str) -> None:
    assert format_text(text) == expected
    check(text)


def test_long_statements() -> None:
    assert format_text(BROKEN) == BROKEN
    one_line = "\n".join(
        line if set(line) <= set('    #."') else " ".join(line.split())
        for line in BROKEN.splitlines()
    )
    assert format_text(one_line) == BROKEN


def test_88_columns() -> None:
    for text, broken in (
        ("pattern {} = full | causal\n", "pattern {} = (\n    full | causal\n)\n"),
        ("pattern a = window(n={})\n", "pattern a = window(\n    n={},\n)\n"),
        ("pattern a({}: int) = full\n", "pattern a(\n    {}: int,\n) = full\n"),
        ('example a(k={}) = "#"\n', 'example a(\n    k={},\n) = "#"\n'),
        (
            'example a given s={}, t=1 = "#"\n',
            'example a\n    given s={},\n        t=1 = "#"\n',
        ),
        (
            'example a(k={}) = """\n    #.\n    ##\n    """\n',
            'example a(\n    k={},\n) = """\n    #.\n    ##\n    """\n',
        ),
        ("from a{} import b, c\n", "from a{} import b,\n    c\n"),
    ):
        columns = len(text.split("\n")[0]) - len("{}")
        word = ("n_" if " {} " in text or "({}:" in text else "12") * 44
        for parts in ((text, word[: 88 - columns]), (broken, word[: 89 - columns])):
            assert format_text(text.format(parts[1])) == parts[0].format(parts[1])


@pytest.mark.parametrize(("text", "expected"), COMMENTS)
def test_comments(text: str, expected: str) -> None:
    assert format_text(dedent(text)) == dedent(expected).lstrip("\n")
    check(dedent(text))


@pytest.mark.parametrize("file", sorted(ROOT.glob("specs/**/*.attn")), ids=lambda file: file.name)
def test_shipped_files_are_formatted(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert format_text(text) == text


def test_mistakes_are_those_of_reading() -> None:
    for text in (
        "pattern a = window(4) |",
        "pattern a = $",
        "pattern a = b pattern a = c",
        "example a = '#x'",
        "'a' 'b' 'c' pattern a = b",
    ):
        with pytest.raises(PatternError) as read:
            parse_file(Source("my.attn", text))
        with pytest.raises(PatternError) as formatted:
            format_text(text, "my.attn")
        assert str(formatted.value) == str(read.value)


def test_beyond_the_limits_of_a_text() -> None:
    """64 parentheses and those that the lines would need; and indents that make it too long."""
    operand = f"first({'1' * 80})"
    text = "pattern a = b | " + "(" * 64 + operand + ")" * 64
    parse_file(Source("a", text))
    with pytest.raises(errors.NestingError):
        format_text(text)
    text = "pattern a = " + "~(" * 30 + " | ".join([operand] * 4000) + ")" * 30
    parse_file(Source("a", text))
    with pytest.raises(errors.PatternTooLargeError):
        format_text(text)


def meaning(part: object, text: str) -> object:
    """An item of a file, or a part of one, as tuples without spans; of a picture, the rows."""
    if isinstance(part, tuple):
        return tuple(meaning(inner, text) for inner in part)
    if isinstance(part, Span):
        return None
    if not dataclasses.is_dataclass(part):
        return part
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    if "picture" in values:
        values["picture"] = tuple(values["picture"].text.strip("'\"").split())
    return type(part).__name__, *(meaning(value, text) for value in values.values())


def comments_of(text: str) -> list[str]:
    return sorted(
        word.text.replace("\t", " ").rstrip()
        for word in tokens(Source("a", text))
        if word.kind == "COMMENT"
    )


def check(text: str) -> None:
    """Fails for a file that does not keep its meaning and comments, or is not canonical then."""
    found = format_text(text)
    assert format_text(found) == found
    read, expected = (read_file(Source("a", t)) for t in (found, text))
    assert meaning(read, found) == meaning(expected, text)
    assert comments_of(found) == comments_of(text)
    strings = [word for word in tokens(Source("a", found)) if "STRING" in word.kind]
    code = found
    for word in reversed(strings):
        code = code[: word.span.start] + '""' + code[word.span.end :]
    assert code == "\n".join(line.rstrip() for line in code.split("\n"))
    assert not set("\t\r\f") & set(code)
    assert "\n\n\n" not in code and not code.startswith("\n") and not code.endswith("\n\n")
    assert not code or code.endswith("\n")


@given(texts())
def test_any_file(text: str) -> None:
    check(text)


@given(files(), st.data())
def test_blanks_make_no_difference(file: list[str], data: st.DataObject) -> None:
    text = "".join(data.draw(BLANKS) + token for token in file)
    assert format_text(text) == format_text(" ".join(file))
