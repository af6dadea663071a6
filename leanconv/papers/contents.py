"""Every table, figure and claim of the four papers: the command for it here, how far it goes, and why not farther."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["reproduced", "smaller scale", "counted only", "quoted"]
STATES: dict[State, str] = {
    "reproduced": "computed here in full, and compared with the paper",
    "smaller scale": "run here with smaller networks, fewer images or fewer epochs",
    "counted only": "parameters and MACs are computed here, and nothing was trained; `leanconv reproduce PAPER --train ROW` trains a row that has a recipe",
    "quoted": "shown as the paper prints it",
}
TRAINING = "the training on ImageNet takes weeks on one GPU"
COCO = "the training on COCO needs the data and GPUs"


@dataclass(frozen=True)
class Item:
    """A table, a figure or a claim of a paper.

    Args:
        where: its place in the paper.
        says: what it shows.
        state: how far it goes here, see `STATES`.
        command: the command, without "leanconv"; "" if there is none.
        reason: why the state is not "reproduced", or where the result is.
    """

    where: str
    says: str
    state: State
    command: str = ""
    reason: str = ""


TBC = (
    Item("eqs. 1-4", "TBC, TGC and their parameters", "reproduced", "inspect timm/resnet50 --method 'tied_block(blocks=2)'"),
    Item("Fig. 1", "filters of VGG-16 become more similar with depth", "smaller scale", "analyse RUN --what matrices --data cifar10", "on CIFAR-10 with ResNet-20 and with a VGG-like network (`benchmarks/papers.py tied` and `vgg`, then `benchmarks/similarity.py`), both with the caption's mean of patterns and with the mean of cosines, in docs/analysis.md"),
    Item("Fig. 2", "the operator", "reproduced", "reproduce tbc", "a drawing; the operator and its equations are tested"),
    Item("Fig. 3", "time against the number of groups, 56 x 56 x 2048", "smaller scale", "bench --figure groups --methods tied_block", "measured on a CPU in docs/results/speed-others.md; the figure prints no numbers and was measured on a GPU. The command runs on CUDA too; the form `batch` is that of the release"),
    Item("Fig. 4", "bottlenecks of TiedResNet, TiedResNeXt and TiedResNeSt", "reproduced", "models", "built; what is fitted is marked"),
    Item("Fig. 5", "TiedSE and TiedGCB", "reproduced", "models", "built: tied_se_resnet50, tied_gc_resnet50"),
    Item("Fig. 6", "parameters of backbones against AP on COCO", "counted only", "reproduce tbc", f"the figure prints no numbers; {COCO}"),
    Item("Fig. 7", "AP under occlusion: +5.9, and AP75 +8.3 at r = 0.8", "smaller scale", "detect eval RUN --data COCO --occlusion boxes", f"drawn shapes in docs/detection.md; {COCO}"),
    Item("Fig. 8", "Grad-CAM of three networks", "smaller scale", "analyse RUN1 RUN2 --what cam --photos DIR", "on small images in docs/analysis.md; the output of the last block is compared"),
    Item("Fig. 9", "TiedResNet has less similar filters than ResNet", "smaller scale", "analyse RUN1 RUN2 --what filters --data cifar10", "on CIFAR-10 in docs/analysis.md, with both means (see Fig. 1); the networks of the figure are trained on ImageNet"),
    Item("Table 1", "parameters, FLOPs and accuracies on ImageNet", "counted only", "reproduce tbc --table 1", TRAINING),
    Item("Table 2", "Mask R-CNN on Cityscapes", "counted only", "reproduce tbc --table 2", "the training needs the data and GPUs"),
    Item("Table 3", "TiedSE", "counted only", "reproduce tbc --table 3", TRAINING),
    Item("Table 4", "TiedGCB", "counted only", "reproduce tbc --table 4", COCO),
    Item("Table 5", "numbers of splits", "counted only", "reproduce tbc --table 5", f"fitted structures; {TRAINING}"),
    Item("Table 6", "mixers", "counted only", "reproduce tbc --table 6", f"fitted structures; {TRAINING}"),
    Item("text", "more than 1 % from the bottleneck, 0.5 % from the mixer, 0.4 % lost with two splits", "quoted", "reproduce tbc --table text", f"`tied_resnet50_unmixed` is without the mixer; {TRAINING}"),
)  # fmt: skip
FILTER_BASES = (
    Item("eqs. 1-3", "a convolution as components and coefficients", "reproduced", "inspect resnet56 --method 'shared_basis(shared=16)'"),
    Item("eq. 8", "the orthogonality penalty", "reproduced", "train basis_resnet56 --data cifar10", "the mean of the release, not the printed sum; penalty_unique=True includes unique components as the release's CIFAR-10 script. `benchmarks/papers.py bases` trains both, no penalty, and init='release' side by side; on the digits they are equal within the spread, and on CIFAR-10 the first two and init='release' are within two points after three epochs of one seed (docs/results/training.md)"),
    Item("Fig. 1", "the operator", "reproduced", "models", "a drawing; the operator and its equations are tested"),
    Item("Fig. 2", "gradients with and without penalty and inner norm", "smaller scale", "analyse RUN --what gradients", "train with --record-gradients; on CIFAR-10 with a smaller network in docs/analysis.md; basis_resnet34_unnormed switches the norm off"),
    Item("Fig. 3", "similarity of components and of coefficients", "smaller scale", "analyse RUN --what bases", "on CIFAR-10 with a smaller network in docs/analysis.md"),
    Item("Fig. 4", "errors for several numbers of components s and u", "smaller scale", "train 'basis_resnet34(shared=8,unique=2)' --data cifar100", "eight points of s and u with ResNet-20 on CIFAR-10 for three epochs in docs/analysis.md, under Error over the rank; each point of the figure is a training of 300 epochs"),
    Item("Figs. 5-7", "blocks that share", "reproduced", "models", "built, in the forms of the text and of the release"),
    Item("Table 1", "CIFAR-100", "counted only", "reproduce filter_bases --table '1 (CIFAR-100)'", "300 epochs of networks of a GPU's size"),
    Item("Table 2", "CIFAR-10", "smaller scale", "reproduce filter_bases --table '2 (CIFAR-10)'", "ResNet-56 and its bases with fewer epochs in docs/results/training.md; pruning is a row that can be run, and `benchmarks/papers.py pruning` trains a small one, on CIFAR-10 and on the digits in docs/results/training.md"),
    Item("Table 3", "ImageNet", "counted only", "reproduce filter_bases --table '3 (ImageNet)'", TRAINING),
    Item("section 4.2", "14 % more latency on a Jetson TX2", "quoted", "bench timm/resnet34 basis_resnet34_imagenet", "no Jetson is at hand. On two CPU cores the lean network takes 0.99 of the dense time in OpenVINO (docs/results/speed-others.md); the command measures the ratio on your device"),
)  # fmt: skip
SHARDNET = (
    Item("Fig. 1", "one convolution applied repeatedly", "reproduced", "models", "built; the sharing is tested"),
    Item("Fig. 2", "accuracy against compression, S-VGGNet", "smaller scale", "analyse RUN --what tradeoff", "one width of the dense and an SL-network for ten epochs in docs/results/training.md, MACs beside them; `benchmarks/papers.py shardnet` trains the dense, the S- and the SL-network at three widths on CIFAR-10 for three epochs, in docs/results/training.md, and on the digits; the widths and epochs of the figure take days"),
    Item("Fig. 3", "accuracy against compression, S- and SL-VGGNet", "smaller scale", "analyse RUN --what tradeoff", "as Fig. 2"),
    Item("Figs. 4, 7, 8", "lowest and highest blending weights", "smaller scale", "analyse RUN --what blending", "for one network in docs/analysis.md"),
    Item("Fig. 5", "60 % of the linear layers of SL-ResNet-50 pruned: factor 1.4 to 2.6", "smaller scale", "analyse RUN --what pruning --data cifar10", "the factor is counted (`reproduce shardnet --table 'Fig. 5'`); the accuracy is that of a smaller network in docs/analysis.md"),
    Item("Fig. 6", "blocks", "reproduced", "models", "built"),
    Item("Table 1", "VGG networks", "smaller scale", "reproduce shardnet --table 1a/6", "one width with fewer epochs in docs/results/training.md; all counts"),
    Item("Table 2", "residual networks on Tiny ImageNet and ImageNet", "counted only", "reproduce shardnet --table 2", TRAINING),
    Item("Tables 3-5", "the networks layer by layer", "reproduced", "models", "built; `avgpool-3` of Table 5 is pool='3', and the counts fit the global average"),
    Item("Table 6", "VGG networks on CIFAR-100 and Tiny ImageNet", "counted only", "reproduce shardnet --table 6b", "200 epochs of wide networks"),
    Item("Table 7", "residual networks on CIFAR", "counted only", "reproduce shardnet --table 7", "200 epochs of wide networks"),
    Item("Table 8", "other methods", "counted only", "reproduce shardnet --table 8", "accuracies of others are quoted"),
)  # fmt: skip
SPCONV = (
    Item("eqs. 1-9", "the operator and its parameters", "reproduced", "inspect resnet20 --method 'split(ratio=0.5)'"),
    Item("Fig. 1", "similar feature maps in ResNet-50", "smaller scale", "analyse RUN --what maps --data cifar10", "on CIFAR-10 in docs/analysis.md, where only one layer has near-duplicates (12 % of its maps)"),
    Item("Fig. 2", "the operator", "reproduced", "models", "a drawing; the operator and its equations are tested"),
    Item("Table 1", "ResNet-20 and VGG-16 on CIFAR-10", "smaller scale", "reproduce spconv --table 1", "ResNet-20 with fewer epochs in docs/results/training.md; VGG-16 is counted only"),
    Item("Table 2", "ResNet-50 on ImageNet", "counted only", "reproduce spconv --table 2", f"{TRAINING}; GPU times stay quoted until such a GPU measures them"),
    Item("Table 3", "Faster R-CNN and RetinaNet on COCO", "counted only", "reproduce spconv --table 3", COCO),
    Item("Table 4", "ablation on ResNet-20", "counted only", "reproduce spconv --table 4 --train P21 --scale 0.1", "all counts; --scale shortens the training"),
    Item("section 1", "60 to 70 % of parameters and FLOPs dropped at most", "counted only", "reproduce spconv --table 'section 1'", "the text names no network"),
    Item("section 4.4", "43 % more FLOPs without groups; 0.35 M for the gate", "reproduced", "reproduce spconv --table 'section 4.4'"),
)  # fmt: skip
CONTENTS: dict[str, Sequence[Item]] = {
    "tbc": TBC,
    "filter_bases": FILTER_BASES,
    "shardnet": SHARDNET,
    "spconv": SPCONV,
}


def contents_table(paper: str) -> str:
    """The contents of one paper as a Markdown table.

    >>> contents_table("spconv").splitlines()[2].split(" | ")[2]
    'reproduced'

    Args:
        paper: a key of `CONTENTS`.
    """
    lines = ["| Where | What | Here | Command | Why, and where |", "| --- | --- | --- | --- | --- |"]
    for item in CONTENTS[paper]:
        command = f"`leanconv {item.command}`" if item.command else ""
        lines.append(f"| {item.where} | {item.says} | {item.state} | {command} | {item.reason} |")
    return "\n".join(lines) + "\n"
