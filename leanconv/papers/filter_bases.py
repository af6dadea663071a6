"""The text of the paper that we have lacks its tables. Their rows here come from the authors' README of that time; other rows are
figures in the prose. The paper's "FLOPs" are twice the count of ptflops. ptflops does not see the ReLUs of the release, because
they are function calls. (It does not see some pools either; these are a thousandth at most.) The README of 2021 prints half of
these FLOPs.

- "41.3 % of parameters saved" (ResNet56-S16U1) compares with ResNet-32. Compared with ResNet-56, 68.2 % are saved.
- The labels of ResNeXt-50 and DenseNet-121 are swapped: S64U4 belongs to ResNeXt, and S16U1 belongs to DenseNet.
- The text describes a MobileNetV2-Shared that shares pointwise and depthwise convolutions. That network saves 11.8 % on CIFAR-100
  and 8.2 % on ImageNet. The printed 21.9 and 14.9 % come from sharing both pointwise convolutions, as in the release.
- "54.0 % of ResNet-34's parameters" is the network with two bases a stage. With one basis it has 43.3 %.
- On CIFAR-10 the release penalises the unique components too (`penalty_unique=True`); the caption of Fig. 3 says shared only, and
  this is our default. `init="release"` draws the initial weights as the release does, where they differ from ours.
- The release's DenseNet-121 has no ReLU in its transitions: `basis_densenet121_release`. Its block 4 uses the basis of block 3; ours
  has its own.
- MobileNetV2-Shared++ of the README of 2021 shares both 1x1, and its code adds channel attention (ECA) with 17 parameters:
  `basis_mobilenetv2_imagenet_eca`. The versions of the release that we have do not show in which layers; the place is fitted.
- The switch of the inner norm in Fig. 2 is `basis_resnet34_unnormed`; `..._release` also leaves out the block's first norm, as the
  lines do that the release comments out.
- S16U1 on CIFAR-10 costs 115 % of the MACs of ResNet-32, and 116 % of those of ResNet-56. The column MACs shows this.
"""

from __future__ import annotations

from leanconv.papers.conventions import (
    Measure,
    macs,
    params,
    ptflops_doubled,
    ptflops_without_relu,
    ptflops_without_relu_doubled,
)
from leanconv.papers.rows import Accuracy, CountRule, Evidence, How, Network, PrintedCount, network

README = "the authors' README"
IMAGENET = "imagenet_filter_bases"  # the recipe
FLOPS = ptflops_without_relu_doubled
R34_100 = network("resnet34_cifar", num_classes=100)
R32, R56 = network("resnet32"), network("resnet56")
PRUNED_56 = Network("resnet56", kept_macs=0.72)
R34 = network("timm/resnet34")
R50 = network("timm/resnet50")


def _row(
    table: str, row: str, metric: str, printed: str, unit: str, measure: Measure, of: Network, config: str,
    against: Network | None = None, how: How = "value", reason: str = "", rounded: tuple[str, str] | None = None,
    evidence: Evidence = "inferred", again: bool = False,
) -> PrintedCount:  # fmt: skip
    figure = CountRule(measure, of, against, how, rounded)
    return PrintedCount("filter_bases", table, row, metric, printed, unit, figure, config, evidence, reason, again)


def _both(table: str, row: str, of: Network, held: str, done: str, config: str, reason: str = "") -> list[PrintedCount]:
    """A README row: parameters in M, doubled ptflops in G."""
    return [
        _row(table, row, "params", held, "M", params, of, f"{README}; {config}", reason=reason),
        _row(table, row, "flops", done, "G", FLOPS, of, f"{README}; {config}"),
    ]


def _shares(
    table: str, row: str, of: Network, against: Network, texts: dict[str, tuple[str, Measure]], how: How
) -> list[PrintedCount]:
    word = {"share_pct": "% of", "saved_pct": "saved"}[how]
    config = f"against {against}"
    return [
        _row(table, row, f"{name} {word}", text, "%", measure, of, config, against, how, evidence="derived")
        for name, (text, measure) in texts.items()
    ]


