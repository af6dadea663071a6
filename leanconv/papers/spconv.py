"""SPConv counts operations like an early release of thop: an output element of a normalisation layer counts four, and an output of
a fully connected layer counts twice its inputs. With this convention, our counts equal the printed counts of all SPConv networks,
except for one misprint. Plain MACs are 3 to 17 % lower.

- The VGG-16 "baseline" of the paper (16.62 M, 349.51 M) has a 1x1 parallel to every 3x3 except the first. VGG-16 with this head has
  14.99 M parameters and 315.1 M operations. The savings in Table 1 are therefore too high: ratio 1/2 saves 62.6 % of the parameters,
  not 66.3 %.
- The savings of the peers in the same table compare with that baseline too. The "45.20 %" of Ghost-VGG-16 is the share of the
  operations that remains, not the share that is saved.
- The 76.89 M operations of HetConv-VGG-16-P8 are a misquote: the README of HetConv's release prints 71.35 M. HetConv counts one
  operation for each output element beside its MACs, and multiplies both by the same factor; so 105.98 M (P4) and 71.35 M (P8) are
  met. The README also prints accuracies of P4 and P8 (93.93 and 93.92), which are not those of this table (93.92 and 93.86).
- One count of the peers remains unexplained: 13.0 M parameters of Ghost-ResNet-50 (we count 13.95 M). The 2.40 G of
  OctConv-ResNet-50 equal the count of its release, whose strided layers cost more than the formula of its paper.
- The GPU times stay quoted: no GPU of this kind measured them here. `leanconv bench` measures other devices.
- One cell is left out: OctConv-ResNet-50 saves 0.00 % of the parameters, because it has every weight of ResNet-50.
- VGG-16 at ratio 1/16 has 50.14 M operations, not 55.14 M. ResNet-20 at ratio 1/4 saves 69.0 % of the operations, not 75.88 %.
- ResNet-20 is counted with projection shortcuts (option B).
"""

from __future__ import annotations

from leanconv.papers.conventions import Counted, Measure, conv_and_fc_params, early_thop, macs, params, params_of
from leanconv.papers.rows import Accuracy, Cell, CountRule, Evidence, How, Network, PrintedCount, network

R20, R20_DENSE = network("spconv_resnet20"), network("resnet20")
VGG, VGG_DENSE, VGG_PRINTED = network("spconv_vgg16"), network("vgg16"), network("spconv_vgg16_printed_baseline")
R50, R50_DENSE = network("spconv_resnet50"), network("timm/resnet50")
OPTION_B = "projection shortcuts; every 3x3 except the first is split"
SPLIT = "two groups, a bias on the redundant 1x1, two inner norms, a 2x2 average before both 1x1s at stride 2"
PRINTED_BASE = "a 1x1 parallel to every 3x3 except the first, as the printed counts show"
FLATTERED = "compared with the printed baseline and its extra 1x1s; compared with VGG-16 itself the saving is smaller"


def ratio(base: str, value: float) -> Network:
    """The network `base` at another ratio."""
    return network(base, ratio=value)


def _row(
    table: str, row: str, metric: str, printed: str, unit: str, measure: Measure, of: Network, config: str,
    against: Network | None = None, how: How = "value", evidence: Evidence = "derived", reason: str = "",
    rounded: tuple[str, str] | None = None, again: bool = False,
) -> PrintedCount:  # fmt: skip
    figure = CountRule(measure, of, against, how, rounded)
    return PrintedCount("spconv", table, row, metric, printed, unit, figure, config, evidence, reason, again)


def _both(
    table: str, row: str, of: Network, counts: tuple[str, str], units: tuple[str, str], config: str,
    evidence: Evidence = "derived", reasons: tuple[str, str] = ("", ""), again: bool = False,
) -> list[PrintedCount]:  # fmt: skip
    """A network's parameters and operations."""
    return [
        _row(
            table, row, metric, counts[place], units[place], measure, of, config, evidence=evidence, reason=reasons[place],
            again=again,
        )
        for place, (metric, measure) in enumerate((("params", params), ("flops", early_thop)))
    ]  # fmt: skip


