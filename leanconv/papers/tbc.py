"""The authors released operators and no networks. Every network here is rebuilt from the text, the figures and the counts.

The paper does not define TiedBottleneck completely. Entry, exit, splits and the blocks of 4 splits of 32 come from the text. The
tied shortcut is inferred. The inside of the mixer, and the blocks of all other splits, were fitted to the printed parameters;
agreement in these rows does not prove that the authors used the same structure. Such rows are marked fitted. The FLOPs decided
only where TiedResNeSt pools; all other FLOPs were not used for fitting.

FLOPs in this paper are multiply-adds plus small extras. They are compared with the count of ptflops.

- TiedResNeXt-50 with the splits of the text (4 splits of 64) is heavier than its baseline: 31.06 M parameters and 6.33 G MACs, and
  ResNeXt-50 has 25.03 M and 4.23 G. The paper prints no row for it. Only the -S form is lean: 19.06 M and 3.79 G.
- The release of TiedSE never makes the hidden layer of a block narrower than two channels, so the parameters there no longer fall with
  B squared. Our `TiedSE` raises an error in place of this floor.
- Occlusion (Fig. 7): the masks of COCO show only what is visible, so they hide occlusion: 129 of 158 photos have r < 0.1 by
  masks, and 54 by boxes. `leanconv detect eval` warns, and `--occlusion boxes` measures the overlap of boxes. The paper does not
  say which of the two it measured.
- The toolbox of the paper differs from our detectors, which follow torchvision, among other things in three settings with both values: `box_beta` of
  the smooth L1 loss (1, and 0.11 in RetinaNet; torchvision has 1 / 9 and the L1 loss), `mask_heads=3` in the cascade (ours: 1),
  which has 5.29 M more parameters, and `p6="c5"` in RetinaNet, which has 4.13 M more. docs/detection.md has the table.
- HRNet (Fig. 6) is a backbone as it is: `timm/hrnet_w18` and others.
- TiedSE and TiedGCB on other backbones are plan rules: `tied_block` where `*.se.*` ties the attention of any network of timm that
  has it. In Python, `create_model("timm/resnet18", block_args={"attn_layer": "gca"})` adds global context blocks to a ResNet of timm
  (with a reduction of 8), and `tied_block` where `*.se.mlp*` ties them.
"""

from __future__ import annotations

from leanconv.papers.conventions import Counted, Measure, params, params_of, ptflops
from leanconv.papers.rows import Accuracy, Cell, CountRule, Evidence, How, Network, PrintedCount, network

PAPER = "tbc"

R50, R101 = network("timm/resnet50"), network("timm/resnet101")
NEXT101, SENET101 = network("timm/resnext101_32x8d"), network("timm/seresnet101")
RESNEST = network("resnest50_fast")
TIED50, TIED50_S = network("tied_resnet50"), network("tied_resnet50_s")
TIED101, TIED101_S = network("tied_resnet101"), network("tied_resnet101_s")
TIED_NEXT101_S = network("tied_resnext101_s")
TIED_SENET101, TIED_SENET101_S = network("tied_senet101"), network("tied_senet101_s")
TIED_RESNEST, TIED_RESNEST_ALT = network("tied_resnest50_s"), network("tied_resnest50_s", tied="fitted")
SE50 = {blocks: network("tied_se_resnet50", blocks=blocks) for blocks in (1, 2, 4, 8)}
EFFICIENT = {blocks: network("tied_se_efficientnet_b0", blocks=blocks) for blocks in (1, 2, 4)}
GC, GC2, GC4 = network("gc_resnet50"), network("tied_gc_resnet50"), network("tied_gc_resnet50", blocks=4)
GHOST = network("ghost_resnet50")
GC_TGC = network("tied_gc_resnet50", blocks=2, groups=2)
SPLITS = {
    "2s x 48w": network("tied_resnet50_2s48w"),
    "4s x 32w": TIED50,
    "6s x 24w": network("tied_resnet50_6s24w"),
    "8s x 18w": network("tied_resnet50_8s18w"),
}
CONCAT, CONCAT_ADDED = network("tied_resnet50_concat"), network("tied_resnet50_concat_added")

