"""ShardNet counts |Wconv|: weights and biases of convolutions, without normalisation and fully connected layers. For its
compression factors C, the paper divides rounded cells. We round our counts to the same digits before we divide.

- The paper never prints MACs. Sharing saves parameters and no MACs, and the shared networks are wider, so their MACs are much
  higher. The column MACs shows this for every factor: SL-ResNet-34(512) has about 22 times the MACs of ResNet-34.
- The factors compare with different baselines. The 117.7 of Table 8 compares SL3-ResNet(128) with a ResNet-34 of 21.3 M. Compared
  with E3-ResNet, from which this network was made, the factor is 1.6. Compared with E7-ResNet the factor is 3.8; the text says 4.0.
- "ResNet-34" and "ResNet-50" in Table 2 are the paper's own E-networks with four blocks a scale, not the networks of He et al. The
  cells for Tiny ImageNet are printed again in the ImageNet table.
- In Table 2, one cell (18.5 M) includes the classifier. Another cell (18.1 M) equals our count with the stem if digits are cut off,
  and our count without the stem if it is rounded.
- The cells for ShaResNet in Table 2b are all parameters, not |Wconv|.
- Table 5 prints "avgpool-3" behind a map of 7x7. The printed 18.5 M fits only a classifier on the global average, which is our
  default; `pool="3"` builds the printed form, with four times the weights in the classifier.
- In Fig. 5, 60 % of the weights of all linear layers are zero, the 1x1 behind the stem (`widen`) among them. Without this layer
  the factor would be 2.4 in place of 2.6.
"""

from __future__ import annotations

from leanconv.core.traits import Blending
from leanconv.papers.conventions import Counted, Measure, conv_and_fc_params, conv_params, params, params_of
from leanconv.papers.rows import Accuracy, Cell, CountRule, Evidence, Network, PrintedCount, Side, network

CELLS = "from the rounded cells, as the paper divides"


def _split(cell: str) -> tuple[str, str]:
    return cell[:-1], cell[-1]


def _count(
    table: str, row: str, of: Network, cell: str, config: str, measure: Measure = conv_params, reason: str = "",
    evidence: Evidence = "inferred", metric: str = "conv_params", again: bool = False,
) -> PrintedCount:  # fmt: skip
    printed, unit = _split(cell)
    return PrintedCount(
        "shardnet", table, row, metric, printed, unit, CountRule(measure, of), config, evidence, reason, again
    )


def _factor(
    table: str, row: str, printed: str, of: Side, against: Side, cells: tuple[str, str], reason: str = "",
    base: Network | None = None, metric: str = "C", evidence: Evidence = "arithmetic", again: bool = False,
) -> PrintedCount:  # fmt: skip
    """A compression factor; `cells` are the printed cells of (against, of)."""
    config = f"{cells[0]} / {cells[1]}, {CELLS}"
    figure = CountRule(conv_params, of, against, "factor", cells, base)
    return PrintedCount("shardnet", table, row, metric, printed, "x", figure, config, evidence, reason, again)


# Tables 1a and 6: width, cells of E, S and SL, factors of S and SL
VGG = (
    (32, "112K", "9.3K", "13.3K", "12.0", "8.4"),
    (64, "445K", "37K", "53.3K", "12.0", "8.3"),
    (128, "1.8M", "148K", "213K", "12.2", "8.4"),
    (256, "7.1M", "590K", "852K", "12.0", "8.3"),
    (320, "11.1M", "922K", "1.3M", "12.0", "8.5"),
    (512, "28M", "2.4M", "3.4M", "11.7", "8.2"),
)


def vgg(variant: str, width: int, **settings: object) -> Network:
    """E-, S-, SL-, SL2- or SL3-VGGNet (`variant`) with n = `width` channels."""
    name = "shard_vgg16" if variant == "SL" else f"shard_vgg16_{variant.lower()}"
    return network(name, width=width, **settings)