def _saved(
    table: str,
    row: str,
    of: Network,
    base: Network,
    metric: str,
    printed: str,
    rounded: tuple[str, str],
    reason: str = "",
) -> PrintedCount:
    """A cell of the columns "reduced". The paper divides its own rounded cells."""
    measure = params if metric == "params" else early_thop
    config = f"against {base}, from the cells {rounded[1]} and {rounded[0]}"
    return _row(
        table, row, f"{metric} saved", printed, "%", measure, of, config, base, "saved_pct", "derived", reason, rounded
    )


TABLE_1 = [
    *_both("1", "ResNet-20 baseline", R20_DENSE, ("0.27", "41.62"), ("M", "M"), "projection shortcuts (option B)"),
    *_both("1", "ResNet-20 ratio 1/2", R20, ("0.10", "17.91"), ("M", "M"), f"{OPTION_B}; {SPLIT}"),
    *_both("1", "ResNet-20 ratio 1/4", ratio("spconv_resnet20", 0.25), ("0.071", "12.89"), ("M", "M"), OPTION_B),
    *(
        _saved("1", f"ResNet-20 ratio {name}", ratio("spconv_resnet20", value), R20_DENSE, metric, printed, cells, reason)
        for name, value, metric, printed, cells, reason in (
            ("1/2", 0.5, "params", "63.00", ("0.27M", "0.10M"), "the paper's own cells give 62.96"),
            ("1/2", 0.5, "flops", "56.96", ("41.62M", "17.91M"), ""),
            ("1/4", 0.25, "params", "73.70", ("0.27M", "0.071M"), ""),
            ("1/4", 0.25, "flops", "75.88", ("41.62M", "12.89M"), "a misprint: the paper's own cells give 69.03"),
        )
    ),
    *_both(
        "1", "VGG-16 baseline (with extra 1x1s)", VGG_PRINTED, ("16.62", "349.51"), ("M", "M"), PRINTED_BASE, "inferred", again=True
    ),
    *_both(
        "1", "VGG-16 baseline", VGG_DENSE, ("16.62", "349.51"), ("M", "M"), "13 3x3s with norms, FC 512 (norm)-10",
        reasons=(f"the printed figure is of another network: {PRINTED_BASE}",) * 2,
    ),
    *_both("1", "VGG-16 ratio 1/2", VGG, ("5.6", "118.27"), ("M", "M"), SPLIT),
    *_both("1", "VGG-16 ratio 1/4", ratio("spconv_vgg16", 0.25), ("3.77", "79.34"), ("M", "M"), SPLIT),
    *_both("1", "VGG-16 ratio 1/8", ratio("spconv_vgg16", 0.125), ("2.85", "59.87"), ("M", "M"), SPLIT),
    *_both(
        "1", "VGG-16 ratio 1/16", ratio("spconv_vgg16", 0.0625), ("2.39", "55.14"), ("M", "M"), SPLIT,
        reasons=("", "a misprint of 50.14: the same count gives the other ratios to the last digit"),
    ),
    *(
        _saved("1", f"VGG-16 ratio {name}", ratio("spconv_vgg16", value), VGG_PRINTED, metric, printed, cells, reason + FLATTERED)
        for name, value, metric, printed, cells, reason in (
            ("1/2", 0.5, "params", "66.30", ("16.62M", "5.6M"), ""),
            ("1/2", 0.5, "flops", "66.24", ("349.51M", "118.27M"), "the paper's own cells give 66.16; "),
            ("1/4", 0.25, "params", "77.31", ("16.62M", "3.77M"), ""),
            ("1/4", 0.25, "flops", "77.29", ("349.51M", "79.34M"), ""),
            ("1/8", 0.125, "params", "82.85", ("16.62M", "2.85M"), ""),
            ("1/8", 0.125, "flops", "82.87", ("349.51M", "59.87M"), ""),
            ("1/16", 0.0625, "params", "85.62", ("16.62M", "2.39M"), ""),
            ("1/16", 0.0625, "flops", "84.22", ("349.51M", "55.14M"), "the paper divides the misprinted 55.14; "),
        )
    ),
    _row(
        "1", "VGG-16 ratio 1/2, against true VGG-16", "params saved", "66.30", "%", params, VGG, f"against {VGG_DENSE}",
        VGG_DENSE, "saved_pct", reason="the saving compared with VGG-16 itself", again=True,
    ),
]  # fmt: skip
TABLE_2 = [
    *_both("2", "ResNet-50 baseline", R50_DENSE, ("25.56", "4.14"), ("M", "G"), "stride on the 3x3"),
    *_both("2", "ResNet-50 ratio 1/2", R50, ("18.34", "2.97"), ("M", "G"), f"bottleneck 3x3s split; {SPLIT}"),
    *_both("2", "ResNet-50 ratio 1/4", ratio("spconv_resnet50", 0.25), ("16.93", "2.74"), ("M", "G"), SPLIT),
    *_both("2", "ResNet-50 ratio 1/8", ratio("spconv_resnet50", 0.125), ("16.22", "2.62"), ("M", "G"), SPLIT),
    *(
        _saved("2", f"ResNet-50 ratio {name}", ratio("spconv_resnet50", value), R50_DENSE, metric, printed, cells, reason)
        for name, value, metric, printed, cells, reason in (
            ("1/2", 0.5, "params", "28.24", ("25.56M", "18.34M"), ""),
            ("1/2", 0.5, "flops", "28.26", ("4.14G", "2.97G"), ""),
            ("1/4", 0.25, "params", "33.76", ("25.56M", "16.93M"), ""),
            ("1/4", 0.25, "flops", "33.82", ("4.14G", "2.74G"), ""),
            ("1/8", 0.125, "params", "36.54", ("25.56M", "16.22M"), ""),
            ("1/8", 0.125, "flops", "36.72", ("4.14G", "2.62G"), "the paper's own cells give 36.715"),
        )
    ),
]  # fmt: skip
NO_HEAD = "ResNet-50 without pooling and classifier"
TABLE_3 = [
    *_both("3", "Backbone, vanilla", network("resnet50_backbone"), ("23.51", "4.13"), ("M", "G"), NO_HEAD),
    *_both("3", "Backbone, ratio 1/2", network("spconv_resnet50_backbone"), ("16.29", "2.96"), ("M", "G"), NO_HEAD),
]
ABLATIONS: tuple[tuple[str, dict[str, object], str, str, str], ...] = (
    ("P1+P21+P3", {}, "0.10", "17.91", "the split convolution itself"),
    ("P1+P22+P3", {"representative": "chain"}, "0.12", "20.38", "the 1x1 after the grouped convolution"),
    ("P1+P20+P3", {"representative": "full"}, "0.15", "25.70", "one 3x3 without groups"),
    ("P1+P21", {"fusion": False}, "0.10", "17.56", "branches added, no gate"),
    ("P21", {"redundant": False}, "0.088", "14.47", "the redundant channels dropped, one inner norm"),
)
TABLE_4 = [
    row
    for name, settings, held, done, config in ABLATIONS
    for row in _both("4", name, network("spconv_resnet20", **settings), (held, done), ("M", "M"), config)
]
HEADLINES = [
    _row(
        "section 3.5", "3x3 at ratio 1/2, two groups", "params", "2.8", "x", params_of("block5.conv2.[gprw]*t"), VGG,
        "weights of one 3x3, 512 -> 512: eq. 9", VGG_DENSE, "factor",
    ),
]  # fmt: skip
GHOST_VGG, GHOST_R50, OCT = network("ghost_vgg16"), network("ghost_resnet50"), network("oct_resnet50")
HET_4, HET_8, HET_R50 = network("het_vgg16"), network("het_vgg16", part=8), network("het_resnet50")
PLAIN_MACS = "MACs alone, which HetConv's paper and Ghost count"
OUTPUTS = "MACs and one operation for each output element, both multiplied by HetConv's factor"
STEM_OUTPUTS = 64 * 32 * 32  # of VGG-16's first convolution, which stays dense