STANDARD = "the usual network, stride on the 3x3"
COMMON = "entry and shortcut TBC B=2, exit dense, stride on the 3x3"
APPENDED = "mixer: sum -> 1x1 w->w -> 1x1 w->p/2, appended to the splits"  # w: width of a split, p: planes
TIED = f"4 splits of 32, B=1,2,4,8; {COMMON}; {APPENDED}"
TIED_S = f"4 splits of 18, B=1,2,2,3; {COMMON}; {APPENDED}"
SE_ADDED = "squeeze-and-excitation, reduction 32, untied"
TGC = "4 splits of 72, TGC with 4 groups, B=1,2,3,6; entry and shortcut TBC B=2; no mixer"
RESNEST_TEXT = "entry 1x1 and 3x3 TBC B=2; exit, shortcut, attention and stem not tied; pool after the 3x3"
RESNEST_ALT = "fitted: 3x3, shortcut and the attention's first layer TBC B=2; pool after the 3x3"
SE_CONFIG = "reduction 16, both fully connected layers TFC with B={}, with biases"
GC_CONFIG = "reduction 4, the 13 blocks of c3 to c5, LayerNorm, mask untied, both 1x1 {}"

FITTED_PARAMS = "the structure was fitted; no simple structure gives every row of Tables 1, 5 and 6"
FITTED_FLOPS = "the structure was fitted to parameters, not to FLOPs; the paper does not say what its FLOPs include"
PRUNING = (
    "an own baseline that can be run: `leanconv compare timm/resnet50 --pretrained --methods 'dense,pruned(macs=0.56,align=1)' "
    "--data FOLDER`"
)
QUOTED = "the paper quotes this figure from others; not rebuilt for this table"
RECIPES = {"coco": "coco_1x", "cityscapes": "tbc_cityscapes"}  # for the Mask R-CNNs in Tables 2 and 4

SE, SE_WEIGHTS = params_of("*.se.*"), params_of("*.se.*.weight")


def se_params_by_formula(blocks: int) -> Measure:
    """A measure of tied attention by the formula: weights / B**2 + biases / B. It is a fraction if B does not divide a width."""

    def se_params_by_formula(c: Counted) -> float:
        return SE_WEIGHTS(c) / blocks**2 + params_of("*.se.*.bias")(c) / blocks

    return se_params_by_formula


def attention_share_pct(c: Counted) -> float:
    """Parameters of the attention modules, in percent of the network's parameters."""
    return 100 * SE(c) / params(c)


def _row(
    table: str, row: str, metric: str, printed: str, unit: str, figure: CountRule | None, config: str, evidence: Evidence,
    reason: str = "", again: bool = False,
) -> PrintedCount:  # fmt: skip
    return PrintedCount(PAPER, table, row, metric, printed, unit, figure, config, evidence, reason, again)


def _sizes(
    table: str, row: str, of: Network | None, printed: tuple[str, str], config: str, evidence: Evidence,
    why: tuple[str, str] = ("", ""), again: bool = False, flops_evidence: Evidence | None = None,
) -> list[PrintedCount]:  # fmt: skip
    """The parameters (M) and FLOPs (G) of one line of a table; "" for a cell that is not printed.

    Args:
        flops_evidence: that of the FLOPs; None takes `evidence`.
    """
    kinds = (("params", "M", params, evidence), ("flops", "G", ptflops, flops_evidence or evidence))
    return [
        _row(
            table,
            row,
            metric,
            text,
            unit,
            None if of is None else CountRule(measure, of),
            config,
            origin,
            reason,
            again,
        )
        for (metric, unit, measure, origin), text, reason in zip(kinds, printed, why, strict=True)
        if text
    ]


