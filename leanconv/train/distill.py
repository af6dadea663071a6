"""Distillation: a network learns from a teacher, which sees the same images, mixed and augmented in the same way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.conversion.globs import Names
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.layout import to_channels_last
from leanconv.core.meta import dry_run
from leanconv.core.modes import in_eval
from leanconv.core.notes import get_task
from leanconv.core.shown import first_names
from leanconv.data import ImageData
from leanconv.data.classes import SHOWN, class_indices
from leanconv.files.target import code_digest, has_own_code, network_digest
from leanconv.train.checkpoint import sha256_of
from leanconv.train.config import DISTILL, TrainConfig
from leanconv.train.matching import Seen, Shape, outputs_of, same_outputs, traced
from leanconv.train.optimizers import check_float32
from leanconv.train.prepared import image_size_of, warn_if_unknown

TEMPERATURES = {"kl": 4.0, "kl_standardised": 2.0, "dist": 4.0}  # of the papers' experiments with small images


def kl_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p || q), the mean over images, with p = softmax(teacher / T) and q = softmax(student / T).

    The factor keeps the size of the gradients, which fall with 1 / T^2.

    Args:
        student, teacher: logits.
        temperature: T.

    Shape:
        student, teacher: (N, classes) -> ().

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.

    >>> kl_loss(torch.zeros(1, 2), torch.zeros(1, 2), 4.0)
    tensor(0.)
    """
    wanted, found = ((logits / temperature).log_softmax(dim=1) for logits in (teacher, student))
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def standardised(logits: Tensor) -> Tensor:
    """Logits with mean 0 and standard deviation 1 over the classes of each image: (z - mean) / (std + 1e-7).

    std is that of a sample, with classes - 1 in the denominator, as in the authors' release.

    Source: Sun et al. 2024, "Logit Standardization in Knowledge Distillation", section 4.

    >>> standardised(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """
    std, mean = torch.std_mean(logits, dim=1, keepdim=True)
    return (logits - mean) / (std + 1e-7)


def dist_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over images of 1 - r(q_i, p_i), plus mean over classes of 1 - r(q_:j, p_:j); r is Pearson's correlation.

    p and q are the probabilities of teacher and student as in `kl_loss`. The first part compares the classes of one image, the
    second the images of one class.

    Args:
        student, teacher: logits.
        temperature: T.

    Shape:
        student, teacher: (N, classes) -> ().

    Source: Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", equations 7 to 10 with beta = gamma. The
    release multiplies by T^2; a correlation has no scale, so this does not.

    >>> dist_loss(torch.eye(3), torch.eye(3), 1.0).abs() < 1e-6
    tensor(True)
    """
    p, q = ((logits / temperature).softmax(dim=1) for logits in (teacher, student))
    return (1 - pearson(q, p)).mean() + (1 - pearson(q.T, p.T)).mean()


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of `a` with the row of `b`; 0 for a constant row.

    >>> pearson(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3.0, 5.0, 9.0]]))
    tensor([1.])
    """
    a, b = (rows - rows.mean(dim=1, keepdim=True) for rows in (a, b))
    return F.cosine_similarity(a, b, dim=1, eps=1e-8)


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|| s / ||s|| - t / ||t|| ||^2, the mean over images, where s and t are all values of an image's feature maps.

    Shape:
        student, teacher: (N, ...) -> ().

    Source: Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", eq. 2 normalises in this way; there the maps are
    first summed over their channels.

    >>> feature_loss(torch.ones(2, 3, 1, 1), 5 * torch.ones(2, 3, 1, 1)) < 1e-12
    tensor(True)
    """
    found, wanted = (F.normalize(maps.flatten(1), dim=1) for maps in (student, teacher))
    return (found - wanted).square().sum(dim=1).mean()


class Distillation:
    """The loss of a network against a teacher.

    The teacher is a frozen copy in eval mode. It is not part of the network that trains: no state dict and no checkpoint holds
    it. If its task (`leanconv.get_task`) says that its images were normalised in another way, it gets them in this way, and its
    outputs are put in the order of the data's classes.

    Args:
        teacher: a trained network; it is not changed.
        student: the network that trains.
        data: the images, with their classes in the order of the student's outputs.
        config: the settings of the run.

    Raises:
        SettingError: the teacher has other classes, is not float32, or does not take the images; or `config.distill` is
            "features" and the networks have no such layers in common.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, data: ImageData, config: TrainConfig) -> None:
        check_float32(teacher)
        self.config = config
        self.digest = weights_digest(teacher)
        self.network = in_eval(copied(teacher)).requires_grad_(False)
        if config.channels_last:
            to_channels_last(self.network)
        self.order = _order(teacher, data)
        self.affine = _renormalisation(teacher, data)
        size = (data.channels, *image_size_of(data, config))
        seen = dry_run(teacher, size, traced)
        _check_outputs(seen[""].output, len(data.classes), data.name)
        self.layers: list[str] = []
        if config.distill == "features":
            self.layers = _layers(student, dry_run(student, size, traced), seen, config.distill_layers)
        self.of_student: dict[str, Tensor] = {}
        self.of_teacher: dict[str, Tensor] = {}
        self.call = torch.compile(_call) if config.compile else _call

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        return self  # averaging copies the module of the run, and the teacher is the same for both

    def to(self, device: torch.device) -> None:
        """Move the teacher to `device`."""
        self.network.to(device)

    def watching(self, student: nn.Module) -> AbstractContextManager[None]:
        """Within the block, passes of `student` that compute gradients keep the outputs that `loss` compares."""
        return outputs_of(student, self.layers, self.of_student, with_gradient=True)

    def loss(self, images: Tensor, logits: Tensor) -> Tensor:
        """The distillation loss of a batch.

        Args:
            images: the batch as the student got it.
            logits: the student's output for it, in float32.

        Shape:
            images: (N, C, H, W); logits: (N, classes) -> ().
        """
        wanted = self.teach(images)
        if self.config.distill == "features":
            losses = [
                feature_loss(self.of_student[name].float(), self.of_teacher[name].float()) for name in self.layers
            ]
            self.of_student.clear()
            self.of_teacher.clear()
            return torch.stack(losses).mean()
        temperature = self.config.distill_temperature or TEMPERATURES[self.config.distill]
        if self.config.distill == "dist":
            return dist_loss(logits, wanted, temperature)
        if self.config.distill == "kl_standardised":
            logits, wanted = standardised(logits), standardised(wanted)
        return kl_loss(logits, wanted, temperature)

    @torch.no_grad()
    def teach(self, images: Tensor) -> Tensor:
        """The teacher's logits of a batch, in float32 and in the order of the data's classes."""
        if self.affine is not None:
            scale, shift = (value.to(images) for value in self.affine)
            images = images * scale + shift
        with outputs_of(self.network, self.layers, self.of_teacher):
            logits = self.call(self.network, images).float()
        return logits if self.order is None else logits[:, self.order]


