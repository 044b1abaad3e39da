"""Every mistake of a call: its class and its exact message."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attncomp
from attncomp import errors
from attncomp.runtime.program import backend_for

SPEC = "sparsek(k=4) | window(4)"
WHERE = f" (pattern '{SPEC}')"


def call(spec: str = SPEC, backend: str | None = "torch", **changes: Any) -> Tensor:
    """A good call of 2 batches, 4 heads over 2, 6 queries over 8 keys, with some arguments changed.

    An argument changed to ... is left out.
    """
    good: dict[str, Any] = {
        "q": torch.zeros(2, 4, 6, 16),
        "k": torch.zeros(2, 2, 8, 16),
        "v": torch.zeros(2, 2, 8, 24),
        "scores": torch.zeros(2, 2, 8),
    }
    given = {name: value for name, value in {**good, **changes}.items() if value is not ...}
    return attncomp.compile(spec, backend=backend)(**given)


def zeros(*size: int, **options: Any) -> Tensor:
    return torch.zeros(size, **options)


def test_the_good_call_is_good() -> None:
    assert call().shape == (2, 4, 6, 24)


@pytest.mark.parametrize("scale", [np.float32(0.5), np.int64(3), Fraction(1, 4), 2])
def test_a_scale_is_any_real_number(scale: Any, generator: torch.Generator) -> None:
    given = {
        "q": torch.randn(2, 4, 6, 16, generator=generator),
        "k": torch.randn(2, 2, 8, 16, generator=generator),
        "v": torch.randn(2, 2, 8, 24, generator=generator),
    }
    assert torch.equal(call(**given, scale=scale), call(**given, scale=float(scale)))
    assert not torch.allclose(call(**given, scale=scale), call(**given, scale=0.1))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"q": None}, "MissingTensor", "q: expected tensor [B, Hq, Nq, D], found none"),
        ({"k": [1.0]}, "MissingTensor", "k: expected tensor [B, Hk, Nk, D], found list"),
        ({"v": 3}, "MissingTensor", "v: expected tensor [B, Hk, Nk, Dv], found int"),
        ({"scores": ...}, "MissingTensor", "scores: expected tensor [B, G, Nk], found none"),
        ({"scores": 1.0}, "MissingTensor", "scores: expected tensor [B, G, Nk], found float"),
        (
            {"q": zeros(4, 6, 16)},
            "TensorShape",
            "q: expected shape [B, Hq, Nq, D], found [4, 6, 16]",
        ),
        (
            {"v": zeros(2, 2, 8, 24, 1)},
            "TensorShape",
            "v: expected shape [B, Hk, Nk, Dv], found [2, 2, 8, 24, 1]",
        ),
        (
            {"q": zeros(2, 4, 6, 15)},
            "TensorShape",
            "q: expected shape [B, Hq, Nq, D] with Hq, Nq >= 1 and 16 <= D <= 256, "
            "found [2, 4, 6, 15]",
        ),
        (
            {"q": zeros(2, 4, 6, 257)},
            "TensorShape",
            "q: expected shape [B, Hq, Nq, D] with Hq, Nq >= 1 and 16 <= D <= 256, "
            "found [2, 4, 6, 257]",
        ),
        (
            {"q": zeros(2, 4, 0, 16)},
            "TensorShape",
            "q: expected shape [B, Hq, Nq, D] with Hq, Nq >= 1 and 16 <= D <= 256, "
            "found [2, 4, 0, 16]",
        ),
        (
            {"q": zeros(2, 0, 6, 16)},
            "TensorShape",
            "q: expected shape [B, Hq, Nq, D] with Hq, Nq >= 1 and 16 <= D <= 256, "
            "found [2, 0, 6, 16]",
        ),
        *(
            (
                {"k": zeros(*size)},
                "TensorShape",
                "k: expected shape [2, Hk, Nk, 16] with Nk >= 1 and Hk dividing 4 heads, "
                f"found {list(size)}",
            )
            for size in ((3, 2, 8, 16), (2, 3, 8, 16), (2, 0, 8, 16), (2, 2, 0, 16), (2, 2, 8, 32))
        ),
        *(
            (
                {"v": zeros(*size)},
                "TensorShape",
                f"v: expected shape [2, 2, 8, Dv] with 16 <= Dv <= 256, found {list(size)}",
            )
            for size in ((1, 2, 8, 24), (2, 1, 8, 24), (2, 2, 7, 24), (2, 2, 8, 8), (2, 2, 8, 300))
        ),
        *(
            (
                {"scores": zeros(*size)},
                "TensorShape",
                f"scores: expected shape [2, G, 8] with G dividing 4 heads, found {list(size)}",
            )
            for size in ((2, 8), (1, 2, 8), (2, 3, 8), (2, 0, 8), (2, 2, 9))
        ),
        (
            {"q": zeros(2, 4, 6, 16, dtype=torch.int64)},
            "TensorDtype",
            "q: expected dtype float16, bfloat16, float32 or float64 on backend 'torch', "
            "found int64",
        ),
        (
            {"k": zeros(2, 2, 8, 16, dtype=torch.float64)},
            "TensorDtype",
            "k: expected dtype float32, q's own, found float64",
        ),
        (
            {"v": zeros(2, 2, 8, 24, dtype=torch.bfloat16)},
            "TensorDtype",
            "v: expected dtype float32, q's own, found bfloat16",
        ),
        (
            {"scores": zeros(2, 2, 8, dtype=torch.int32)},
            "TensorDtype",
            "scores: expected dtype float16, bfloat16, float32 or float64, found int32",
        ),
        (
            {"k": zeros(2, 2, 8, 16, device="meta")},
            "TensorDevice",
            "k: expected device cpu, q's own, found meta",
        ),
        (
            {"scores": zeros(2, 2, 8, device="meta")},
            "TensorDevice",
            "scores: expected device cpu, q's own, found meta",
        ),
        (
            {"v": zeros(2, 2, 24, 8).mT},
            "TensorLayout",
            "v: expected layout with a last stride of 1 (call .contiguous()), "
            "found strides [384, 192, 1, 8]",
        ),
        (
            {"q": zeros(2, 4, 6, 16).to_sparse()},
            "TensorLayout",
            "q: expected layout strided, found sparse_coo",
        ),
        (
            {"scores": zeros(2, 2, 8).to_sparse()},
            "TensorLayout",
            "scores: expected layout strided, found sparse_coo",
        ),
        (
            {"score": zeros(2, 2, 8)},
            "UnknownTensor",
            "score: expected a tensor named 'scores', found 'score' (did you mean 'scores'?)",
        ),
        (
            {"return_lsee": True},
            "UnknownTensor",
            "return_lsee: expected a tensor named 'scores', found 'return_lsee' "
            "(did you mean 'return_lse'?)",
        ),
        (
            {"documents": zeros(2, 8)},
            "UnknownTensor",
            "documents: expected a tensor named 'scores', found 'documents'",
        ),
        ({"scale": torch.inf}, "Option", "scale: expected a finite number, found inf"),
        ({"scale": torch.nan}, "Option", "scale: expected a finite number, found nan"),
        (
            {"scale": 10**400},
            "Option",
            "scale: expected a finite number, found a number too large for a float",
        ),
        ({"scale": np.float32("nan")}, "Option", "scale: expected a finite number, found nan"),
        ({"scale": "1"}, "Option", "scale: expected a finite number, found str"),
        ({"scale": True}, "Option", "scale: expected a finite number, found bool"),
        ({"scale": torch.ones(())}, "Option", "scale: expected a finite number, found Tensor"),
    ],
)
def test_mistakes(changes: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(errors.CallError) as caught:
        call(**changes)
    assert type(caught.value) is getattr(errors, f"{kind}Error")
    assert str(caught.value) == message + WHERE


def test_scores_of_a_pattern_that_takes_none() -> None:
    with pytest.raises(errors.UnknownTensorError) as caught:
        call("window(4)")
    assert str(caught.value) == (
        "scores: expected a tensor named 'q', 'k' or 'v', found 'scores' (pattern 'window(4)')"
    )


def test_mistakes_are_the_same_on_the_reference() -> None:
    with pytest.raises(errors.TensorShapeError) as caught:
        call(backend="reference", v=zeros(2, 2, 7, 24))
    assert str(caught.value) == (
        "v: expected shape [2, 2, 8, Dv] with 16 <= Dv <= 256, found [2, 2, 7, 24]" + WHERE
    )


def test_options_of_compile() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"backend": "tritn"},
            "backend: expected triton, torch or reference, found 'tritn' (did you mean 'triton'?)",
        ),
        ({"backend": 3}, "backend: expected triton, torch or reference, found 3"),
        (
            {"backnd": "torch"},
            "compile: expected option 'autotune', 'backend' or 'library', found 'backnd' "
            "(did you mean 'backend'?)",
        ),
        ({"tile": 64}, "compile: expected option 'autotune', 'backend' or 'library', found 'tile'"),
    ]
    for options, message in cases:
        with pytest.raises(errors.OptionError) as caught:
            attncomp.compile("full", **options)
        assert str(caught.value) == message


def test_patterns_without_meaning_fail_at_compile() -> None:
    with pytest.raises(errors.SoftComplementError) as caught:
        attncomp.compile("~sparsek(4)")
    assert caught.value.span is not None
    assert caught.value.span.text == "sparsek(4)"
    with pytest.raises(TypeError, match=r"^expected the pattern as text or tree, found list$"):
        attncomp.compile(["full"])


def test_triton_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(errors.BackendError) as caught:
        call(backend="triton")
    assert str(caught.value) == (
        "backend 'triton' cannot run on cpu tensors: expected CUDA or ROCm tensors, or CPU tensors "
        "in a process started with TRITON_INTERPRET=1; use backend 'torch'"
    )


def test_float64_on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(errors.TensorDtypeError) as caught:
        call(backend="triton", q=zeros(2, 4, 6, 16, dtype=torch.float64))
    assert str(caught.value) == (
        "q: expected dtype float16, bfloat16 or float32 on backend 'triton', found float64" + WHERE
    )


def test_bfloat16_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    message = (
        "backend 'triton' cannot run on bfloat16 tensors under TRITON_INTERPRET=1: Triton's "
        "interpreter multiplies bfloat16 matrices wrongly; use float16 or float32, or backend "
        "'torch'"
    )
    narrow = [zeros(2, 2, 8, 16, dtype=torch.bfloat16) for _ in range(3)]
    with pytest.raises(errors.BackendError) as caught:
        call(backend="triton", **dict(zip("qkv", narrow, strict=True)))
    assert str(caught.value) == message
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(errors.BackendError) as caught:
        call(backend="triton")
    assert str(caught.value) == message
    assert call(**dict(zip("qkv", narrow, strict=True))).dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_the_interpreter_refuses_bfloat16(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend_for("triton", device, torch.float16) == "triton"
    with pytest.raises(errors.BackendError):
        backend_for("triton", device, torch.bfloat16)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert backend_for("triton", "cuda", torch.bfloat16) == "triton"


def test_triton_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attncomp.runtime.program._has_triton", lambda: False)
    with pytest.raises(errors.BackendError) as caught:
        call(backend="triton")
    assert str(caught.value) == (
        "backend 'triton' needs the package triton, which is not installed: install it, or use "
        "backend 'torch'"
    )


def test_backend_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNCOMP_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(errors.BackendError):
        call(backend=None)
    assert call(backend="torch").shape == (2, 4, 6, 24)
    monkeypatch.setenv("ATTNCOMP_BACKEND", "cuda")
    with pytest.raises(errors.OptionError) as caught:
        call(backend=None)
    assert str(caught.value) == (
        "environment variable ATTNCOMP_BACKEND: expected triton, torch or reference, found 'cuda'"
    )
