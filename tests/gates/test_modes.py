"""No code uses what `eval()` or `train()` of a network returns: an author's own may return nothing."""

from __future__ import annotations

import ast

from tests.gates import tree


def used(source: str) -> list[int]:
    """Lines on which the value of a call of `.eval()` is used."""
    found = ast.parse(source)
    alone = {id(node.value) for node in ast.walk(found) if isinstance(node, ast.Expr)}
    return [
        node.lineno
        for node in ast.walk(found)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "eval"
        and not node.args
        and id(node) not in alone
    ]


def test_the_value_of_eval_is_not_used():
    lines = [f"{tree.name(path)}:{line}" for path in tree.sources() for line in used(path.read_text(encoding="utf-8"))]
    assert not lines, f"{lines}: call leanconv.core.modes.in_eval(module)"


def test_the_gate_sees_a_value():
    assert used("model.eval()\nmodel.cpu().eval()\nnet = model.eval()\nf(model.eval().cpu())") == [3, 4]
