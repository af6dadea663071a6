"""Train and test a network, or only test it, with one call."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from leanconv.conversion.methods import parse_method
from leanconv.conversion.plan import globs_only
from leanconv.core.errors import RunError, SettingError
from leanconv.core.method import Method
from leanconv.core.notes import get_task
from leanconv.core.settings import check_choice
from leanconv.core.task_settings import TaskSettings
from leanconv.data.own import DataLike, as_images
from leanconv.experiment.controls import CONTROLS, Control
from leanconv.experiment.events import Progress
from leanconv.experiment.job import Job
from leanconv.experiment.ready import check_options, prepare
from leanconv.experiment.run import Run, run
from leanconv.experiment.settings import settings_for
from leanconv.experiment.teacher import Teacher
from leanconv.files.target import Network, as_text, open_target
from leanconv.files.weights import Weights
from leanconv.train.config import TrainConfig
from leanconv.train.once import finished
from leanconv.train.prepared import check_fits, scores_of, task_on
from leanconv.train.scoring import Scores
from leanconv.train.together import together as shared_by

if TYPE_CHECKING:
    from leanconv.conversion.apply import Init
    from leanconv.conversion.plan import Include


def fit(
    model: Network | Path,
    data: DataLike,
    config: TrainConfig | str | Path | None = None,
    out: str | Path | None = None,
    *,
    method: str | Method | Control | None = None,
    where: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    include: Include | None = None,
    align: int | None = None,
    init: Init = "fresh",
    pretrained: bool = False,
    weights: str | Path | None = None,
    state: str | None = None,
    task: TaskSettings | None = None,
    teacher: str | Path | nn.Module | None = None,
    test_split: float | None = None,
    resume: bool = False,
    progress: Progress = True,
    device: str = "auto",
    devices: int | str | None = None,
    callbacks: Sequence[Any] = (),
    logger: Any = None,
    strategy: Any = None,
    **settings: Any,
) -> Run:
    """Train a network on the train part of `data`, and test it once, at the end, on the test part.

    Args:
        model: a network, which is trained in place; a name; a folder; or a function that returns a network, called after seeding.
        data: a name ("digits", "cifar10") or a folder as in `leanconv.data.open_data`; an `ImageData`; a pair (train, test),
            each a torch Dataset of (image, label) or a pair of tensors (images, labels); or one pair of tensors with
            `test_split`.
        test_split: the fraction of the images that is held out as the test part, where the data has none. If `model` or
            `teacher` is the folder of a run on these images, its test part stays the test part.
        config: settings, the name of a recipe, or a configuration file; None takes the recipe that suits the data.
        out: the run's folder: settings, metrics of each epoch, a checkpoint, the network and the result. A finished run of
            the same network, images and settings in this folder is read. None keeps no files. A network in memory, and one
            that a function returns, is the same if its layers are; its weights are not compared.
        method, where, exclude, include, align, init: convert the network first, as `leanconv.plan` and `leanconv.convert` do. The
            given network is then not changed, and ``result.network`` is the converted network.
        pretrained: start from published weights, for networks by name.
        weights, state: start from a checkpoint of yours, for networks by name; the part of it, as in
            `leanconv.load_checkpoint`. If it has other classes than `data`, the last layer starts with new weights.
        task: what a checkpoint does not hold, for networks by name: the order of its classes and its normalisation, with
            which the network is then trained. In Python, `leanconv.note_task` does this for networks of your own.
        teacher: a trained network from which this network learns (distillation): a network, the folder of a saved one, or a
            name with published weights. The settings that begin with `distill` say what it teaches.
        resume: continue the unfinished run in `out`.
        progress: True shows the progress on standard error; a function is called with each `leanconv.experiment.Event`.
        device, devices: where to train, and in how many processes, as Lightning takes them.
        callbacks, logger, strategy: Lightning's; see `leanconv.train.fit`.
        settings: single settings of `TrainConfig`, which replace those of `config`: ``epochs=3``.

    Returns:
        scores, history, counts, folder and network; ``result.report("page.html")`` writes a page.

    Raises:
        SettingError: a setting or value is unknown, the network does not fit the images, or the folder contains another run.
        DataError: the images cannot be used.
        RunError: training failed; with `out`, the folder contains the last checkpoint.

    >>> import leanconv as lc
    >>> result = lc.fit("resnet8", "digits", method="tied_block(blocks=2)", epochs=1, threads=1, progress=False)
    >>> result.scores.n, len(result.history)
    (355, 1)
    """
    images = as_images(data, test_split=test_split, networks=(model, teacher))
    chosen = settings_for(config, images, settings, device)
    asked = parse_method(method, CONTROLS) if isinstance(method, str) else method
    in_place = asked is None and isinstance(model, nn.Module)
    job = Job(
        as_text(model), asked, images, chosen, globs_only(where), globs_only(exclude, "exclude"), init, pretrained,
        in_place=in_place, include=include,
        teacher=None if teacher is None else Teacher.open(teacher), align=align,
        weights=None if weights is None else Weights.open(weights, state), task=task or TaskSettings(),
    )  # fmt: skip
    own = {"callbacks": tuple(callbacks), "logger": logger, "strategy": strategy}
    options = {name: value for name, value in own.items() if value} | {"accelerator": device, "devices": devices}
    check_options(job, options)
    if out is not None:  # an error in `prepare` must not leave a folder
        own_folder = Path(out).expanduser()
        ready = None if finished(own_folder) else prepare(job, options)
        return run(job, ready, own_folder, resume=resume, progress=progress, **options)
    with tempfile.TemporaryDirectory() as folder:
        return replace(run(job, prepare(job, options), Path(folder), progress=progress, **options), folder=None)


def evaluate(
    model: str | Path | nn.Module,
    data: DataLike,
    *,
    part: Literal["test", "train"] = "test",
    image_size: int | None = None,
    test_split: float | None = None,
    batch_size: int = 500,
    ten_crop: bool = False,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    workers: int = 0,
    together: bool = False,
) -> Scores:
    """Top-1 and top-5 accuracy in percent, and the loss, of a network on a part of `data`.

    The images are prepared as in the network's training. Classes are compared by name where both sides have names.

    Args:
        model: a network, or the folder of a saved network.
        data, test_split: as in `fit`.
        part: the part of the data.
        image_size: resize images to this number of pixels a side; by default as in training.
        batch_size: images in each step.
        ten_crop: average the probabilities over ten crops of each image.
        precision: "bf16" computes in bfloat16; "auto" does so where the machine is fast at it.
        workers: processes that decode images.
        together: the processes that torchrun or srun started share the images, and all get the scores of all images; each of
            them must make this call.

    Raises:
        SettingError: `model` is no network, does not fit the images or has other classes; or `part` or `precision` is unknown.
        DataError: the images cannot be used.
        FileError: the folder has no saved network.
        RunError: the loss is NaN.

    >>> import leanconv as lc
    >>> lc.evaluate(lc.create_model("resnet8", num_classes=10, in_chans=1), "digits").n
    355
    """
    if not isinstance(model, str | Path | nn.Module):
        raise SettingError(
            f"evaluate takes a torch.nn.Module or the folder of a saved network, not {type(model).__name__}; if {model!r} "
            "builds a network, call it first"
        )
    check_choice("part", part, ("test", "train"))
    check_choice("precision", precision, ("auto", "fp32", "bf16"))
    images = as_images(data, test_split=test_split, networks=(model,))
    network = model if isinstance(model, nn.Module) else open_target(str(model))
    if image_size is None and images.image_size is None and get_task(network) is None:
        raise SettingError(f"the images of {images.name} vary in size; give --image-size (image_size=), such as 224")
    task = task_on(network, images)  # images are prepared as in training, not with the statistics of these images
    if image_size is not None:
        task = replace(task, image_size=(image_size, image_size))
    check_fits(network, images, task.image_size)
    with shared_by(together) as shared:
        scores = scores_of(
            network, images, task, images.test if part == "test" else images.train, batch_size=batch_size,
            ten_crop=ten_crop, precision=precision, workers=workers, shared=shared,
        )  # fmt: skip
    if math.isnan(scores.loss):  # infinity may be the loss of a class with probability 0
        raise RunError(
            f"the loss on {images.name} is NaN: the network's outputs hold NaN or infinity; give finite weights, and "
            "the images, mean and std of its training"
        )
    return scores
