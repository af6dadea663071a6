"""Rows as `leanconv compare` writes them, with made-up values."""

from __future__ import annotations

from typing import Any


def row(method: str, scores: tuple[float, ...], **values: Any) -> dict[str, Any]:
    mean = sum(scores) / len(scores) if scores else None
    spread = max(scores) - min(scores) if len(scores) > 1 else None
    return {
        "method": method,
        "n": len(scores),
        "seeds": list(range(len(scores))),
        "ratios_to": "dense",
        "params": 272_474,
        "params_ratio": 1.0,
        "macs": 40_813_184,
        "macs_ratio": 1.0,
        "weight_bytes": 1_096_336,
        "test_top1_pct": mean,
        "test_top1_pct_std": spread,
        "test_top1_pct_by_seed": {str(seed): score for seed, score in enumerate(scores)},
        "val_top1_pct": mean,
        "val_top1_pct_std": spread,
        "train_seconds": 3000.0,
        "latency_ms": 2.0,
        "latency_ms_q25": 1.9,
        "latency_ms_q75": 2.1,
        "latency_ratio": 1.0,
        "latency_ratio_q25": 1.0,
        "latency_ratio_q75": 1.0,
        "failed": None,
        **values,
    }


def latency(ratio: float, low: float, high: float) -> dict[str, float]:
    return {"latency_ratio": ratio, "latency_ratio_q25": low, "latency_ratio_q75": high}


NO_SCORE = {
    "test_top1_pct": None,
    "test_top1_pct_std": None,
    "val_top1_pct": None,
    "latency_ms": None,
    "latency_ratio": None,
}
DENSE = row("dense", (91.0, 91.4))
ROWS = [
    DENSE,
    row("split(ratio=0.5)", (89.0, 89.2), params=105_082, params_ratio=0.39, macs_ratio=0.37, **latency(1.3, 1.2, 1.4)),
    row("<b>&|*_", (), **NO_SCORE, failed="seed 0: the loss is not finite <script>|*", n=0),
]


def summary(rows: list[dict[str, Any]] = ROWS) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "kind": "compare",
        "created": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "dirty": None,
        "versions": {"torch": "2"},
        "machine": {"cpu": "a CPU", "gpu": None},
        "command": "leanconv compare 'x<y'",
        "settings": {"target": "resnet20", "data": {"name": "digits"}, "train": {"lr": 0.1, "milestones": [1, 2]}},
        "n": 2,
        "seeds": [0, 1],
        "rows": rows,
    }


def histories() -> dict[str, list[list[dict[str, Any]]]]:
    epochs = [{"epoch": epoch, "train_top1_pct": 40.0 + epoch, "val_top1_pct": 50.0 + epoch} for epoch in (1, 2, 3)]
    return {"dense": [epochs, epochs], "split(ratio=0.5)": [epochs[:2]], "<b>&|*_": []}