S32U1 = network("basis_resnet34", shared=32)
SINGLE = "one basis a stage, ranks doubling, 1x1 projections"
TABLE_1 = [
    *_both("1 (CIFAR-100)", "ResNet34-S8U1", network("basis_resnet34", shared=8), "5.87", "0.79", SINGLE),
    *_both("1 (CIFAR-100)", "ResNet34-S16U1", network("basis_resnet34", shared=16), "6.49", "1.05", SINGLE),
    *_both("1 (CIFAR-100)", "ResNet34-S32U1", S32U1, "7.73", "1.55", SINGLE),
    *_shares("section 4.1.2", "ResNet34-S32U1", S32U1, R34_100, {"params": ("36.2", params), "flops": ("66.6", macs)}, "share_pct"),
    *_shares("abstract", "ResNet34-S32U1", S32U1, R34_100, {"params": ("63.8", params), "flops": ("33.4", macs)}, "saved_pct"),
]  # fmt: skip
RESNEXT, RESNEXT_DENSE = network("basis_resnext50"), network("resnext50_cifar")
DENSENET = network("basis_densenet121")
MOBILE, MOBILE_DENSE = network("basis_mobilenetv2"), network("mobilenetv2_cifar")
MOBILE_EXPAND = network("basis_mobilenetv2", places="expand")
LABELS = "labels swapped with DenseNet-121 there"
OTHERS = [
    _row("1 (CIFAR-100)", "ResNeXt50-S64U4", "params", "19.3", "M", params, RESNEXT, f"{README}, as S16U1; {LABELS}"),
    _row("1 (CIFAR-100)", "ResNeXt50-S64U4", "flops", "2.38", "G", ptflops_doubled, RESNEXT, f"{README}; with ReLUs, because those of its dense blocks are modules, which ptflops sees"),
    _row(
        "section 4.1.2", "ResNeXt50-S64U4", "params saved", "16.7", "%", params, RESNEXT, "from the cells 23.18M and 19.3M", RESNEXT_DENSE,
        "saved_pct", rounded=("23.18M", "19.3M"),
    ),
    _row(
        "section 4.1.2", "ResNeXt50-S64U4", "flops saved", "12.1", "%", ptflops_doubled, RESNEXT, "from the cells 2.71G and 2.38G",
        RESNEXT_DENSE, "saved_pct", rounded=("2.71G", "2.38G"), reason="the paper's own cells give 12.18",
    ),
    *_both("1 (CIFAR-100)", "DenseNet121-S16U1", DENSENET, "5.08", "1.43", "as S64U4; one basis a dense block, equal ranks, no layer left out"),
    _row("1 (CIFAR-100)", "MobileNetV2-Shared, expand only", "params", "2.16", "M", params, MOBILE_EXPAND, f"{README}; expanding 1x1 shared"),
    _row("1 (CIFAR-100)", "MobileNetV2-SharedDouble", "params", "1.90", "M", params, MOBILE, f"{README}; both 1x1 shared"),
    _row("1 (CIFAR-100)", "MobileNetV2-Shared", "flops", "0.14", "G", FLOPS, MOBILE, f"{README}; sharing does not change FLOPs"),
    _row(
        "section 4.1.2", "MobileNetV2-Shared, as released", "params saved", "21.9", "%", params, MOBILE,
        "both 1x1 shared, from the cells 2.43M and 1.90M", MOBILE_DENSE, "saved_pct", rounded=("2.43M", "1.90M"),
        reason="unrounded 21.76; the paper's own cells give 21.81", again=True,
    ),
    _row(
        "section 4.1.2", "MobileNetV2-Shared", "params saved", "21.9", "%", params,
        network("basis_mobilenetv2", places="expand_depthwise"), "pointwise and depthwise shared", MOBILE_DENSE, "saved_pct",
        "what the text describes; the printed figure is that of sharing both 1x1",
    ),
]  # fmt: skip


def _cifar10(
    name: str, base: str, shared: int, held: str, done: str, bases: int = 1, reason: str = ""
) -> list[PrintedCount]:
    of = network(base, shared=shared, bases=bases)
    return _both(
        "2 (CIFAR-10)", name, of, held, done, f"option A, {'one basis' if bases == 1 else 'two bases'} a stage", reason
    )


S16, S16_TWO = network("basis_resnet56"), network("basis_resnet56", bases=2)
TABLE_2 = [
    *_cifar10("ResNet32-S8U1", "basis_resnet32", 8, "0.15", "0.10"),
    *_cifar10("ResNet32-S16U1", "basis_resnet32", 16, "0.20", "0.16"),
    *_cifar10("ResNet32-S16U1*", "basis_resnet32", 16, "0.24", "0.16", 2),
    *_cifar10("ResNet56-S8U1", "basis_resnet56", 8, "0.20", "0.17"),
    *_cifar10("ResNet56-S16U1", "basis_resnet56", 16, "0.22", "0.30", 1, "a misprint: the prose calculates with 0.27"),
    *_cifar10("ResNet56-S16U1*", "basis_resnet56", 16, "0.31", "0.30", 2),
    _row(
        "section 4.1.2", "ResNet56-S16U1", "params saved", "41.3", "%", params, S16, "against ResNet-56", R56, "saved_pct",
        "the paper compares with ResNet-32: see the row below",
    ),
    _row(
        "section 4.1.2", "ResNet56-S16U1 against ResNet-32", "params saved", "41.3", "%", params, S16,
        "from the cells 0.46M and 0.27M", R32, "saved_pct", rounded=("0.46M", "0.27M"), again=True,
    ),
    _row(
        "section 4.1.2", "ResNet56-S16U1*", "params more", "0.04", "M", params, S16_TWO, "a second basis a stage", S16, "difference",
        "unrounded 0.048; the paper subtracts the cells 0.31 and 0.27",
    ),
    _row("section 4.1.2", "ResNet56-S16U1*", "params saved", "63", "%", params, S16_TWO, "against ResNet-56", R56, "saved_pct"),
]  # fmt: skip