def het_release(part: int) -> Measure:
    """The count of HetConv's release for VGG-16: (MACs + output elements of the dense layer) * (1 / P + (1 - 1 / P) / 9)."""

    def het_release_operations(c: Counted) -> float:
        tied = c.tally.conv_biases - STEM_OUTPUTS  # every convolution has a bias, so this counts output elements
        return macs(c) + STEM_OUTPUTS + tied * (1 / part + (1 - 1 / part) / 9)

    return het_release_operations


HET = "exact HetConv taps on convolutions 2-13"
NO_NORMS = "without norms, as both ratios show"
OCTAVE = (
    "no octaves in layer4; at stride 2 the low map goes to the high output without a stride, as in OctConv's release"
)
GHOST = "s = 2, d = 3 on every convolution except the stem, shortcuts included; no norms inside the Ghost modules"


def _of_printed(
    row: str, metric: str, printed: str, measure: Measure, of: Network, cell: str, base: str, reason: str = ""
) -> PrintedCount:
    """The saving of a peer, compared with a printed cell of the baseline. The two are counted in different ways."""
    figure = CountRule(measure, of, Cell(base), "saved_pct", (base, cell), VGG_PRINTED)
    return PrintedCount(
        "spconv",
        "1",
        row,
        f"{metric} saved",
        printed,
        "%",
        figure,
        f"against the printed {base}",
        "inferred",
        reason + FLATTERED,
    )