def _shares(
    row: str, of: Network, base: Network, printed: tuple[str, str], config: str, evidence: Evidence,
    why: tuple[str, str] = ("", ""), table: str = "1", how: How = "share_pct", again: bool = False,
    flops_evidence: Evidence | None = None,
) -> list[PrintedCount]:  # fmt: skip
    """The figures in brackets of Table 1: parameters and FLOPs, in percent of the baseline.

    Args:
        flops_evidence: that of the FLOPs; None takes `evidence`.
    """
    kinds = (("params_share", params, evidence), ("flops_share", ptflops, flops_evidence or evidence))
    return [
        _row(table, row, metric, text, "%", CountRule(measure, of, base, how), config, origin, reason, again)
        for (metric, measure, origin), text, reason in zip(kinds, printed, why, strict=True)
        if text
    ]


def _attention(
    table: str, row: str, printed: str, figure: CountRule, config: str, evidence: Evidence = "derived", reason: str = "",
    unit: str = "M", again: bool = False,
) -> PrintedCount:  # fmt: skip
    metric = "params" if unit == "M" else "params_share"
    return _row(table, row, metric, printed, unit, figure, config, evidence, reason, again)


_TABLE_1: list[PrintedCount] = [
    *_sizes("1", "ResNet50", R50, ("25.6", "4.2"), STANDARD, "derived",
            ("", "4.12 with the extras of ptflops, 4.09 MACs; the paper does not state its extras")),
    *_sizes("1", "TiedResNet50-S", TIED50_S, ("13.9", "2.5"), TIED_S, "fitted", ("", FITTED_FLOPS)),
    *_shares("TiedResNet50-S", TIED50_S, R50, ("54", "60"), TIED_S, "fitted", ("", FITTED_FLOPS)),
    *_sizes("1", "TiedResNet50", TIED50, ("22.0", "4.4"), TIED, "fitted", ("", FITTED_FLOPS)),
    *_shares("TiedResNet50", TIED50, R50, ("86", "105"), TIED, "fitted"),
    *_sizes("1", "ResNet101", R101, ("44.6", "7.9"), STANDARD, "derived",
            ("44.549 M, which the paper rounds up", "7.8495 G with the extras of ptflops, just below 7.85")),
    *_sizes("1", "TiedResNet101-S", TIED101_S, ("24.0", "4.8"), TIED_S, "fitted", ("", FITTED_FLOPS)),
    *_shares("TiedResNet101-S", TIED101_S, R101, ("54", "61"), TIED_S, "fitted", ("", FITTED_FLOPS)),
    *_sizes("1", "TiedResNet101", TIED101, ("39.4", "8.6"), TIED, "fitted", (FITTED_PARAMS, FITTED_FLOPS)),
    *_shares("TiedResNet101", TIED101, R101, ("88", "109"), TIED, "fitted", ("", FITTED_FLOPS)),
    *_sizes("1", "ResNeXt101-32x8d", NEXT101, ("88.8", "16.5"), STANDARD, "derived"),
    *_sizes("1", "TiedResNeXt101-S", TIED_NEXT101_S, ("64.0", "14.6"), TGC, "fitted",
            ("the paper does not give groups and blocks: ours rise like 1,2,4,8; B=1,3,3,6 would have 63.98 M and 14.32 G",
             "the paper does not give groups and blocks; see the parameters of this row")),
    *_shares("TiedResNeXt101-S", TIED_NEXT101_S, NEXT101, ("65", "78"), TGC, "fitted",
             ("a mistake of the paper: its own cells give 64.0 / 88.8 = 72 %",
              "a mistake of the paper: its own cells give 14.6 / 16.5 = 88 %")),
    *_sizes("1", "SENet101", SENET101, ("49.1", "7.9"), "SE-ResNet-101, reduction 16, with biases", "derived",
            ("SE-ResNet-101 has 49.33 M, and 49.29 M without the biases of SE; it is not known what 49.1 leaves out", "")),
    *_sizes("1", "TiedSENet101-S", TIED_SENET101_S, ("26.4", "5.2"), f"{TIED_S}; {SE_ADDED}", "fitted",
            ("", "SE adds 0.01 G here, and 0.4 G in the paper, which does not explain it")),
    *_shares("TiedSENet101-S", TIED_SENET101_S, SENET101, ("54", "66"), f"{TIED_S}; {SE_ADDED}", "fitted",
             ("", "follows from the FLOPs of this row")),
    *_sizes("1", "TiedSENet101", TIED_SENET101, ("41.8", "9.1"), f"{TIED}; {SE_ADDED}", "fitted",
            (FITTED_PARAMS, "SE adds 0.01 G here, and 0.5 G in the paper, which does not explain it")),
    *_shares("TiedSENet101", TIED_SENET101, SENET101, ("85", "115"), f"{TIED}; {SE_ADDED}", "fitted",
             ("", "follows from the FLOPs of this row")),
    *_sizes("1", "ResNeSt-50-fast", RESNEST, ("27.5", "4.4"),
            "radix 2, 1s1x64d, deep stem of 32, pool before the 3x3 and in the shortcut", "derived"),
    *_sizes("1", "TiedResNeSt50-S", TIED_RESNEST, ("16.5", "3.6"), RESNEST_TEXT, "derived",
            ("the rule in the text gives 15.75 M; see the fitted alternative", "2.98 G if the network pools as in the fast form"),
            flops_evidence="fitted"),
    *_shares("TiedResNeSt50-S", TIED_RESNEST, RESNEST, ("60", "82"), RESNEST_TEXT, "derived",
             ("follows from the parameters of this row", "follows from the FLOPs of this row"), flops_evidence="fitted"),
    *_sizes("1", "TiedResNeSt50-S (alternative)", TIED_RESNEST_ALT, ("16.5", "3.6"), RESNEST_ALT, "fitted",
            ("the closest simple rule; contradicts the text", "fitted to parameters; 3.75 G plain MACs"), again=True),
    *_sizes("1", "Taylor-FO-BN", None, ("14.2", "2.3"), "pruned ResNet-50", "quoted", (QUOTED, QUOTED)),
    *_sizes("1", "Taylor-FO-BN (pruning here)", Network("timm/resnet50", kept_macs=0.56), ("14.2", "2.3"),
            "ResNet-50 pruned to the printed FLOPs, every layer by the same share", "inferred", (PRUNING, PRUNING), again=True),
    *_sizes("1", "ShuffleNet-50", None, ("", "2.3"), "ShuffleNet", "quoted", (QUOTED, QUOTED)),
    *_sizes("1", "GhostNet-50 (s=2)", GHOST, ("13.0", "2.2"), "Ghost-ResNet-50, s = 2, d = 3", "inferred",
            ("no form that we tried has 13.0; see Table 2 of SPConv", "")),
]  # fmt: skip