def _vgg_rows() -> list[PrintedCount]:
    rows = []
    for width, e, s, sl, c_s, c_sl in VGG:
        nets = {variant: vgg(variant, width) for variant in ("E", "S", "SL")}
        s_reason = "9 n^2 + n is 9,248; the cell 9.3K is neither rounded nor cut off" if width == 32 else ""
        rows += [
            _count("1a/6", f"E-VGGNet n={width}", nets["E"], e, "13 convolutions with biases, the first one from 3 to n channels"),
            _count("1a/6", f"S-VGGNet n={width}", nets["S"], s, "one convolution; zero channels added to the image, up to n", reason=s_reason),
            _count("1a/6", f"SL-VGGNet n={width}", nets["SL"], sl, "as S-VGGNet, with four 1x1 without biases before pools 1-4"),
            _factor("1a/6", f"S-VGGNet n={width}", c_s, nets["S"], nets["E"], (e, s), s_reason),
            _factor("1a/6", f"SL-VGGNet n={width}", c_sl, nets["SL"], nets["E"], (e, sl)),
        ]  # fmt: skip
    tiny = {variant: vgg(variant, 64, head="2048", num_classes=200) for variant in ("E", "SL")}
    reason = "a misprint: Tables 1a and 6a print 8.3 for the same counts"
    rows.append(_factor("6b", "SL-VGGNet n=64, Tiny ImageNet", "8.0", tiny["SL"], tiny["E"], ("445K", "53.3K"), reason))
    return rows


VGGNET = network("vgg16", head="512-512")


def _sl_rows() -> list[PrintedCount]:
    rows = [_count("1b-d", "VGGNet", VGGNET, "14.7M", "VGG-16's thirteen convolutions with biases", evidence="derived")]
    for width, cell, factor in ((512, "3.4M", "4.3"), (256, "852K", "17.3")):
        for uses in (2, 3):
            net, name = vgg(f"SL{uses}", width), f"SL{uses}-VGGNet n={width}"
            rows += [
                _count("1b-d", name, net, cell, f"five blocks of {uses} uses, four blending layers"),
                _factor("1b-d", name, factor, net, VGGNET, ("14.7M", cell)),
            ]
    return rows


LEGO_2, LEGO_4 = network("lego_vgg16"), network("lego_vgg16", splits=4, ratio=0.25)
LEGOS = "the lego filters and the first convolution, without selectors and coefficients"


def legos(c: Counted) -> float:
    """`conv_params` without LegoNet's selectors and coefficients; LegoNet's own count leaves them out."""
    return conv_params(c) - params_of("*.selector")(c) - params_of("*.coefficients")(c)


LEGO = [
    _count("1b", "Lego-VGGNet-16-w o=2 m=0.5", LEGO_2, "3.7M", LEGOS, legos),
    _count("1b", "Lego-VGGNet-16-w o=4 m=0.25", LEGO_4, "900K", LEGOS, legos, "printed with one digit"),
    *(
        PrintedCount("shardnet", "1b", name, "C", printed, "x", CountRule(legos, net, VGGNET, "factor"), LEGOS, "inferred")
        for name, net, printed in (
            ("Lego-VGGNet-16-w o=2 m=0.5", LEGO_2, "4.0"), ("Lego-VGGNet-16-w o=4 m=0.25", LEGO_4, "16.0"),
        )
    ),
]  # fmt: skip
ALL = "all parameters, not |Wconv|"
PEERS = [
    _count("2", "SWRN 50-2", network("soft_wide_resnet50_2"), "69M", f"{ALL}; as many templates as layers", params, metric="params"),
    _count("2", "ShaResNet-50", network("sha_resnet50"), "20.5M", f"{ALL}; 3x3 of stride 1 shared by stage", params, metric="params"),
    _count("2", "ShaResNet-34", network("sha_resnet34"), "13.6M", f"{ALL}; second 3x3 of the blocks shared by stage", params, metric="params"),
    _count("8", "ShaResNet-164", network("sha_resnet164"), "0.93M", f"{ALL}; its release's CIFAR network", params, metric="params"),
]  # fmt: skip

