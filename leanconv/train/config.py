"""The settings of a run, each declared once: the flags, the configuration file and the class use the same lines.

This module imports neither torch nor Lightning, because ``--help`` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from leanconv.core.config import LARGEST_SEED, Config, setting
from leanconv.core.errors import SettingError

# These settings change how a run is executed, not what it computes: they may change on resuming
EXECUTION = ("workers", "threads", "record_gradients", "sync_norms", "grad_checkpointing")
# Runs of earlier versions do not have these settings; their runs had what the default says
ADDED = (
    "optimizer", "betas", "eps", "muon_lr", "muon_momentum", "muon_weight_decay", "muon_nesterov", "muon_adjust_lr", "muon_rest",
    "muon_exclude", "lr_rules", "weight_decay_rules", "decoupled", "freeze", "crop_pad", "crop_pad_mode", "flip", "lookahead",
    "accumulate", "clip", "deterministic", "auto_augment", "randaugment_ops", "randaugment_magnitude", "erase", "mixup", "cutmix",
    "distill", "distill_weight", "distill_temperature", "distill_layers",
)  # fmt: skip


DISTILL = ("distill", "distill_weight", "distill_temperature", "distill_layers")  # settings that need a teacher


class RunConfig(Config):
    """The optimizer and its schedule: the settings of every run.

    Args:
        optimizer: see `leanconv.train.optimizers.make_optimizer`. "muon" trains the matrices of hidden layers by torch's Muon
            with the settings that begin with `muon_`, and all other parameters by `muon_rest`.
        momentum, nesterov: of SGD.
        betas, eps: of AdamW.
        muon_adjust_lr: how torch's Muon multiplies the learning rate of a matrix (A, B): "original" by sqrt(max(1, A / B)),
            "match_rms_adamw" by 0.2 sqrt(max(A, B)), "spectral_unclamped" by sqrt(A / B).
        muon_exclude: globs of matrices that `muon_rest` trains; by default those of the first and of the last layer.
        lr_rules, weight_decay_rules, decoupled: see `leanconv.train.optimizers.parameter_groups`.
        freeze: see `leanconv.train.freeze.frozen`.
        accumulate: the number of parts of the batch that a step computes one after the other; it adds their gradients. The
            step needs the memory of one part. It is the same step, except that a norm computes its statistics in each part,
            dropout draws for each part, and ``distill="dist"`` compares the images of each part.
        grad_checkpointing: keep only the inputs of blocks, and compute each block again in the backward pass; see
            `leanconv.train.recompute`. The weights are the same as without it.
        clip: all gradients of a step are multiplied by min(1, clip / norm), with the norm over all of them together.
        deterministic: torch uses deterministic algorithms only, and raises an error where there is none; on a GPU, the same
            seed then gives the same weights.
        schedule: see `leanconv.train.schedules.learning_rate`.
        pct_start, div_factor, final_div_factor: of "onecycle" and "triangle", as in torch's OneCycleLR; the momentum is constant.
        precision: "bf16" computes in bfloat16 where autocast allows it; the weights stay float32. "auto" is "bf16" on a GPU or
            a CPU with such instructions, otherwise "fp32"; a run stores which of the two it is.
        no_decay_norm: no weight decay on biases and normalisation layers (every parameter with fewer than two dimensions).
        record_gradients: write the largest and the mean absolute gradient of each shared weight to gradients.jsonl, every
            ten steps.
        sync_norms: batch normalisation computes its statistics over all GPUs of the run, for few images on each GPU.

    Raises:
        SettingError: a setting is unknown, or a value breaks its rule.

    >>> RunConfig(epochs=100).scaled(0.1).epochs
    10
    """

    epochs: int = setting("Passes over the train part.", default=30, least=1)
    batch_size: int = setting("Images in a step, over all processes together.", default=128, least=1)
    accumulate: int = setting("Parts in which a step computes its images; less memory.", default=1, least=1)
    grad_checkpointing: bool = setting(
        "Compute blocks again in the backward pass, for less memory and the same weights.", default=False
    )
    lr: float = setting("Highest learning rate.", default=0.1, above=0)
    optimizer: Literal["sgd", "adamw", "muon"] = setting(
        "torch's optimizer; muon trains the matrices of hidden layers by Muon, the rest by --muon-rest.", default="sgd"
    )
    momentum: float = setting("Momentum of SGD.", default=0.9, least=0, below=1)
    nesterov: bool = setting("Nesterov momentum.", default=True)
    weight_decay: float = setting("Weight decay.", default=5e-4, least=0)
    betas: tuple[float, ...] = setting("Betas of AdamW.", default=(0.9, 0.999), least=0, below=1)
    eps: float = setting("Epsilon of AdamW.", default=1e-8, above=0)
    muon_lr: float = setting("Highest learning rate of Muon.", default=0.02, above=0)
    muon_momentum: float = setting("Momentum of Muon.", default=0.95, least=0, below=1)
    muon_weight_decay: float = setting("Weight decay of Muon.", default=0.1, least=0)
    muon_nesterov: bool = setting("Nesterov momentum of Muon.", default=True)
    muon_adjust_lr: Literal["original", "match_rms_adamw", "spectral_unclamped"] = setting(
        "How Muon adjusts the learning rate to the shape of a matrix.", default="original"
    )
    muon_rest: Literal["sgd", "adamw"] = setting("Optimizer of what Muon does not train.", default="sgd")
    muon_exclude: tuple[str, ...] = setting(
        "Matrices that Muon does not train (globs); by default those of the first and the last layer.", default=()
    )
    lr_rules: tuple[str, ...] = setting(
        "Learning-rate factors of parameters: '*.bias=64,head.weight=0.5'; the first glob that matches decides.",
        default=(),
    )
    weight_decay_rules: tuple[str, ...] = setting(
        "Weight decay of parameters: '*.bias=0'; the first glob that matches decides.", default=()
    )
    decoupled: bool = setting("Divide weight decay by the learning-rate factor of the parameter.", default=False)
    clip: float | None = setting("Largest norm of the gradients.", default=None, above=0)
    freeze: tuple[str, ...] = setting("Parameters that do not train (globs): 'conv1.*,layer1.*'.", default=())
    schedule: Literal["cosine", "onecycle", "triangle", "step", "plateau", "constant"] = setting(
        "How lr changes.", default="onecycle"
    )
    milestones: tuple[float, ...] = setting(
        "Epochs at which step multiplies lr by gamma; below 1, fractions of all epochs.", default=(0.5, 0.75)
    )
    gamma: float = setting("Factor of step and plateau.", default=0.1, above=0, below=1)
    patience: int = setting("Epochs that plateau waits for a lower validation loss.", default=5, least=0)
    warmup_epochs: float = setting("Epochs of linear warm-up.", default=0.0, least=0)
    pct_start: float = setting("Rising part of onecycle and triangle.", default=0.3, above=0, below=1)
    div_factor: float = setting("onecycle and triangle start at lr divided by this.", default=25.0, least=1)
    final_div_factor: float = setting("onecycle and triangle end at their start divided by this.", default=1e4, least=1)
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "bf16 computes in bfloat16 where autocast allows it; auto does so where the machine is fast at it.",
        default="fp32",
    )
    channels_last: bool = setting("Memory layout of images and weights.", default=True)
    validation: float = setting(
        "Part of train that is held out to choose settings; 0 trains on all images.", default=0.0, least=0, below=1
    )
    seed: int = setting("Seed of all random numbers.", default=0, least=0, most=LARGEST_SEED)
    deterministic: bool = setting("Use only deterministic algorithms of torch.", default=False)
    workers: int = setting("Processes that decode images.", default=0, least=0)
    threads: int | None = setting("CPU threads.", default=None, least=1)
    no_decay_norm: bool = setting("No weight decay on biases and normalisation layers.", default=False)
    record_gradients: bool = setting(
        "Record the gradients of shared weights, for analyse --what gradients.", default=False
    )
    sync_norms: bool = setting("Compute the statistics of batch normalisation over all GPUs together.", default=False)

    def scaled(self, factor: float) -> Self:
        """The same recipe for `factor` times its epochs; milestones, warm-up and patience are scaled too.

        A milestone at the end, or behind it, stays there.

        Raises:
            SettingError: the factor is not in (0, 1].
        """
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
            raise SettingError(f"scale={factor!r} must be a number above 0 and at most 1; 1 is the full length")
        epochs = max(1, round(self.epochs * factor))
        part = epochs / self.epochs
        return self.replace(
            epochs=epochs,
            milestones=tuple(m if m < 1 else m / self.epochs if m < self.epochs else m * part for m in self.milestones),
            warmup_epochs=self.warmup_epochs * part,
            patience=round(self.patience * part),
        )

    def added(self) -> dict[str, Any]:
        """The settings that runs of earlier versions do not have, with the values that say what those runs did."""
        plain = type(self)().to_json()
        return {name: plain[name] for name in ADDED if name in plain}

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values; the same for a run that an earlier version began."""
        added = self.added()
        decisive = {name: value for name, value in self.to_json().items() if name not in EXECUTION}
        return {name: value for name, value in decisive.items() if name not in added or value != added[name]}

    @property
    def averages(self) -> bool:
        """Whether the run averages its weights."""
        return False

    @property
    def keeps_best(self) -> bool:
        """Whether the run keeps the weights of its best epoch."""
        return False

    def milestone_epochs(self) -> tuple[float, ...]:
        """The milestones in epochs."""
        return tuple(m * self.epochs if m < 1 else m for m in self.milestones)

    def _check_together(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise SettingError("nesterov=True needs a momentum above 0; set nesterov=False")
        if self.batch_size % self.accumulate:
            parts = ", ".join(str(n) for n in range(1, self.accumulate + 1) if self.batch_size % n == 0)
            raise SettingError(f"accumulate={self.accumulate} must divide batch_size={self.batch_size}; {parts} would")
        if len(self.betas) != 2:
            raise SettingError(f"betas={self.betas} must be two numbers, such as 0.9,0.999")
        for what in ("lr_rules", "weight_decay_rules"):
            for rule in getattr(self, what):
                parse_rule(what, rule)
        if self.warmup_epochs >= self.epochs:
            raise SettingError(f"warmup_epochs={self.warmup_epochs} must be below epochs={self.epochs}")
        if self.warmup_epochs and self.schedule in ("onecycle", "triangle", "plateau"):
            raise SettingError(
                f"warmup_epochs={self.warmup_epochs} cannot be combined with schedule={self.schedule!r}; set 0"
            )
        if self.schedule == "step":
            epochs = self.milestone_epochs()
            if min(epochs, default=0) < 0 or list(epochs) != sorted(set(epochs)):
                raise SettingError(f"milestones={self.milestones} must rise; they are epochs {epochs} of {self.epochs}")
        if self.validation == 0 and self.schedule == "plateau":
            raise SettingError(
                "schedule='plateau' follows the validation loss; set validation above 0, for example 0.1"
            )


def parse_rule(what: str, text: str) -> tuple[str, float]:
    """The glob and the number of a rule for parameters.

    Args:
        what: "lr_rules", whose numbers are above 0, or "weight_decay_rules", whose numbers are 0 or more.
        text: the rule, ``glob=number``.

    Raises:
        SettingError: the text is no rule.

    >>> parse_rule("lr_rules", "*.bias=64")
    ('*.bias', 64.0)
    """
    glob, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not glob.strip() or not math.isfinite(value) or value < 0 or (value == 0 and what == "lr_rules"):
        least, example = ("above 0", "*.bias=64") if what == "lr_rules" else ("of at least 0", "*.bias=0")
        raise SettingError(f"{what}: {text!r} must be a glob, = and a number {least}, such as {example}")
    return glob.strip(), value


class TrainConfig(RunConfig):
    """The settings of a classifier's run: `RunConfig`, and how images are fed and weights chosen.

    Args:
        auto_augment: torchvision's RandAugment or TrivialAugmentWide, after `augment`. RandAugment applies `randaugment_ops`
            operations of strength `randaugment_magnitude`; TrivialAugment draws one operation and its strength.
        erase: the probability that a rectangle of an image becomes the mean colour (random erasing, torchvision's sizes).
        mixup, cutmix: alpha of the Beta distribution from which a batch's share is drawn; 0 leaves it out. With both, each
            batch takes one of them with probability 1/2. Images are mixed with those of the same batch and process. The
            train accuracy then compares with the label that has the larger share.
        distill: how the network learns from a teacher, if the run has one; see `leanconv.train.distill`: "kl" from the teacher's
            probabilities, "kl_standardised" the same with standardised logits, "dist" from correlations of probabilities,
            "features" from feature maps.
        distill_weight: loss = (1 - distill_weight) cross-entropy + distill_weight distillation loss + penalty.
        distill_temperature: divides the logits of both networks; None takes 4 for "kl" and "dist", and 2 for "kl_standardised".
        distill_layers: globs of the layers whose outputs "features" compares; by default, for each size of feature maps, the
            last layer with the same name and the same output shape in both networks.
        image_size: side in pixels of the square to which images are scaled; see `make_loader`.
        ten_crop: use ten crops in the evaluation after the run; validation uses one crop of each image.
        ema: decay per step of an averaged copy of the weights; this copy is then validated and kept.
        lookahead: steps between two updates of the slow weights; see `leanconv.train.lookahead`.
        select: keep the weights of the last epoch, or of the epoch with the best validation accuracy.

    Raises:
        SettingError: a setting is unknown, or a value breaks its rule.

    >>> TrainConfig(epochs=10, validation=0.0, select="last").milestone_epochs()
    (5.0, 7.5)
    """

    label_smoothing: float = setting("Label smoothing.", default=0.0, least=0, below=1)
    augment: Literal["none", "crop", "crop_flip", "random_resized_crop"] = setting(
        "Augmentation of train images.", default="crop_flip"
    )
    crop_pad: int | None = setting(
        "Pixels of padding before a random crop; by default an eighth of the side.", default=None, least=0
    )
    crop_pad_mode: Literal["zeros", "reflect"] = setting("What the padding shows.", default="zeros")
    flip: Literal["random", "alternating"] = setting(
        "How images are mirrored; alternating mirrors each image in every second epoch.", default="random"
    )
    auto_augment: Literal["none", "randaugment", "trivialaugment"] = setting(
        "Further augmentation of train images, one by one; workers make it faster.", default="none"
    )
    randaugment_ops: int = setting("Operations of RandAugment on an image.", default=2, least=1)
    randaugment_magnitude: int = setting("Strength of RandAugment.", default=9, least=0, most=30)
    erase: float = setting("How likely a rectangle of a train image is erased.", default=0.0, least=0, most=1)
    mixup: float = setting("Alpha of Mixup: mix pairs of images; 0 does not.", default=0.0, least=0)
    cutmix: float = setting("Alpha of CutMix: paste rectangles between images; 0 does not.", default=0.0, least=0)
    distill: Literal["kl", "kl_standardised", "dist", "features"] = setting(
        "What a teacher teaches: its probabilities (kl, kl_standardised), their correlations (dist), or its feature maps.",
        default="kl",
    )
    distill_weight: float = setting(
        "Share of the distillation loss; the labels have the rest.", default=0.9, above=0, most=1
    )
    distill_temperature: float | None = setting(
        "Temperature of the probabilities; by default 4, and 2 for kl_standardised.", default=None, above=0
    )
    distill_layers: tuple[str, ...] = setting(
        "Layers that features compares (globs); by default one for each size of feature maps.", default=()
    )
    image_size: int | None = setting(
        "Side in pixels to which images are scaled; by default they keep their size.", default=None, least=1
    )
    ten_crop: bool = setting("Test on ten crops of each image.", default=False)
    compile: bool = setting("Compile the network; needs a C++ compiler on a CPU.", default=False)
    ema: float | None = setting("Decay of averaged weights, which are then kept.", default=None, above=0, below=1)
    lookahead: int | None = setting(
        "Steps after which the weights return to their slow average.", default=None, least=1
    )
    validation: float = 0.1
    select: Literal["last", "best"] = setting("Weights kept: last epoch, or best on validation.", default="last")

    @property
    def averages(self) -> bool:
        return self.ema is not None

    @property
    def keeps_best(self) -> bool:
        return self.select == "best"

    def given(self, names: Sequence[str]) -> list[str]:
        """Those of the settings `names` that differ from their defaults."""
        declared = self.settings()
        return [name for name in names if getattr(self, name) != declared[name].default]

    def _check_together(self) -> None:
        super()._check_together()
        if self.compile and self.grad_checkpointing:
            raise SettingError(
                "compile=True chooses itself what it computes again; leave grad_checkpointing out, or compile"
            )
        if self.lookahead is not None and self.ema is not None:
            raise SettingError(f"lookahead={self.lookahead} and ema={self.ema} both average the weights; leave one out")
        if self.distill_layers and self.distill != "features":
            raise SettingError(
                f"distill_layers={list(self.distill_layers)} is for distill='features', not {self.distill!r}"
            )
        if self.distill_temperature is not None and self.distill == "features":
            raise SettingError(
                f"distill_temperature={self.distill_temperature:g} is not for distill='features'; leave it out"
            )
        if self.validation == 0 and self.select == "best":
            raise SettingError("select='best' needs a validation part; set validation above 0, for example 0.1")