_TABLE_2: list[PrintedCount] = [
    *_sizes("2", "Mask R-CNN, ResNet50", R50, ("25.6", ""), f"backbone; {STANDARD}", "derived"),
    *_sizes("2", "Mask R-CNN, TiedResNet50-S", TIED50_S, ("13.9", ""), f"backbone; {TIED_S}", "fitted"),
    *_sizes("2", "Mask R-CNN, TiedResNet50", TIED50, ("22.0", ""), f"backbone; {TIED}", "fitted"),
]

_FORMULA = "weights / 16 and biases / 4 in every block, also if 4 does not divide the width"
_AS_BUILT = (
    "4 does not divide squeeze widths of 6 and 10, so 4 of 16 blocks stay dense; the paper does not mention this"
)
_TABLE_3: list[PrintedCount] = [
    *_sizes("3", "SE-ResNet50", SE50[1], ("28.1", ""), "whole network, B=1", "derived"),
    *(
        _attention("3", f"SE-ResNet50 TiedSE B={b}", text, CountRule(SE, SE50[b]), SE_CONFIG.format(b))
        for b, text in ((1, "2.53"), (2, "0.64"), (4, "0.16"), (8, "0.04"))
    ),
    *(
        _attention("3", f"SE-ResNet50 TiedSE B={b}", text, CountRule(SE, SE50[b], SE50[1], "share_pct"),
                   SE_CONFIG.format(b), unit="%")
        for b, text in ((2, "25"), (4, "6.4"), (8, "1.6"))
    ),
    *_sizes("3", "EfficientNet-B0", EFFICIENT[1], ("5.3", ""), "whole network, B=1", "derived"),
    _attention("3", "EfficientNet-B0 TiedSE B=1", "0.65", CountRule(SE, EFFICIENT[1]), "SE of the usual EfficientNet-B0",
               reason="the usual EfficientNet-B0 has 0.637 M in its SE blocks, 0.627 M without biases"),
    _attention("3", "EfficientNet-B0 TiedSE B=2", "0.16", CountRule(SE, EFFICIENT[2]), "every SE layer TFC B=2, with biases"),
    _attention("3", "EfficientNet-B0 TiedSE B=2", "25", CountRule(SE, EFFICIENT[2], EFFICIENT[1], "share_pct"),
               "every SE layer TFC B=2, with biases", unit="%"),
    _attention("3", "EfficientNet-B0 TiedSE B=4", "0.04", CountRule(SE, EFFICIENT[4]), "12 of 16 blocks tied",
               reason=_AS_BUILT),
    _attention("3", "EfficientNet-B0 TiedSE B=4", "6.4", CountRule(SE, EFFICIENT[4], EFFICIENT[1], "share_pct"),
               "12 of 16 blocks tied", reason=_AS_BUILT, unit="%"),
    _attention("3", "EfficientNet-B0 TiedSE B=4 (by the formula)", "0.04", CountRule(se_params_by_formula(4), EFFICIENT[1]),
               _FORMULA, reason="widths of 6 and 10 cannot be built with B=4", again=True),
    _attention("3", "EfficientNet-B0 TiedSE B=4 (by the formula)", "6.4", CountRule(se_params_by_formula(4), EFFICIENT[1],
               Cell("0.65M"), "share_pct"), f"{_FORMULA}; against the printed 0.65 M", unit="%", again=True),
]  # fmt: skip