E34, E50 = network("shard_resnet34_e_tiny"), network("shard_resnet50_e_tiny")
SL34, SL50 = network("shard_resnet34_tiny"), network("shard_resnet50_tiny")
SL34_NARROW, SL50_NARROW = network("shard_resnet34_tiny", width=256), network("shard_resnet50_tiny", width=256)
LARGE34, LARGE50 = network("shard_resnet34"), network("shard_resnet50")
FOUR = "four blocks a scale, 1x1 without biases between scales"
QUOTIENT = "the paper's own cells give 33.75"
WITH_HEAD = "the paper includes the classifier: see the row below"


def stemless(measure: Measure) -> Measure:
    """`measure` without the first convolution. One cell of Table 2 may be counted in this way."""

    def without_stem(c: Counted) -> float:
        return measure(c) - params_of("conv1.*")(c)

    return without_stem


RESNET = [
    _count("2", "ResNet-34* (E-ResNet-34)", E34, "25.2M", f"{FOUR}; not He et al.'s, which has 21.8 M"),
    _count("2", "ResNet-50* (E-ResNet-50)", E50, "26.8M", FOUR, reason=WITH_HEAD),
    _count("2", "ResNet-50* (E-ResNet-50), with classifier", E50, "26.8M", FOUR, conv_and_fc_params, again=True),
    _count("2", "SL-ResNet-34 n=512, Tiny ImageNet", SL34, "3.2M", "one convolution in all blocks, own stem, three 1x1"),
    _count("2", "SL-ResNet-34 n=256, Tiny ImageNet", SL34_NARROW, "794K", "as for n=512"),
    _count("2", "SL-ResNet-50 n=512, Tiny ImageNet", SL50, "18.5M", "one bottleneck in all blocks", reason=WITH_HEAD),
    _count("2", "SL-ResNet-50 n=512, Tiny ImageNet, with classifier", SL50, "18.5M", "with FC-200", conv_and_fc_params, again=True),
    _count("2", "SL-ResNet-50 n=256, Tiny ImageNet", SL50_NARROW, "4.5M", "without the classifier, unlike n=512"),
    _count("2", "SL-ResNet-50 n=512, ImageNet", LARGE50, "18.1M", "with the 7x7 stem"),
    _count("2", "SL-ResNet-50 n=512, ImageNet, without stem", LARGE50, "18.1M", "69 n^2", stemless(conv_params), again=True),
    _count("2", "SL-ResNet-34 n=512, ImageNet", LARGE34, "3.2M", "with the 7x7 stem"),
    _factor("2", "ResNet-34*, Tiny ImageNet", "1.1", E34, Cell("26.8M"), ("26.8M", "25.2M"), base=E50),
    _factor("2", "SL-ResNet-34 n=512, Tiny ImageNet", "8.4", SL34, Cell("26.8M"), ("26.8M", "3.2M"), base=E50),
    _factor("2", "SL-ResNet-34 n=256, Tiny ImageNet", "33.6", SL34_NARROW, Cell("26.8M"), ("26.8M", "794K"), QUOTIENT, E50),
    _factor("2", "SL-ResNet-50 n=512, Tiny ImageNet", "1.4", Cell("18.5M"), Cell("26.8M"), ("26.8M", "18.5M"), base=E50),
    _factor("2", "ResNet-50, ImageNet", "2.6", Cell("26.8M"), Cell("69M"), ("69M", "26.8M")),
    _factor("2", "ResNet-34, ImageNet", "2.7", E34, Cell("69M"), ("69M", "25.2M")),
    _factor("2", "ShaResNet-50", "3.4", Cell("20.5M"), Cell("69M"), ("69M", "20.5M")),
    _factor("2", "ShaResNet-34", "5.1", Cell("13.6M"), Cell("69M"), ("69M", "13.6M")),
    _factor("2", "Lego-Res50", "8.5", Cell("8.1M"), Cell("69M"), ("69M", "8.1M")),
    _factor("2", "FSNet-ResNet-50", "15.3", Cell("4.5M"), Cell("69M"), ("69M", "4.5M")),
    _factor("2", "SL-ResNet-50 n=512, ImageNet", "3.8", Cell("18.1M"), Cell("69M"), ("69M", "18.1M")),
    _factor("2", "SL-ResNet-34 n=512, ImageNet", "21.6", LARGE34, Cell("69M"), ("69M", "3.2M")),
    _factor(
        "2", "SL-ResNet-34 n=512 against ResNet-34 itself", "8.4", LARGE34, network("timm/resnet34"), ("21.3M", "3.2M"),
        "not a cell of the paper: its 8.4 compares with its own ResNet-50; compared with He et al.'s ResNet-34 the factor is lower",
        again=True,
    ),
]  # fmt: skip


