"""Lean networks on the Hugging Face Hub: the files of `leanconv.save` and a model card, through the Hub's own mixin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from torch import nn

from leanconv.conversion.apply import plan_of
from leanconv.core.atomic import write_json
from leanconv.core.count import count
from leanconv.core.errors import FileError, LeanconvError
from leanconv.core.notes import get_base, get_task, input_size_of
from leanconv.core.version import __version__
from leanconv.files.load import load
from leanconv.files.save import MODEL_FILE, save
from leanconv.models.create import rebuild_base


class HubModel(ModelHubMixin):
    """What huggingface_hub uploads and downloads: a network, and the text of a measured table for its card.

    ``HubModel(lean).save_pretrained(dir)``, ``.push_to_hub(repo_id)`` and ``HubModel.from_pretrained(repo_id).network``
    come from the mixin; `push_to_hub` and `from_pretrained` below are shorter.

    Args:
        network: the network to upload, or the downloaded network.
        measured: a measured table as text.
    """

    def __init__(self, network: nn.Module, measured: str | None = None) -> None:
        self.network, self.measured = network, measured

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.network, save_directory)
        # The Hub counts downloads by this file
        write_json(
            save_directory / "config.json",
            {"library": "leanconv", "version": __version__, "base": get_base(self.network)},
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        network: nn.Module | None = None,
        **_: Any,
    ) -> HubModel:
        if os.path.isdir(model_id):
            return cls(load(model_id, model=network))
        path = hf_hub_download(
            model_id, MODEL_FILE, revision=revision, cache_dir=cache_dir, force_download=force_download,
            local_files_only=local_files_only, token=token,
        )  # fmt: skip
        return cls(load(path, model=network))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card: counts beside those of the dense network, the measured table, the plan, and the code that loads it."""
        return ModelCard(card_text(self.network, self.measured))


def push_to_hub(lean: nn.Module, repo_id: str, *, measured: object | None = None, **settings: Any) -> str:
    """Upload `lean` with its plan and a generated card; returns the URL of the commit.

    Args:
        repo_id: "user/name".
        measured: a table for the card, such as ``lc.summary(dense, lean)``.
        settings: settings of `huggingface_hub.ModelHubMixin.push_to_hub`: private, token, branch, commit_message.

    Raises:
        TieError, SettingError: as `leanconv.save`.
        FileError: the Hub refused the upload or could not be reached.
    """
    with _hub_errors(repo_id, "pushed", "log in with `hf auth login`, or check the name"):
        url: str = HubModel(lean, None if measured is None else str(measured)).push_to_hub(repo_id, **settings)
    return url


def from_pretrained(repo_id: str | os.PathLike[str], *, model: nn.Module | None = None, **settings: Any) -> nn.Module:
    """The network that `push_to_hub` uploaded, or that ``save_pretrained`` wrote to a folder; it is in eval mode.

    No code of the repository runs, and only its safetensors file is read.

    Args:
        repo_id: "user/name", or a folder.
        model: the dense network, if it is not built by name.
        settings: settings of `huggingface_hub.ModelHubMixin.from_pretrained`: revision, token, cache_dir, local_files_only.

    Raises:
        FileError: there is no such repository, or its file is damaged.
    """
    if os.path.isdir(repo_id):
        return load(repo_id, model=model)
    with _hub_errors(repo_id, "loaded", "check the name, or that you are online"):
        found: HubModel = HubModel.from_pretrained(os.fspath(repo_id), network=model, **settings)
    return found.network


@contextmanager
def _hub_errors(repo_id: str | os.PathLike[str], what: str, way_out: str) -> Iterator[None]:
    """Turn huggingface_hub's errors, which are all OSError or ValueError, into a FileError of one line."""
    try:
        yield
    except LeanconvError:
        raise
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"{repo_id} could not be {what} ({reason}); {way_out}") from error


def card_text(lean: nn.Module, measured: str | None = None) -> str:
    """The model card as Markdown, with its metadata in front.

    Args:
        lean: the network.
        measured: a measured table as text.

    >>> import leanconv as lc
    >>> print(card_text(lc.create_model("resnet20")).splitlines()[-3])
    Each shared tensor once; MACs for one image, 1 MAC = one multiply-add.
    """
    base, plan, task = get_base(lean), plan_of(lean), get_task(lean)
    methods = sorted({group.method.label() for group in plan.groups}) if plan else []
    of = f"`{base['name']}`" if base else f"a {type(lean).__name__}"
    meta = ModelCardData(
        library_name="leanconv",
        pipeline_tag="image-classification",
        tags=["leanconv", "model-compression", *sorted({group.method.name for group in plan.groups} if plan else ())],
    )
    lines = ["---", meta.to_yaml(), "---", "", f"# {of.strip('`')}, lean" if methods else f"# {of.strip('`')}", ""]
    converted = sum(len(group.sites) for group in plan.groups) if plan else 0
    lines += [f"{of}, {converted} of its convolutions replaced by {', '.join(f'`{m}`' for m in methods)}."] * bool(
        methods
    )
    lines += ["", "```python", "import leanconv as lc", ""]
    own = "" if base else ", model=MyNet()"
    lines += [f'model = lc.from_pretrained("user/name"{own})', "```", "", *_counts(lean)]
    if measured:
        lines += ["", "Measured:", "", "```text", measured, "```"]
    if task is not None:
        names = ", ".join(task.classes[:10]) + (", ..." if len(task.classes) > 10 else "")
        mean, std = ([round(v, 4) for v in values] for values in (task.mean, task.std))
        size = "x".join(map(str, task.image_size))
        lines += ["", f"Input: {task.channels} channels of {size} pixels in [0, 1], minus {mean}, over {std}."]
        lines += [f"{len(task.classes)} classes: {names}."] * bool(task.classes)
    if plan:
        lines += ["", "<details><summary>Plan</summary>", "", "| Method | Convolutions |", "| --- | --- |"]
        lines += [
            f"| `{group.method.label()}` | {', '.join(f'`{site.name}`' for site in group.sites)} |"
            for group in plan.groups
        ]
        lines += ["", "</details>"]
    return "\n".join(lines) + f"\n\nMade with leanconv {__version__}.\n"


def _counts(lean: nn.Module) -> list[str]:
    size = input_size_of(lean)
    rows = [("this network", count(lean, size))]
    try:
        dense = rebuild_base(lean)
    except (LeanconvError, RuntimeError, NotImplementedError):  # a builder that computes with real numbers
        dense = None
    if dense is not None and plan_of(dense) is None:  # a paper's own network has no dense network
        rows.insert(0, ("dense", count(dense, size)))
    lines = ["| | Parameters | MACs | Bytes |", "| --- | --: | --: | --: |"]
    for name, found in rows:
        macs = "?" if found.macs is None else f"{'over ' if found.uncounted else ''}{found.macs:,}"
        lines.append(f"| {name} | {found.params:,} | {macs} | {found.bytes:,} |")
    return [*lines, "", "Each shared tensor once; MACs for one image, 1 MAC = one multiply-add."]