_B4 = "B=4 gives a sixteenth of the parameters, as the text says; the printed 1.3 M is an eighth"
_FITS = "fitted: TGC with two groups is an eighth; the table says B=4"
_TABLE_4: list[PrintedCount] = [
    _attention("4", "GCB", "10", CountRule(SE, GC), GC_CONFIG.format("dense")),
    _attention("4", "TiedGCB B=2", "2.5", CountRule(SE, GC2), GC_CONFIG.format("TBC B=2")),
    _attention("4", "TiedGCB B=2", "25", CountRule(SE, GC2, GC, "share_pct"), GC_CONFIG.format("TBC B=2"), unit="%"),
    _attention("4", "TiedGCB B=4", "1.3", CountRule(SE, GC4), GC_CONFIG.format("TBC B=4"), reason=_B4),
    _attention("4", "TiedGCB B=4", "13", CountRule(SE, GC4, GC, "share_pct"), GC_CONFIG.format("TBC B=4"), "derived", _B4, "%"),
    _attention("4", "TiedGCB B=4 (as TGC)", "1.3", CountRule(SE, GC_TGC), GC_CONFIG.format("TGC G=2, B=2"), "fitted", _FITS,
               again=True),
    _attention("4", "TiedGCB B=4 (as TGC)", "13", CountRule(SE, GC_TGC, GC, "share_pct"), GC_CONFIG.format("TGC G=2, B=2"),
               "fitted", _FITS, "%", True),
]  # fmt: skip