def pruned(fraction: float) -> Measure:
    """`conv_and_fc_params` without `fraction` of the weights of the blending layers."""

    def pruned_conv_and_fc_params(c: Counted) -> float:
        blends = [p for module in c.model.modules() if isinstance(module, Blending) for p in module.blending_weights()]
        return conv_and_fc_params(c) - round(fraction * sum(p.numel() for p in blends))

    return pruned_conv_and_fc_params


FIG_5 = [
    PrintedCount(
        "shardnet", "Fig. 5", f"SL-ResNet-50 n=512, {name}", "C", printed, "x",
        CountRule(pruned(share), SL50, Cell("26.8M"), "factor", base=E50),
        "against the printed 26.8M, with classifier; 52 n^2 weights in the linear layers", "inferred",
    )
    for name, share, printed in (("before pruning", 0.0, "1.4"), ("60 % of the linear layers pruned", 0.6, "2.6"))
]  # fmt: skip
SMALL = "stem 3 -> p, basic blocks of widths p, 2p, 4p, 1x1 with biases between scales"
SHARED = "the stem is the shared convolution; two 1x1 with biases"
# Table 7: blocks, cell of E, then (width, factor)
CIFAR10 = (
    (3, "294K", ((64, "6.5"), (96, "2.9"), (128, "1.6"))),
    (5, "488K", ((64, "10.8"), (96, "4.8"), (128, "2.7"))),
    (7, "682K", ((64, "15.2"), (96, "6.7"), (128, "3.8"))),
)
CIFAR100 = (
    (3, "1.2M", ((128, "6.6"), (256, "1.7"))),
    (5, "1.9M", ((128, "10.5"), (256, "2.6"))),
    (7, "2.7M", ((128, "14.9"), (256, "3.7"))),
)
SL_CELLS = {
    64: "45K",
    96: "102K",
    128: "181K",
    256: "722K",
}  # 11 n^2 + 3 n; the paper prints the one of n=128 (Table 8)


def _small_rows() -> list[PrintedCount]:
    rows = []
    for data, classes, width, lines in (("CIFAR-10", 10, 16, CIFAR10), ("CIFAR-100", 100, 32, CIFAR100)):
        for blocks, cell, factors in lines:
            e = network("shard_resnet_e", blocks=blocks, width=width, num_classes=classes)
            rows.append(_count("7", f"E{blocks}-ResNet, {data}", e, cell, f"{SMALL}, p={width}"))
            for wide, factor in factors:
                sl = network("shard_resnet", blocks=blocks, width=wide, num_classes=classes)
                name = f"SL{blocks}-ResNet n={wide}, {data}"
                rows.append(_factor("7", name, factor, sl, e, (cell, SL_CELLS[wide]), evidence="inferred"))
    return rows