PEERS = [
    _row("1", "Ghost-VGG-16-s2", "params", "7.7", "M", params, GHOST_VGG, "s = 2, d = 3 on convolutions 2-13; no norms inside the Ghost modules"),
    _row("1", "Ghost-VGG-16-s2", "flops", "158", "M", macs, GHOST_VGG, PLAIN_MACS),
    _saved("1", "Ghost-VGG-16-s2", GHOST_VGG, VGG_PRINTED, "params", "53.67", ("16.62M", "7.7M"), FLATTERED),
    _of_printed(
        "Ghost-VGG-16-s2", "flops", "45.20", macs, GHOST_VGG, "158M", "349.51M", "the paper prints the share that remains: 158 / 349.51; "
    ),
    _row("1", "HetConv-VGG-16-P4", "params", "5.17", "M", conv_and_fc_params, HET_4, f"{HET}; {NO_NORMS}", evidence="inferred"),
    _row(
        "1", "HetConv-VGG-16-P4", "flops", "105.98", "M", het_release(4), HET_4, f"{HET}; {OUTPUTS}", evidence="inferred",
    ),
    _of_printed("HetConv-VGG-16-P4", "params", "68.89", conv_and_fc_params, HET_4, "5.17M", "16.62M"),
    _of_printed("HetConv-VGG-16-P4", "flops", "69.67", het_release(4), HET_4, "105.98M", "349.51M", "the paper divides 105.98; "),
    _row("1", "HetConv-VGG-16-P8", "params", "3.54", "M", conv_and_fc_params, HET_8, f"{HET}; {NO_NORMS}", evidence="inferred"),
    _row(
        "1", "HetConv-VGG-16-P8", "flops", "76.89", "M", het_release(8), HET_8, f"{HET}; {OUTPUTS}", evidence="inferred",
        reason="a misquote: HetConv's release prints 71.35",
    ),
    _row(
        "1", "HetConv-VGG-16-P8 in HetConv's release", "flops", "71.35", "M", het_release(8), HET_8, f"{HET}; {OUTPUTS}",
        evidence="inferred", again=True,
    ),
    _of_printed("HetConv-VGG-16-P8", "params", "78.70", conv_and_fc_params, HET_8, "3.54M", "16.62M"),
    _of_printed("HetConv-VGG-16-P8", "flops", "78.00", het_release(8), HET_8, "76.89M", "349.51M", "the paper divides 76.89; "),
    _row("2", "HetConv-ResNet-50-P4", "flops", "2.85", "G", macs, HET_R50, f"bottleneck 3x3s; {PLAIN_MACS}"),
    _row(
        "2", "HetConv-ResNet-50-P4", "flops saved", "30.32", "%", macs, HET_R50, f"{PLAIN_MACS}, against {R50_DENSE}", R50_DENSE,
        "saved_pct", reason="copied from HetConv; 2.85 G against the 4.14 G of this table would be 31.16",
    ),
    *_both("2", "OctConv-ResNet-50, alpha 0.5", OCT, ("25.56", "2.40"), ("M", "G"), OCTAVE, "inferred"),
    _saved("2", "OctConv-ResNet-50, alpha 0.5", OCT, R50_DENSE, "flops", "42.00", ("4.14G", "2.40G"), "the paper's own cells give 42.03"),
    *_both(
        "2", "Ghost-ResNet-50-s2", GHOST_R50, ("13.0", "2.20"), ("M", "G"), GHOST, "inferred",
        ("no form that we tried has 13.0: 13.95 without norms inside the Ghost modules, 14.01 with norms inside", ""),
    ),
    _saved("2", "Ghost-ResNet-50-s2", GHOST_R50, R50_DENSE, "params", "49", ("25.56M", "13.0M"), "the paper divides 13.0"),
    _saved("2", "Ghost-ResNet-50-s2", GHOST_R50, R50_DENSE, "flops", "46.85", ("4.14G", "2.20G")),
]  # fmt: skip
PROSE = [
    *(
        _row("section 4.1", "VGG-16 ratio 1/2", f"{name} left", "33", "%", measure, VGG, f"of {VGG_PRINTED}", VGG_PRINTED, "share_pct", reason=FLATTERED)
        for name, measure in (("params", params), ("flops", early_thop))
    ),
    _row(
        "section 4.1", "ResNet-20 of VGG-16", "params", "1.6", "%", params, R20_DENSE, f"of {VGG_PRINTED}", VGG_PRINTED, "share_pct",
    ),
    *(
        _row("section 4.1", "ResNet-20 ratio 1/2", f"{name} saved", "60", "%", measure, R20, f"against {R20_DENSE}", R20_DENSE, "saved_pct", reason='"about 60 %"')
        for name, measure in (("params", params), ("flops", early_thop))
    ),
    *(
        _row(
            "section 4.2", f"ResNet-50 ratio 1/{part}", f"{name} saved", printed, "%", measure, ratio("spconv_resnet50", 1 / part),
            f"against {R50_DENSE}", R50_DENSE, "saved_pct",
        )
        for part, name, measure, printed in (
            (2, "flops", early_thop, "28"),
            (4, "flops", early_thop, "34"),
            (8, "params", params, "37"),
            (8, "flops", early_thop, "37"),
        )
    ),
    _row(
        "section 4.4", "the gate of ResNet-20 ratio 1/2", "flops", "0.35", "M", early_thop, R20, "minus the network whose branches are added without a gate",
        network("spconv_resnet20", fusion=False), "difference",
    ),
    _row(
        "section 4.4", "P20 in place of P21, ResNet-20 ratio 1/2", "flops more", "43", "%", early_thop,
        network("spconv_resnet20", representative="full"), "one 3x3 without groups, against the split convolution", R20, "more_pct",
    ),
    *(
        _row(
            "section 1", "at most dropped: VGG-16 ratio 1/16", f"{metric} saved", printed, "%", measure,
            ratio("spconv_vgg16", 0.0625), f"against {VGG_PRINTED}", VGG_PRINTED, "saved_pct",
            reason='"nearly 60 % to 70 % at most"; the text names no network, and this one of Table 1 saves the most. ResNet-20 '
            "saves 60 to 69 %, and ResNet-50 saves 37 %",
        )
        for metric, measure, printed in (("params", params, "60"), ("flops", early_thop, "70"))
    ),
]  # fmt: skip
V100 = "the authors' measurement on a V100 with batches of 64; a time cannot be counted"
LATENCIES = [
    PrintedCount("spconv", "2", row, "GPU time ms", printed, "", None, "as printed", "quoted", V100)
    for row, printed in (
        ("ResNet-50 baseline", "1.32"),
        ("ResNet-50 ratio 1/2", "1.23"),
        ("ResNet-50 ratio 1/4", "1.19"),
        ("ResNet-50 ratio 1/8", "1.17"),
        ("OctConv-ResNet-50, alpha 0.5", "3.51"),
    )
]
ROWS: tuple[PrintedCount, ...] = (*TABLE_1, *TABLE_2, *PEERS, *LATENCIES, *TABLE_3, *TABLE_4, *HEADLINES, *PROSE)


