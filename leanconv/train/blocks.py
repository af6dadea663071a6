"""Block by block: each lean block learns to compute what the same block of the dense network computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanconv.core.atomic import replacing, write_json
from leanconv.core.errors import SettingError
from leanconv.core.modes import evaluating
from leanconv.core.penalty import penalty
from leanconv.core.processes import leads
from leanconv.core.sharing import parameters_in_use
from leanconv.core.strided import safe_strides
from leanconv.train.checkpoint import sha256_of, written
from leanconv.train.distill import weights_digest
from leanconv.train.once import difference, read_json
from leanconv.train.partition import Block, groups_of, lean_blocks

STATE_FILE = "blocks.json"
Say = Callable[[int, int, str], None]


@dataclass(frozen=True)
class BlockResult:
    """What a block learned.

    Args:
        name: the names of its modules.
        group: its group; blocks that share a weight are one group and learn together.
        error_before, error_after: sum of (student - teacher)^2 / sum of teacher^2, over all images, in eval mode.
        memory_mib: memory of the stored activations of its group; of one batch, if they are computed in each step.
        stored: whether the activations are stored.
    """

    name: str
    group: int
    error_before: float
    error_after: float
    memory_mib: float
    stored: bool


def recover_blocks_(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    *,
    steps: int = 200,
    batch_size: int = 64,
    lr: float = 1e-2,
    inputs: Literal["teacher", "student"] = "teacher",
    memory_mib: float = 1024,
    seed: int = 0,
    folder: Path | None = None,
    say: Say | None = None,
) -> list[BlockResult]:
    """Train each lean block of `student`, in place, to give the output of the same block of `teacher`.

    The loss of a group of blocks is the sum over its blocks of

        || s - t ||^2 / || t ||^2

    over a batch, plus `leanconv.penalty` of these blocks. Adam minimises it, at a learning rate that falls to 0 as a cosine.
    Batch norms of the blocks use the statistics of the batch, and their running statistics are estimated on all images at the
    end; all else is in eval mode. If a group has a larger error afterwards, it gets its old weights back.

    Args:
        student: the lean network.
        teacher: the dense network; it is not changed.
        images: as the networks take them, (N, C, H, W).
        steps, batch_size, lr: of each group of blocks.
        inputs: what a block gets: the input of the teacher's block, or the input that the student computes, with the blocks
            before it already trained.
        memory_mib: activations that need more memory are not stored, but computed in each step.
        seed: of the choice of images in each step.
        folder: keeps the weights of each finished group; a call that was stopped continues after them.
        say: called after each group with the number of finished groups, of all groups, and a text.

    Returns:
        the error of each block before and after.

    Raises:
        SettingError: a value breaks its rule, or `folder` holds blocks of other networks, images or settings.

    >>> torch.manual_seed(0)
    <torch...>
    >>> nets = [nn.Sequential(nn.Conv2d(4, 4, 3, groups=g), nn.ReLU()) for g in (2, 1)]
    >>> (result,) = recover_blocks_(*nets, torch.randn(32, 4, 5, 5), steps=50)
    >>> result.name, result.error_after < result.error_before
    ('0', True)
    """
    _check(images, steps, batch_size, lr, inputs)
    settings = {"steps": steps, "batch_size": batch_size, "lr": lr, "inputs": inputs, "seed": seed}
    digests = {"student": weights_digest(student), "teacher": weights_digest(teacher), "images": sha256_of(images)[:16]}
    store = _Store(folder, settings | digests)
    groups = groups_of(student, lean_blocks(student, teacher, images[:2]))
    results: list[BlockResult] = []
    with evaluating(student), evaluating(teacher), torch.enable_grad(), safe_strides(student):
        for number, group in enumerate(groups):
            found = store.read(number, student)
            if found is None:
                source = _Activations(student, teacher, group, images, batch_size, inputs, memory_mib)
                before = source.errors()
                old = {name: value.clone() for name, value in _state_of(student, group).items()}
                _train(student, group, source, steps, lr, torch.Generator().manual_seed(seed))
                after = source.errors()
                if not sum(after) <= sum(before):  # also true for an error that is not a number
                    _set_state(student, old)
                    after = before
                found = [
                    BlockResult(block.name, number, *errors, memory_mib=source.mib, stored=source.stored)
                    for block, errors in zip(group, zip(before, after, strict=True), strict=True)
                ]
                store.write(found, _state_of(student, group))
            results += found
            if say is not None:
                told = (f"{one.name}: error {one.error_before:.3g} to {one.error_after:.3g}" for one in found)
                say(number + 1, len(groups), "; ".join(told))
    return results


def _check(images: Tensor, steps: int, batch_size: int, lr: float, inputs: str) -> None:
    if len(images) < 2 or batch_size < 2:
        raise SettingError(f"batch_size={batch_size} and {len(images)} images: both must be at least 2")
    if steps < 1 or not lr > 0:
        raise SettingError(f"steps={steps} must be at least 1, and lr={lr} above 0")
    if inputs not in ("teacher", "student"):
        raise SettingError(f"inputs={inputs!r} must be 'teacher' or 'student'")


def _train(
    student: nn.Module, group: Sequence[Block], source: _Activations, steps: int, lr: float, draw: torch.Generator
) -> None:
    modules = nn.ModuleList(module for block in group for module in block.modules(student))
    parameters = [parameter for parameter in parameters_in_use(list(modules)) if parameter.requires_grad]
    norms = [module for module in modules.modules() if isinstance(module, _BatchNorm)]
    if not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr)
    for norm in norms:
        norm.training = True
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.randperm(len(source.images), generator=draw)[: source.batch_size]
        losses = [
            (block.run(student, x) - y).square().sum() / y.square().sum().clamp(min=1e-12)
            for block, (x, y) in zip(group, source.batch(rows), strict=True)
        ]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(sum(losses, penalty(modules)), parameters, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad()
    _reestimate(student, group, source, norms)


@torch.no_grad()
def _reestimate(student: nn.Module, group: Sequence[Block], source: _Activations, norms: Sequence[_BatchNorm]) -> None:
    """Set the running statistics of `norms` to the mean over whole batches of all images, and put the norms in eval mode."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    for start in range(0, len(source.images) - source.batch_size + 1, source.batch_size):
        rows = torch.arange(start, start + source.batch_size)
        for block, (x, _) in zip(group, source.batch(rows), strict=True):
            block.run(student, x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum, norm.training = momentum, False


class _Enough(Exception):
    """All activations of a forward pass are known."""


class _Activations:
    """Inputs and wanted outputs of a group of blocks, stored if they fit into memory."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        group: Sequence[Block],
        images: Tensor,
        batch_size: int,
        inputs: str,
        memory_mib: float,
    ) -> None:
        self.student, self.teacher, self.group = student, teacher, group
        self.images, self.batch_size, self.inputs = images, min(batch_size, len(images)), inputs
        values = sum(math.prod(block.inputs) + math.prod(block.output) for block in group)
        mib = values * images.element_size() / 2**20
        self.stored = mib * len(images) <= memory_mib
        self.mib = mib * (len(images) if self.stored else self.batch_size)
        self.pairs: list[tuple[Tensor, Tensor]] = []
        if self.stored:
            parts = [self._computed(part) for part in images.split(self.batch_size)]
            # one block after the other, so that only one is held twice
            self.pairs = [_joined([part[number] for part in parts]) for number in range(len(group))]

    def batch(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(input, wanted output) of each block, for some images."""
        if not self.stored:
            return self._computed(self.images[rows])
        return [(x[rows], y[rows]) for x, y in self.pairs]

    @torch.no_grad()
    def errors(self) -> list[float]:
        """The relative squared error of each block over all images."""
        sums = torch.zeros(len(self.group), 2, dtype=torch.float64)
        for rows in torch.arange(len(self.images)).split(self.batch_size):
            for number, (x, y) in enumerate(self.batch(rows)):
                off = self.group[number].run(self.student, x) - y
                sums[number] += torch.stack([off.square().sum(), y.square().sum()]).double().cpu()
        return [float(error) for error in sums[:, 0] / sums[:, 1].clamp(min=1e-12)]

    @torch.no_grad()
    def _computed(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        device = next(self.teacher.parameters()).device
        found = _passed(self.teacher, self.group, images.to(device), outputs=True)
        if self.inputs == "student":
            own = _passed(self.student, self.group, images.to(device), outputs=False)
            found = [(x, y) for (x, _), (_, y) in zip(own, found, strict=True)]
        return found


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def _passed(model: nn.Module, group: Sequence[Block], images: Tensor, *, outputs: bool) -> list[tuple[Tensor, Tensor]]:
    """(input, output) of each block in one forward pass, which ends after the last of them; without `outputs`, (input, input)."""
    first: dict[int, Tensor] = {}
    last: dict[int, Tensor] = {}

    def on_input(number: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            first[number] = args[0].clone()  # a layer behind may change it in place
            if not outputs and len(first) == len(group):
                raise _Enough

        return keep

    def on_output(number: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            last[number] = output.clone()
            if len(last) == len(group):
                raise _Enough

        return keep

    hooks = []
    for number, block in enumerate(group):
        modules = block.modules(model)
        hooks.append(modules[0].register_forward_pre_hook(on_input(number)))
        if outputs:
            hooks.append(modules[-1].register_forward_hook(on_output(number)))
    try:
        with suppress(_Enough):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(first[number], last[number] if outputs else first[number]) for number in range(len(group))]


class _Store:
    """The finished groups in a folder, or nowhere.

    Args:
        folder: the folder, or None.
        identity: what decides the weights of all groups.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self.done: list[list[dict[str, Any]]] = []
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE_FILE).exists():
            known = read_json(folder / STATE_FILE)
            differs = difference(known["identity"], identity)
            if differs:
                raise SettingError(f"{folder} holds other blocks: {differs}; choose another folder")
            self.done = known["done"]

    def read(self, number: int, student: nn.Module) -> list[BlockResult] | None:
        """The results of a finished group, whose weights are loaded into `student`."""
        if self.folder is None or number >= len(self.done):
            return None
        _set_state(student, load_file(self._file(number)))
        return [BlockResult(**result) for result in self.done[number]]

    def write(self, results: Sequence[BlockResult], state: dict[str, Tensor]) -> None:
        """Keep the next group."""
        if self.folder is None:
            return
        path = self._file(len(self.done))
        self.done.append([asdict(result) for result in results])
        if leads():
            with written(path), replacing(path) as temporary:
                save_file({name: value.contiguous().cpu() for name, value in state.items()}, temporary)
            with written(self.folder / STATE_FILE):
                write_json(self.folder / STATE_FILE, {"identity": self.identity, "done": self.done})

    def _file(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"block-{number:03}.safetensors"


def _state_of(student: nn.Module, group: Sequence[Block]) -> dict[str, Tensor]:
    """The weights and buffers of a group by their names in `student`, shared weights included."""
    modules = [module for block in group for module in block.modules(student)]
    used = {id(parameter) for parameter in parameters_in_use(modules)}
    used |= {id(buffer) for module in modules for buffer in module.buffers()}
    every = (*student.named_parameters(), *student.named_buffers())
    return {name: value.detach() for name, value in every if id(value) in used}


@torch.no_grad()
def _set_state(student: nn.Module, state: dict[str, Tensor]) -> None:
    own = dict((*student.named_parameters(), *student.named_buffers()))
    for name, value in state.items():
        own[name].copy_(value)