_SPLIT = f"{COMMON}; {APPENDED}"
_TABLE_5: list[PrintedCount] = [
    *_sizes("5", "2s x 48w", SPLITS["2s x 48w"], ("23.8", "4.4"), f"B=1,2; {_SPLIT}", "fitted", (FITTED_PARAMS, "")),
    *_sizes("5", "4s x 32w", TIED50, ("22.0", "4.4"), TIED, "fitted", ("", FITTED_FLOPS)),
    *_sizes("5", "6s x 24w", SPLITS["6s x 24w"], ("23.0", "4.6"), f"B=1,2,2,2,2,2; {_SPLIT}", "fitted",
            (FITTED_PARAMS, "")),
    *_sizes("5", "8s x 18w", SPLITS["8s x 18w"], ("23.8", "4.4"), f"B=1,1,1,1,2,2,2,2; {_SPLIT}", "fitted",
            ("", FITTED_FLOPS)),
]  # fmt: skip

_TABLE_6: list[PrintedCount] = [
    *_sizes("6", "element-sum", TIED50, ("22.0", ""), TIED, "fitted"),
    *_sizes("6", "concatenate", CONCAT, ("26.7", ""), "as the sum, with the mixer on all splits: 1x1 D->D -> 1x1 D->p/2",
            "fitted", ("the mixer that was fitted to the other rows is too large here; see the fitted alternative", "")),
    *_sizes("6", "concatenate (alternative)", CONCAT_ADDED, ("26.7", ""),
            "fitted to this row: 1x1 D->D -> 3x3 TBC B=4 D->D, added to the splits", "fitted",
            ("the same mixer on the sum has exactly the parameters of TiedResNet50 and 101, but is 13 % off in the -S rows",
             ""), again=True),
]  # fmt: skip

_BIASES = "the weights fall by B squared, and biases and norms by less; weights alone: "
_TEXT: list[PrintedCount] = [
    _row("text", "TiedSE, abstract: 64x fewer parameters", "params_factor", "64", "x",
         CountRule(SE, SE50[8], SE50[1], "factor"), SE_CONFIG.format(8), "derived", f"{_BIASES}64"),
    _row("text", "TiedSE, abstract: 64x fewer parameters (weights)", "weights_factor", "64", "x",
         CountRule(SE_WEIGHTS, SE50[8], SE50[1], "factor"), "weights alone, B=8", "derived", again=True),
    _row("text", "TiedGCB: 16x parameters reduction", "params_factor", "16", "x", CountRule(SE, GC4, GC, "factor"),
         GC_CONFIG.format("TBC B=4"), "derived",
         f"{_BIASES}16, without the mask; the gains in this sentence (1.8 and 1.4, in the wrong order) belong to B=2"),
    _row("text", "TiedGCB: 16x parameters reduction (B of the gains)", "params_factor", "16", "x",
         CountRule(SE, GC2, GC, "factor"), GC_CONFIG.format("TBC B=2"), "derived",
         "the gains in this sentence (1.8 and 1.4, in the wrong order) belong to B=2, which is 4x", True),
    _row("text", "SE counts for 10 % of the model", "params_share", "10", "%", CountRule(attention_share_pct, SE50[1]),
         "SE-ResNet-50", "derived", "2.53 of 28.1 M is 9 %; compared with ResNet-50 without SE it is 9.9 %"),
    _row("text", "GCB counts for 25 % of the model", "params_share", "25", "%", CountRule(attention_share_pct, GC),
         "ResNet-50 with GCB", "derived", "10.0 of 35.6 M is 28 %; the paper does not say which model it means"),
    *_shares("TiedResNeSt-50-S: 59 % of parameters", TIED_RESNEST, RESNEST, ("59", ""), RESNEST_TEXT, "derived",
             ("the rule in the text gives 15.75 M", ""), "text"),
    *_shares("TiedResNeSt-50-S: 59 % of parameters (alternative)", TIED_RESNEST_ALT, RESNEST, ("59", ""), RESNEST_ALT,
             "fitted", ("59.84; the text cuts it off, and Table 1 rounds it to 60", ""), "text", again=True),
]  # fmt: skip