SL3 = network("shard_resnet")
BIG = Cell("21.30M")
R34 = network("resnet34_cifar")
TABLE_8 = [
    _count("8", "SL3-ResNet n=128", SL3, "181K", SHARED),
    _factor("8", "SL3-ResNet n=128", "117.7", SL3, BIG, ("21.30M", "181K"), base=R34),
    _factor("8", "ResNet*", "31.2", network("shard_resnet_e", blocks=7, width=16), BIG, ("21.30M", "682K"), base=R34),
    _factor(
        "8", "SL3-ResNet n=128, against ResNet* (text)", "4.0", SL3, network("shard_resnet_e", blocks=7, width=16),
        ("682K", "181K"), "the text says 4.0; Table 7 has 3.8 for b=7, and 1.6 for b=3, from which this network was made",
    ),
    *(
        _factor("8", name, factor, Cell(cell), BIG, ("21.30M", cell), reason)
        for name, factor, cell, reason in (
            ("ResNet-18", "1.9", "11.18M", ""), ("FSNet-ResNet-18", "26.3", "810K", ""),
            ("FSNet-ResNet-34", "12.7", "1.68M", ""), ("FSNet-ResNet-50", "8.5", "2.51M", ""),
            ("ShaResNet-164", "23.0", "0.93M", "the paper's own cells give 22.9"),
        )
    ),
]  # fmt: skip
HEADLINES = [
    PrintedCount(
        "shardnet", "section 5", "SL2-VGGNet n=256, CIFAR-10", "C", "17", "x",
        CountRule(conv_params, vgg("SL2", 256), VGGNET, "factor"), "14.7M / 852K", "derived",
    ),
]  # fmt: skip
ROWS: tuple[PrintedCount, ...] = (
    *_vgg_rows(),
    *_sl_rows(),
    *LEGO,
    *PEERS,
    *RESNET,
    *FIG_5,
    *_small_rows(),
    *TABLE_8,
    *HEADLINES,
)

RECIPE = "cifar_shardnet"
VGG_ACCURACIES = {  # CIFAR-10 (Table 1a); CIFAR-100 (Table 6a): E, S, SL
    "cifar10": (
        (32, "87.2", "73.6", "74.7"), (64, "91.2", "85.5", "87.7"), (128, "93.0", "90.7", "91.3"),
        (256, "94.1", "92.8", "93.5"), (512, "94.5", "93.7", "94.5"),
    ),
    "cifar100": (
        (64, "64.4", "41.1", "47.7"), (128, "70.8", "59.1", "64.1"), (256, "74.6", "67.2", "69.1"),
        (320, "75.3", "68.7", "71.1"), (512, "76.9", "72.5", "73.4"),
    ),
}  # fmt: skip
TOP_VGG = {
    "cifar10": (("SL2", 512, "94.5"), ("SL3", 512, "94.7"), ("SL2", 256, "93.7"), ("SL3", 256, "93.8")),
    "cifar100": (("SL2", 512, "74.0"), ("SL3", 512, "74.4"), ("SL2", 256, "69.7"), ("SL3", 256, "71.0")),
}
RESNET_ACCURACIES = {
    "cifar10": (
        (3, "91.8", ((64, "89.7"), (96, "92.2"), (128, "93.1"))), (5, "92.9", ((64, "90.1"), (96, "92.0"), (128, "93.0"))),
        (7, "93.4", ((64, "89.6"), (96, "91.9"), (128, "93.2"))),
    ),
    "cifar100": (
        (3, "72.5", ((128, "68.1"), (256, "74.0"))), (5, "74.1", ((128, "68.1"), (256, "74.8"))),
        (7, "74.6", ((128, "70.1"), (256, "73.9"))),
    ),
}  # fmt: skip


def _accuracies() -> list[Accuracy]:
    found = []

    def add(table: str, row: str, data: str, printed: str, of: Network | None, recipe: str | None = RECIPE) -> None:
        found.append(Accuracy("shardnet", table, row, data, printed, "top1", of, recipe))

    for data, lines in VGG_ACCURACIES.items():
        head = {} if data == "cifar10" else {"head": "1024-1024"}
        for width, *printed in lines:
            for variant, text in zip(("E", "S", "SL"), printed, strict=True):
                add(
                    "1a" if data == "cifar10" else "6a",
                    f"{variant}-VGGNet n={width}",
                    data,
                    text,
                    vgg(variant, width, **head),
                )
        for variant, width, text in TOP_VGG[data]:
            add(
                "1b" if data == "cifar10" else "1c",
                f"{variant}-VGGNet n={width}",
                data,
                text,
                vgg(variant, width, **head),
            )
        for blocks, e, shared in RESNET_ACCURACIES[data]:
            first = 16 if data == "cifar10" else 32
            add("7", f"E{blocks}-ResNet", data, e, network("shard_resnet_e", blocks=blocks, width=first))
            for width, text in shared:
                add(
                    "7", f"SL{blocks}-ResNet n={width}", data, text, network("shard_resnet", blocks=blocks, width=width)
                )
    add("1b", "VGGNet*", "cifar10", "93.9", VGGNET)
    add("1c", "VGGNet*", "cifar100", "74.3", network("vgg16", head="1024-1024"))
    for name, text, of in (
        ("Lego-VGGNet-16-w o=2 m=0.5", "93.23", LEGO_2), ("Lego-VGGNet-16-w o=4 m=0.25", "91.35", LEGO_4),
    ):  # fmt: skip
        add("1b", name, "cifar10", text, of)
    return found