def large(shared: int, bases: int) -> Network:
    """ResNet34-SsU1 for ImageNet with `shared` common components and `bases` bases a stage."""
    return network("basis_resnet34_imagenet", shared=shared, bases=bases)


SHARED_50, SHARED_101 = network("basis_resnet50_shared"), network("basis_resnet101_shared")
SHARED_50_SPATIAL = network("basis_resnet50_shared", places="spatial")
MOBILE_LARGE, MOBILE_LARGE_DENSE = network("basis_mobilenetv2_imagenet"), network("mobilenetv2_imagenet")
MOBILE_EXPAND_LARGE = network("basis_mobilenetv2_imagenet", places="expand")
MOBILE_ECA = network("basis_mobilenetv2_imagenet_eca")
T3 = "3 (ImageNet)"
BY_PLACE = "the 3x3 and the last 1x1 shared from the second block on; the positions in the text give the same count"
TABLE_3 = [
    *_both(T3, "ResNet34-S32U1", large(32, 1), "8.20", "4.98", "one basis a stage"),
    *_both(T3, "ResNet34-S48U1", large(48, 1), "9.44", "6.52", "one basis a stage"),
    *_both(T3, "ResNet34-S32U1*", large(32, 2), "9.76", "4.98", "two bases a stage"),
    *_both(T3, "ResNet34-S48U1*", large(48, 2), "11.79", "6.52", "two bases a stage"),
    _row(
        "section 4.2", "ResNet34-S48U1", "params % of", "54.0", "%", params, large(48, 2), "two bases a stage; with one it would be 43.3", R34, "share_pct",
        reason="54.07; the paper cuts off digits",
    ),
    _row(T3, "ResNet34-S48U1* (2021)", "flops", "3.26", "G", ptflops_without_relu, large(48, 2), "the README of 2021, which prints MACs"),
    _row(T3, "ResNet50-Shared, as released", "params", "18.26", "M", params, SHARED_50, f"{README}; {BY_PLACE}", again=True),
    _row(T3, "ResNet50-Shared", "flops", "4.11", "G", ptflops_without_relu, SHARED_50, f"{README}; MACs"),
    _row(T3, "ResNet50-Shared", "params", "18.26", "M", params, network("basis_resnet50_shared", places="text"), "the first 1x1 and the 3x3"),
    _row(T3, "ResNet50-Shared (2021)", "params", "20.51", "M", params, SHARED_50_SPATIAL, f"{README}; the 3x3 alone"),
    _row(T3, "ResNet50-Shared (2021)", "flops", "4.11", "G", ptflops_without_relu, SHARED_50_SPATIAL, f"{README}; MACs"),
    _row(T3, "ResNet101-Shared (2021)", "params", "29.47", "M", params, SHARED_101, f"{README}; the 3x3 alone"),
    _row(T3, "ResNet101-Shared (2021)", "flops", "7.83", "G", ptflops_without_relu, SHARED_101, f"{README}; MACs"),
    _row(
        "section 4.2", "ResNet50-Shared", "params saved", "28.6", "%", params, SHARED_50, "from the cells 25.56M and 18.26M", R50, "saved_pct",
        rounded=("25.56M", "18.26M"),
    ),
    _row(T3, "MobileNetV2-Shared, expand only", "params", "3.24", "M", params, MOBILE_EXPAND_LARGE, README),
    _row(T3, "MobileNetV2-SharedDouble", "params", "2.98", "M", params, MOBILE_LARGE, f"{README}; its code adds 17 parameters of a hidden attention"),
    _row(
        T3, "MobileNetV2-SharedDouble, as Shared++ of 2021", "params", "2.98", "M", params, MOBILE_ECA, f"{README}; with 17 parameters of channel attention", evidence="fitted",
        reason="the place of the attention is fitted to its 17 parameters", again=True,
    ),
    _row(T3, "MobileNetV2-Shared", "flops", "0.33", "G", ptflops_without_relu, MOBILE_LARGE, f"{README}; MACs"),
    _row(
        "section 4.2", "MobileNetV2-Shared, as released", "params saved", "14.9", "%", params, MOBILE_LARGE, "both 1x1 shared", MOBILE_LARGE_DENSE, "saved_pct",
        "15.07 against the authors' own base; the cells 2.98 and 3.50 give 14.86, and 3.50 is torchvision's MobileNetV2", again=True,
    ),
    _row(
        "section 4.2", "MobileNetV2-Shared", "params saved", "14.9", "%", params,
        network("basis_mobilenetv2_imagenet", places="expand_depthwise"), "pointwise and depthwise shared", MOBILE_LARGE_DENSE, "saved_pct",
        "what the text describes; the printed figure is that of sharing both 1x1",
    ),
]  # fmt: skip
QUOTED = [
    PrintedCount(
        "filter_bases",
        "2 (CIFAR-10)",
        row,
        metric,
        printed,
        unit,
        None,
        "as printed",
        "quoted",
        "the prose quotes this figure from others; not rebuilt",
    )
    for row, held, done in (
        ("Filter pruning (Li et al. 2017)", "0.77", "0.18"),
        ("KSE (Li et al. 2019)", "0.43", "0.12"),
        ("DR-Res 40 (Guo et al. 2019)", "0.50", "0.22"),
    )
    for metric, printed, unit in (("params", held, "M"), ("flops", done, "G"))
]
QUOTED += [
    _row(
        "2 (CIFAR-10)", "Filter pruning, here", metric, printed, unit, measure, PRUNED_56, "ResNet-56 pruned to the printed FLOPs, every layer by the same share",
        reason="an own baseline that can be run: `leanconv train resnet56 --data cifar10 -o RUN`, then `leanconv compare RUN --methods 'dense,pruned(macs=0.72,align=1)' --data cifar10`; each layer loses the same share here, and the quoted network keeps some layers", again=True,
    )
    for metric, printed, unit, measure in (("params", "0.77", "M", params), ("flops", "0.18", "G", FLOPS))
]  # fmt: skip
QUOTED.append(
    PrintedCount(
        "filter_bases", "section 4.2", "ResNet34-S48U1", "latency more", "14", "%", None, "Jetson TX2, GPU, batches of 1", "quoted",
        "the authors' measurement; a time cannot be counted, and no Jetson is at hand. On two CPU cores the ratio is 0.99 in OpenVINO. `leanconv bench timm/resnet34 "
        "basis_resnet34_imagenet` measures the ratio on your device. The authors explain it with two separate convolutions for shared and "
        "unique components; ours is one convolution",
    )
)  # fmt: skip
ROWS: tuple[PrintedCount, ...] = (*TABLE_1, *OTHERS, *TABLE_2, *TABLE_3, *QUOTED)