ROWS: tuple[PrintedCount, ...] = (*_TABLE_1, *_TABLE_2, *_TABLE_3, *_TABLE_4, *_TABLE_5, *_TABLE_6, *_TEXT)


def _tops(
    table: str, row: str, of: Network | None, top1: str, top5: str = "", reason: str = "", recipe: str | None = "imagenet_tbc"
) -> list[Accuracy]:  # fmt: skip
    trained = recipe if of is not None else None
    cells = (("top1", top1), ("top5", top5))
    return [Accuracy(PAPER, table, row, "imagenet", text, m, of, trained, reason) for m, text in cells if text]


_ZOO = "copied from PyTorch's model zoo"
_AGAIN = "re-implemented by the authors, 100 epochs"
_LONGER = "longer training with label smoothing, cosine schedule and stronger augmentation, none of them specified"
_OCCLUDED = "the figure prints no numbers, and the paper does not say how it measures r"
_EFFICIENT = "the paper gives no recipe for EfficientNet"


def _aps(table: str, row: str, of: Network | None, dataset: str, **aps: str) -> list[Accuracy]:
    recipe = RECIPES[dataset]
    return [
        Accuracy(PAPER, table, row, dataset, text, metric, of, recipe, detector="mask_rcnn")
        for metric, text in aps.items()
    ]


def _box_and_mask(row: str, of: Network, *printed: str) -> list[Accuracy]:
    metrics = ("AP_box", "AP50_box", "AP_mask", "AP50_mask")
    return _aps("4", row, of, "coco", **dict(zip(metrics, printed, strict=True)))