def _top5(
    table: str, row: str, data: str, top1: str, top5: str, of: Network | None, recipe: str | None
) -> list[Accuracy]:
    texts = {"top1": top1, "top5": top5}
    return [Accuracy("shardnet", table, row, data, text, m, of, recipe) for m, text in texts.items() if text]


TINY_VGG = {"head": "2048", "num_classes": 200}
ACCURACIES: tuple[Accuracy, ...] = (
    *_accuracies(),
    *_top5("1d", "VGGNet*", "tiny_imagenet", "58.7", "81.4", None, None),
    *_top5("1d", "SL2-VGGNet n=512", "tiny_imagenet", "59.4", "82.8", vgg("SL2", 512, **TINY_VGG), "tiny_shardnet_vgg"),
    *_top5("1d", "SL2-VGGNet n=256", "tiny_imagenet", "53.4", "79.1", vgg("SL2", 256, **TINY_VGG), "tiny_shardnet_vgg"),
    *_top5("2a", "ResNet-50*", "tiny_imagenet", "62.8", "84.1", E50, "tiny_shardnet_resnet"),
    *_top5("2a", "ResNet-34*", "tiny_imagenet", "60.0", "82.1", E34, "tiny_shardnet_resnet"),
    *_top5("2a", "SL-ResNet-50 n=512", "tiny_imagenet", "62.7", "84.5", SL50, "tiny_shardnet_resnet"),
    *_top5("2a", "SL-ResNet-50 n=256", "tiny_imagenet", "60.3", "83.2", SL50_NARROW, "tiny_shardnet_resnet"),
    *_top5("2a", "SL-ResNet-34 n=512", "tiny_imagenet", "62.5", "83.8", SL34, "tiny_shardnet_resnet"),
    *_top5("2a", "SL-ResNet-34 n=256", "tiny_imagenet", "56.2", "80.0", SL34_NARROW, "tiny_shardnet_resnet"),
    *_top5("2b", "SWRN 50-2", "imagenet", "78.26", "94.05", None, None),
    *_top5("2b", "ResNet-50", "imagenet", "77.15", "93.3", None, None),
    *_top5("2b", "ResNet-34", "imagenet", "75.5", "92.5", None, None),
    *_top5("2b", "ShaResNet-50", "imagenet", "75.39", "92.59", None, None),
    *_top5("2b", "ShaResNet-34", "imagenet", "71.75", "90.58", None, None),
    *_top5("2b", "Lego-Res50", "imagenet", "", "89.7", None, None),
    *_top5("2b", "FSNet-ResNet-50", "imagenet", "64.11", "85.94", None, None),
    *_top5("2b", "SL-ResNet-50 n=512", "imagenet", "72.4", "91.4", LARGE50, "imagenet_shardnet"),
    *_top5("2b", "SL-ResNet-34 n=512", "imagenet", "69.7", "89.3", LARGE34, "imagenet_shardnet"),
    *(
        Accuracy("shardnet", "8", row, "cifar10", printed)
        for row, printed in (
            ("ResNet-34", "94.72"), ("ResNet-18", "94.18"), ("FSNet-ResNet-18", "93.93"), ("FSNet-ResNet-34", "94.29"),
            ("FSNet-ResNet-50", "94.91"), ("ShaResNet-164", "93.8"),
        )
    ),
)  # fmt: skip