def _accuracy(
    table: str, row: str, dataset: str, printed: str, of: Network | None, recipe: str | None, metric: str = "top1",
    reason: str = "",
) -> Accuracy:  # fmt: skip
    return Accuracy("spconv", table, row, dataset, printed, metric, of, recipe, reason)


def _imagenet(row: str, top1: str, top5: str, of: Network | None, reason: str = "") -> list[Accuracy]:
    recipe = None if of is None else "imagenet_spconv"
    printed = {"top1": top1, "top5": top5}
    return [_accuracy("2", row, "imagenet", text, of, recipe, m, reason) for m, text in printed.items() if text]


DETECTION_METRICS = ("AP50", "APs", "APm", "APl", "AP", "ARs", "ARm", "ARl", "AR")
DETECTORS = {
    "Faster R-CNN, vanilla": ("faster_rcnn", R50_DENSE, "58.2 21.6 39.8 46.8 36.3 32.7 55.3 64.5 51.5"),
    "Faster R-CNN, ratio 1/2": ("faster_rcnn", R50, "58.9 21.8 40.4 46.3 36.4 33.9 55.6 63.7 51.6"),
    "RetinaNet, vanilla": ("retinanet", R50_DENSE, "55.6 19.7 39.3 47 35.6 32.9 56.7 66.9 52.2"),
    "RetinaNet, ratio 1/2": ("retinanet", R50, "56.4 20.6 40.4 47.5 35.9 33.4 56.8 68.1 52.8"),
}
HET_README = "quoted from the README of HetConv's release, which says 93.9 for its own repetition; without a recipe"
PEER_RECIPE = "the paper does not say who trained this network and how; here SPConv's recipe is used"
RESNET, VGG_RECIPE = "cifar_paper_resnet", "cifar_spconv_vgg"
ACCURACIES: tuple[Accuracy, ...] = (
    _accuracy("1", "ResNet-20 baseline", "cifar10", "92", R20_DENSE, RESNET),
    _accuracy("1", "ResNet-20 ratio 1/2", "cifar10", "92.23", R20, RESNET),
    _accuracy("1", "ResNet-20 ratio 1/4", "cifar10", "91.15", ratio("spconv_resnet20", 0.25), RESNET),
    _accuracy("1", "VGG-16 baseline", "cifar10", "94.00", VGG_DENSE, VGG_RECIPE, reason="the network that the paper counts has extra 1x1s"),
    *(
        _accuracy("1", f"VGG-16 ratio 1/{round(1 / value)}", "cifar10", text, ratio("spconv_vgg16", value), VGG_RECIPE)
        for value, text in ((0.5, "94.40"), (0.25, "93.94"), (0.125, "93.77"), (0.0625, "93.43"))
    ),
    *(
        _accuracy("1", row, "cifar10", printed, of, VGG_RECIPE, reason=PEER_RECIPE)
        for row, printed, of in (
            ("Ghost-VGG-16-s2", "93.70", GHOST_VGG),
            ("HetConv-VGG-16-P4", "93.92", HET_4),
            ("HetConv-VGG-16-P8", "93.86", HET_8),
        )
    ),
    *(
        _accuracy("1", f"{row} in HetConv's release", "cifar10", printed, of, None, reason=HET_README)
        for row, printed, of in (("HetConv-VGG-16-P4", "93.93", HET_4), ("HetConv-VGG-16-P8", "93.92", HET_8))
    ),
    *_imagenet("ResNet-50 baseline", "75.91", "92.78", R50_DENSE),
    *_imagenet("ResNet-50 ratio 1/2", "76.26", "93.05", R50),
    *_imagenet("ResNet-50 ratio 1/4", "75.95", "92.99", ratio("spconv_resnet50", 0.25)),
    *_imagenet("ResNet-50 ratio 1/8", "75.40", "92.77", ratio("spconv_resnet50", 0.125)),
    *_imagenet("HetConv-ResNet-50-P4", "76.16", "", HET_R50, PEER_RECIPE),
    *_imagenet("OctConv-ResNet-50, alpha 0.5", "76.40", "93.14", OCT, "reimplemented by the authors with the same recipe"),
    *_imagenet("Ghost-ResNet-50-s2", "75", "92.3", GHOST_R50, PEER_RECIPE),
    *(
        Accuracy("spconv", "3", row, "coco", printed, metric, of, "coco_1x", detector=detector)
        for row, (detector, of, figures) in DETECTORS.items()
        for metric, printed in zip(DETECTION_METRICS, figures.split(), strict=True)
    ),
    *(
        _accuracy("4", name, "cifar10", printed, network("spconv_resnet20", **settings), RESNET)
        for (name, settings, *_), printed in zip(ABLATIONS, ("92.23", "91.84", "92.27", "91.51", "89.43"), strict=True)
    ),
)  # fmt: skip