def _error(row: str, dataset: str, printed: str, of: Network | None, reason: str = "") -> Accuracy:
    recipe = None if of is None else "cifar_filter_bases"
    return Accuracy("filter_bases", "section 4.1", row, dataset, printed, "error", of, recipe, reason)


ACCURACIES: tuple[Accuracy, ...] = (
    Accuracy(
        "filter_bases",
        "section 4.2",
        "MobileNetV2-Shared over MobileNetV2",
        "imagenet",
        "0.51",
        "error drop",
        reason="the form whose first 1x1 of each block is shared, with a dagger in Table 3",
    ),
    _error("ResNet34-S32U1", "cifar100", "21.84", S32U1, "section 4.1.3 says 21.7 for it"),
    _error("ResNet34-S8U1", "cifar100", "23.1", network("basis_resnet34", shared=8)),
    _error("ResNet50", "cifar100", "22.36", None, "printed for comparison; no lean network"),
    _error("ResNet56", "cifar10", "6.97", R56),
    _error("ResNet56-S16U1", "cifar10", "7.46", S16),
    _error("ResNet56-S16U1*", "cifar10", "6.33", S16_TWO),
    _error("Filter pruning (Li et al. 2017)", "cifar10", "6.94", None),
    _error("KSE (Li et al. 2019)", "cifar10", "6.77", None),
    _error("DR-Res 40 (Guo et al. 2019)", "cifar10", "6.51", None),
    *(
        Accuracy("filter_bases", T3, row, "imagenet", printed, "error", of, recipe, "the README of 2021")
        for row, printed, of, recipe in (
            ("ResNet34-S48U1* (2021)", "26.67", large(48, 2), IMAGENET),
            ("ResNet50-Shared (2021)", "23.64", SHARED_50_SPATIAL, IMAGENET),
            ("ResNet50-Shared++ (2021)", "23.95", SHARED_50, IMAGENET),
            ("ResNet101-Shared (2021)", "22.31", SHARED_101, IMAGENET),
            ("MobileNetV2-Shared (2021)", "27.61", MOBILE_EXPAND_LARGE, f"{IMAGENET}_mobilenet"),
            ("MobileNetV2-Shared++ (2021)", "28.21", MOBILE_ECA, f"{IMAGENET}_mobilenet"),
        )
    ),
)