def distillation_for(
    teacher: nn.Module | None, student: nn.Module, data: ImageData, config: TrainConfig
) -> Distillation | None:
    """The distillation of a run; None for a run without a teacher.

    Args:
        teacher, student, data, config: as `Distillation`.

    Raises:
        SettingError: there is no teacher, and a setting of `config` is for a teacher; or as `Distillation`.
    """
    if teacher is not None:
        return Distillation(teacher, student, data, config)
    given = config.given(DISTILL)
    if given:
        raise SettingError(f"{given[0]}={getattr(config, given[0])!r} needs a teacher; give --teacher (teacher=)")
    return None


def watching(distillation: Distillation | None, student: nn.Module) -> AbstractContextManager[None]:
    """`Distillation.watching`; without a distillation, nothing is watched."""
    return nullcontext() if distillation is None else distillation.watching(student)


def weights_digest(network: nn.Module) -> str:
    """A short hash of a network's layers and of all values in its state dict; and of its code, if that is of no library.

    >>> weights_digest(nn.ReLU()) == weights_digest(nn.ReLU())
    True
    """
    own = [code_digest(network)] if has_own_code(network) else []
    return sha256_of([network_digest(network), *own, dict(network.state_dict())])[:16]


def _call(model: nn.Module, images: Tensor) -> Any:
    return model(images)


def _check_outputs(output: Shape | None, classes: int, data: str) -> None:
    if output is None or len(output) != 1:
        kind = "no tensor" if output is None else f"a tensor {('N', *output)}".replace("'", "")
        raise SettingError(f"the teacher returns {kind}; give one that returns one (N, classes) tensor")
    if output[0] != classes:
        raise SettingError(
            f"the teacher has {output[0]} outputs and {data} has {classes} classes; take a teacher that was trained on this data"
        )


def _order(teacher: nn.Module, data: ImageData) -> list[int] | None:
    """The teacher's output for each class of the data; None if they have the same order, or one of them has no names."""
    task = get_task(teacher)
    if task is None or not task.classes or not data.named or task.classes == data.classes:
        return None
    return list(class_indices(task.classes, data.classes, "the teacher", data.name, whole=True))


def _renormalisation(teacher: nn.Module, data: ImageData) -> tuple[Tensor, Tensor] | None:
    """(scale, shift) that turns images with the data's mean and std into those that the teacher was trained with."""
    task = get_task(teacher)
    warn_if_unknown(teacher, data)
    if task is None or data.prepared or (tuple(task.mean), tuple(task.std)) == (tuple(data.mean), tuple(data.std)):
        return None
    mean, std, its_mean, its_std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
        for values in (data.mean, data.std, task.mean, task.std)
    )
    return std / its_std, (mean - its_mean) / its_std


def _layers(student: nn.Module, own: dict[str, Seen], of_teacher: dict[str, Seen], globs: tuple[str, ...]) -> list[str]:
    """The layers whose outputs are compared: those of `globs`, or the last common layer of each size of feature maps."""
    common = same_outputs(own, of_teacher)
    if not globs:
        last = {shape[1:]: name for name, shape in common.items() if len(shape) == 3 and prod(shape[1:]) > 1}
        if last:
            return list(last.values())
        raise SettingError(
            "distill='features': student and teacher have no feature maps with the same layer name and shape; use distill='kl'"
        )
    names = Names(student)
    for glob in globs:
        if not any(names.matches(name, glob) for name in common):
            some = first_names(list(common), SHOWN) if common else "none"
            raise SettingError(
                f"distill_layers={glob!r} matches no layer with the same name and output shape in both networks ({some})"
            )
    return [name for name in common if any(names.matches(name, glob) for glob in globs)]
