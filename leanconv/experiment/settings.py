"""The settings of a run: a recipe, a file or a `TrainConfig`, and single settings that replace some of them."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeGuard

from leanconv.core.config import check_known
from leanconv.core.errors import FileError, SettingError
from leanconv.core.machine import precision_of
from leanconv.core.reading import one_line, parse_yaml
from leanconv.data import ImageData
from leanconv.train.config import RunConfig, TrainConfig
from leanconv.train.folder import CLASSES, REQUEST, TEACHER
from leanconv.train.recipes import RECIPES, default_recipe

RECIPE = "recipe"  # the key of a configuration file that names the recipe whose settings the others replace
# What else a run's file notes: its network and images, for the command line; in Python, arguments say these
REQUESTED = (
    "target", "method", "where", "exclude", "include", "align", "init", "pretrained", "teacher", "weights", "state", "classes",
    "mean", "std", "like", "image_size", "data", "data_root", "on_bad", "max_pixels", "test_split", "device",
)  # fmt: skip


def settings_for(
    config: TrainConfig | str | Path | None, data: ImageData, given: Mapping[str, Any], device: str = "auto"
) -> TrainConfig:
    """The settings of a run on `data`. If a data set prepares its own images, the run does not change these images.

    Args:
        config: settings, the name of a recipe, or a configuration file, whose `recipe` the settings there replace; None
            takes the recipe that suits the data.
        data: the images.
        given: single settings, which replace those of `config`.
        device: where the run trains; it decides what ``precision="auto"`` means.

    Raises:
        SettingError: the recipe, a setting or a key of the file does not exist, or a value breaks its rule.
        FileError: the file cannot be read.
    """
    chosen = _chosen(config, data, given)
    chosen = chosen.replace(precision=precision_of(chosen.precision, device))
    if data.prepared:
        chosen = chosen.replace(augment="none", auto_augment="none", erase=0.0, image_size=None, ten_crop=False)
    return chosen


def _chosen(config: TrainConfig | str | Path | None, data: ImageData, given: Mapping[str, Any]) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config.replace(**given)
    check_config(config, TrainConfig)
    if is_file(config):
        recipe, found = settings_in(config)
        return _chosen(recipe, data, {**found, **given})
    side = given.get("image_size")
    name = str(config) if config else default_recipe(data.name, (side, side) if side else data.image_size)
    if name not in RECIPES:
        raise SettingError(f"--recipe (config=) {name!r} does not exist; there are {', '.join(RECIPES)}")
    return RECIPES[name]().replace(**given)


def check_config(config: object, kind: type[RunConfig]) -> None:
    """Raise SettingError unless `config` is settings of `kind`, a text, a path or None."""
    if not isinstance(config, kind | str | PathLike | None):
        raise SettingError(
            f"config={config!r} must be {kind.__name__}(...), the name of a recipe, or a file of settings; settings of a dict "
            f"{{...}} are {kind.__name__}(**{{...}})"
        )


def is_file(config: object) -> TypeGuard[str | Path]:
    """Whether `config` is a configuration file, and no name of a recipe.

    >>> is_file("runs/a/config.yaml"), is_file("cifar_fast")
    (True, False)
    """
    return isinstance(config, str | PathLike) and Path(config).suffix in (".yaml", ".yml")


def settings_in(path: str | Path, kind: type[RunConfig] = TrainConfig) -> tuple[str | None, dict[str, Any]]:
    """The name of the recipe in a configuration file, or None, and the settings of `kind` that replace those of the recipe.

    Raises:
        FileError: the file cannot be read, or is no mapping.
        SettingError: a setting breaks its rule, or a key is neither a setting nor what a run notes in its config.yaml.
    """
    settings, more = read_config(path, kind)
    check_keys(path, more, {RECIPE: None, **dict.fromkeys(REQUESTED)}, kind)
    recipe = more.get(RECIPE)
    if is_file(recipe) or not isinstance(recipe, str | None):
        raise SettingError(f"{path}: recipe={recipe!r} must be the name of a recipe; write the settings of a file here")
    return recipe, settings


def read_config(path: str | Path, kind: type[RunConfig] = TrainConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a configuration file: the settings of `kind`, and the other flags of the command.

    The file is a YAML mapping of the names of settings and flags (with _ for -) to values, or the config.yaml of a run.

    Raises:
        FileError: the file cannot be read, or is no mapping.
        SettingError: a setting breaks its rule.
    """
    path = Path(path).expanduser()
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(
            one_line(f"{path}: cannot be read as YAML ({error}); give a file of `name: value` lines")
        ) from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise FileError(f"{path}: is no mapping of names to values; give lines such as `epochs: 20`")
    request = found.pop(REQUEST, None)
    for name in (CLASSES, TEACHER):  # config.yaml of a run describes its images and its teacher there
        found.pop(name, None)
    if request is not None:
        if not isinstance(request, dict):
            raise FileError(
                f"{path}: its {REQUEST} is no mapping; give `{REQUEST}:` with lines such as `target: resnet20`"
            )
        found |= request  # the request says how the images named `data` were opened
    declared = kind.settings()
    settings = {name: value for name, value in found.items() if name in declared}
    for name, value in settings.items():
        try:
            settings[name] = declared[name].checked(value)
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from None
    return settings, {name: value for name, value in found.items() if name not in declared}


def check_keys(
    path: str | Path, given: Mapping[str, Any], known: Mapping[str, Any], kind: type[RunConfig] = TrainConfig
) -> None:
    """Raise SettingError for a key that is neither a setting of `kind` nor a key of `known`."""
    check_known(given, {**known, **kind.settings()}, f"{path}: ")