ACCURACIES: tuple[Accuracy, ...] = (
    *_tops("1", "ResNet50", R50, "76.2", "92.9", _ZOO),
    *_tops("1", "TiedResNet50-S", TIED50_S, "76.2", "92.9"),
    *_tops("1", "TiedResNet50", TIED50, "77.6", "93.6"),
    *_tops("1", "ResNet101", R101, "77.4", "93.6", _ZOO),
    *_tops("1", "TiedResNet101-S", TIED101_S, "77.7", "93.8"),
    *_tops("1", "TiedResNet101", TIED101, "78.8", "94.2"),
    *_tops("1", "ResNeXt101-32x8d", NEXT101, "79.3", "94.5", _ZOO),
    *_tops("1", "TiedResNeXt101-S", TIED_NEXT101_S, "79.3", "94.5"),
    *_tops("1", "SENet101", SENET101, "77.6", "93.9", "copied by the paper"),
    *_tops("1", "SENet101 (re-implemented)", SENET101, "78.3", "94.2", _AGAIN),
    *_tops("1", "TiedSENet101-S", TIED_SENET101_S, "79.0", "94.5"),
    *_tops("1", "TiedSENet101-S (longer)", TIED_SENET101_S, "80.9", "95.3", _LONGER, None),
    *_tops("1", "TiedSENet101", TIED_SENET101, "79.8", "94.8"),
    *_tops("1", "ResNeSt-50-fast", RESNEST, "78.6", "93.9", _AGAIN),
    *_tops("1", "TiedResNeSt50-S", TIED_RESNEST, "78.8", "94.6"),
    *_tops("1", "Taylor-FO-BN", None, "74.5", reason=QUOTED),
    *_tops("1", "ShuffleNet-50", None, "74.8", reason=f"{QUOTED}; {_LONGER}"),
    *_tops("1", "GhostNet-50 (s=2)", GHOST, "75.0", "92.3", "copied from GhostNet; the paper does not train it", None),
    *_aps("2", "Mask R-CNN, ResNet50", R50, "cityscapes", AP_mask="31.5"),
    *_aps("2", "Mask R-CNN, TiedResNet50-S", TIED50_S, "cityscapes", AP_mask="32.5"),
    *_aps("2", "Mask R-CNN, TiedResNet50", TIED50, "cityscapes", AP_mask="33.6"),
    *_tops("3", "SE-ResNet50 SE (quoted)", None, "76.71", "93.38", "quoted from SENet"),
    *_tops("3", "SE-ResNet50 TiedSE B=1", SE50[1], "77.08", "93.51", _AGAIN),
    *_tops("3", "SE-ResNet50 TiedSE B=2", SE50[2], "77.07", "93.53"),
    *_tops("3", "SE-ResNet50 TiedSE B=4", SE50[4], "77.11", "93.52"),
    *_tops("3", "SE-ResNet50 TiedSE B=8", SE50[8], "77.09", "93.52"),
    *_tops("3", "EfficientNet-B0 TiedSE B=1", EFFICIENT[1], "77.1", "93.3", _EFFICIENT, None),
    *_tops("3", "EfficientNet-B0 TiedSE B=2", EFFICIENT[2], "77.3", "93.4", _EFFICIENT, None),
    *_tops("3", "EfficientNet-B0 TiedSE B=4", EFFICIENT[4], "77.1", "93.3", _EFFICIENT, None),
    *_box_and_mask("Mask R-CNN", R50, "37.3", "59.0", "34.2", "55.9"),
    *_box_and_mask("GCB", GC, "38.9", "61.0", "35.5", "57.6"),
    *_box_and_mask("TiedGCB B=2", GC2, "39.1", "61.0", "35.6", "57.6"),
    *_box_and_mask("TiedGCB B=4", GC4, "38.6", "60.8", "35.2", "57.2"),
    *_tops("5", "2s x 48w", SPLITS["2s x 48w"], "77.27", "93.53"),
    *_tops("5", "4s x 32w", TIED50, "77.61", "93.62"),
    *_tops("5", "6s x 24w", SPLITS["6s x 24w"], "77.37", "93.66"),
    *_tops("5", "8s x 18w", SPLITS["8s x 18w"], "77.21", "93.54"),
    *_tops("6", "element-sum", TIED50, "77.61", "93.62"),
    *_tops("6", "concatenate", CONCAT, "77.65", "93.64"),
    *(
        Accuracy(PAPER, "text", row, dataset, printed, metric, reason=reason)
        for row, dataset, printed, metric, reason in (
            ("Fig. 7b: TiedResNet over ResNet at r = 0.8", "coco", "8.3", "AP75 gain", _OCCLUDED),
            ("Fig. 7a: TiedResNet over ResNet at r = 0.8", "coco", "5.9", "AP gain", _OCCLUDED),
            ("Fig. 7a: TiedResNet over ResNet at r = 0", "coco", "2.8", "AP gain", _OCCLUDED),
            ("Fig. 7b: ResNet from r = 0 to 0.8", "coco", "6", "AP75 drop", f"more than this; {_OCCLUDED}"),
            ("Fig. 7b: TiedResNet from r = 0 to 0.8", "coco", "0.7", "AP75 drop", _OCCLUDED),
            (
                "Fig. 6: TiedResNet over ResNet and ResNeXt",
                "coco",
                "2",
                "AP_box gain",
                "2 to 2.5, read from a figure without numbers",
            ),
            ("TiedBottleneck over the bottleneck", "imagenet", "1", "top1 gain", "more than this; without the mixer"),
            ("the mixer", "imagenet", "0.5", "top1 gain", "no table has a row without the mixer"),
            ("2 splits in place of 4", "imagenet", "0.4", "top1 drop", "Table 5 has 0.34"),
            ("TiedResNet-S over ResNet, masks", "coco", "1.1", "AP_mask gain", "Table 2 has 1.0, on Cityscapes"),
            ("TiedResNet over ResNet, masks", "coco", "2.1", "AP_mask gain", "Table 2 has 2.1, on Cityscapes"),
            (
                "GCB with group convolution, against GCB",
                "coco",
                "0.4",
                "AP drop",
                "the gains beside it are of tied blocks",
            ),
        )
    ),
)
