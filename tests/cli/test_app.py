"""What holds for every verb: help, exit codes, one line an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

import leanconv as lc
from leanconv.cli import app
from leanconv.cli.app import VERBS
from leanconv.cli.detect.flags import UNUSED
from leanconv.cli.output import show_json
from leanconv.cli.train_flags import resolved
from leanconv.core.config import Config
from leanconv.core.errors import RunError
from leanconv.data import open_data
from leanconv.detect import DetectConfig
from leanconv.experiment.settings import settings_for
from leanconv.train import TrainConfig
from leanconv.train.config import DISTILL

from .conftest import one_line

HELP = "import sys; from leanconv.cli import main\ntry: main(['--help'])\nfinally: print([m for m in {} if m in sys.modules])"


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_an_example(call: Callable, verb: str) -> None:
    answer = call(verb, "--help")
    assert answer.code == 0
    assert f"Example: leanconv {verb}" in " ".join(answer.out.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_says_what_it_does(verb: str) -> None:
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert [parameter.name for parameter in command.params if not parameter.help] == []


def test_version(call: Callable) -> None:
    import leanconv

    assert call("--version").out.strip() == leanconv.__version__


@pytest.mark.parametrize(
    ("verb", "config", "left_out"),
    [("train", TrainConfig, ()), ("compare", TrainConfig, DISTILL), ("detect train", DetectConfig, UNUSED)],
)
def test_every_setting_is_a_flag_with_its_help_and_its_default(
    verb: str, config: type[Config], left_out: tuple[str, ...]
) -> None:
    command = get_command(app)
    for name in verb.split():
        command = command.commands[name]  # type: ignore[attr-defined]
    flags = {parameter.name: parameter for parameter in command.params}
    declared = config.settings()
    assert {name for name in declared if name not in flags} == {*left_out}
    for name, setting in declared.items():
        if name in left_out:
            continue
        assert setting.help and flags[name].help.startswith(setting.help)
        assert flags[name].default is None, "a recipe decides"
        assert (
            not isinstance(setting.default, int | float)
            or setting.kind is bool
            or f"[{resolved(name) if config is TrainConfig else setting.default}]" in flags[name].help
        )


def test_no_verb_declares_a_flag_twice() -> None:
    """Of two options with one name, only the last would get a value."""

    def verbs(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        yield name, command
        for inner, found in getattr(command, "commands", {}).items():
            yield from verbs(found, f"{name} {inner}")

    for name, command in verbs(get_command(app), "leanconv"):
        spelled = [word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)]
        twice = {word for word in spelled if spelled.count(word) > 1}
        assert not twice, f"{name} declares {twice} twice"


def test_the_help_shows_what_a_run_uses() -> None:
    """The values of the recipe that a run without flags takes, for digits and for other data."""
    flags = {parameter.name: parameter.help for parameter in get_command(app).commands["train"].params}  # type: ignore[attr-defined]
    digits = settings_for(None, open_data("digits"), {})
    assert f"[{digits.lr} for digits, 0.3 for images of up to 64 pixels, else 0.025]" in flags["lr"]
    assert f"[{digits.epochs} for digits, else 30]" in flags["epochs"]
    assert digits.precision == "bf16" and flags["precision"].endswith("[bf16 for digits, else auto]")


@pytest.mark.parametrize(
    ("size", "given", "lr"),
    [((32, 32), {}, 0.3), (None, {}, 0.025), ((224, 224), {}, 0.025), (None, {"image_size": 32}, 0.3)],
)
def test_the_size_of_the_images_decides_on_the_recipe(size: Any, given: dict[str, int], lr: float) -> None:
    """The size is that of the run: photos that are scaled to 32 pixels are small images."""
    data = SimpleNamespace(name="mine", image_size=size, prepared=False)
    assert settings_for(None, data, given).lr == lr  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inspect", "resnet21"), ("unknown network 'resnet21'", "resnet20")),
        (("inspect", "resnet8", "--method", "tied_blok"), ("did you mean 'tied_block'",)),
        (("inspect", "resnet8", "--method", "split", "--where", "nothing*"), ("matches none",)),
        (("inspect", "resnet8", "--input-size", "3,32"), ("--input-size '3,32' must be",)),
        (("inspect", "resnet8", "--input-size", "5,32,32"), ("does not run on an input",)),
        (("convert", "resnet8", "-m", "tied_block(blocks=5)", "-o", "x"), ("converts none",)),
        (("train", "resnet8", "--out", "x", "--data", "nowhere"), ("nowhere", "no such folder")),
        (("train", "resnet8", "--out", "x", "--epochs", "0"), ("epochs=0",)),
        (("train", "resnet8", "--out", "x", "--logger", "tensorbord"), ("'tensorbord' does not exist", "csv")),
        (("train", "resnet8", "--out", "x", "--recipe", "best"), ("'best' does not exist", "quick_digits")),
        (("train", "resnet8", "--out", "x", "--milestones", "a,b"), ("must be numbers",)),
        (("train", "resnet8", "--out", "x", "-m", "tied_block(blocks=5)"), ("converts none",)),
        (("train", "resnet21", "--out", "x"), ("unknown network",)),
        (("eval", "nowhere"), ("nowhere",)),
        (("eval", "resnet8"), ("resnet8 has random weights; give --weights or the folder",)),
        (("predict", "resnet8", "photos"), ("resnet8 has random weights; give the folder",)),
        (("lean", "resnet8", "--budget", "macs=0.5", "-o", "x"), ("give --weights, --pretrained or the folder",)),
        (("inspect", "runs/nix"), ("no folder runs/nix, and no network of this name",)),
        (("inspect", __file__), ("is a file; give its folder",)),
        (("inspect", "resnet8", "--batch", "4"), ("without --latency does not use --batch",)),
        (("bench", "resnet8", "--device", "tpu"), ("device='tpu' cannot be timed; use 'cpu' or 'cuda'",)),
        (("export", "resnet8", "--to", "state-dict,foo", "-o", "x"), ("--to 'foo' must be one of",)),
        (("train", "resnet8", "-o", __file__), ("cannot be a folder: a file has this name",)),
        (("compare", "resnet8", "--methods", "dense,dense"), ("given twice",)),
        (("compare", "resnet8", "--methods", "dense", "--data", "cifar10", "--data-root", "no"), ("--download",)),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_bad_input_is_one_line_and_2(
    call: Callable, arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = call(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert one_line(answer, *words), answer.err
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_line_with_the_flags(call: Callable, tmp_path: Path) -> None:
    lc.save(lc.create_model("resnet8", num_classes=10, in_chans=1), tmp_path)
    answer = call("eval", tmp_path, "--image-size", 9999999)
    assert answer.code == 2 and one_line(answer, "memory", "--image-size", "--batch-size")


def test_usage_errors_are_2(call: Callable) -> None:
    assert call("inspect").code == 2
    assert call("compare", "resnet8").code == 2
    assert call("inspect", "resnet8", "--bogus").code == 2
    assert call("train", "resnet8", "--out", "x", "--schedule", "linear").code == 2


def test_debug_shows_the_traceback() -> None:
    from leanconv.cli import main
    from leanconv.core.errors import SettingError

    with pytest.raises(SettingError):
        main(["inspect", "resnet21", "--debug"])


def test_a_folder_that_cannot_be_written_is_one_line(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = call("convert", "resnet8", "-m", "split", "-o", tmp_path / "file" / "out")
    assert answer.code == 2
    assert one_line(answer, "choose another place")


def test_a_network_is_not_written_over_a_run_or_over_a_file_of_others(call: Callable, tmp_path: Path) -> None:
    convert = ("convert", "resnet8", "-m", "tied_block(blocks=2)", "-o")
    for name in ("run.json", "model.safetensors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        answer = call(*convert, tmp_path / name)
        assert answer.code == 2 and one_line(answer, "choose another folder"), answer.err
        assert (tmp_path / name / name).read_text() == "mine" and len(list((tmp_path / name).iterdir())) == 1
    for _ in range(2):  # its own file may be written again
        assert call(*convert, tmp_path / "net").code == 0


def test_help_waits_for_nothing() -> None:
    heavy = ["torch", "lightning", "matplotlib", "timm", "pydantic", "sklearn"]
    done = subprocess.run([sys.executable, "-c", HELP.format(heavy)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    script = "from leanconv.cli import main; import time; time.sleep(0.5); main(['--help'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 1


def test_numbers_that_json_does_not_have_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"^rows\.1\.loss of the result is nan, which JSON does not have"):
        show_json({"rows": [{"loss": 1.0}, {"loss": float("nan")}]})
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes streams")
@pytest.mark.parametrize(("closed", "verb", "code"), [(">&-", "models resnet8", 0), (">&- 2>&-", "inspect nothing", 2)])
def test_closed_streams_are_no_traceback(closed: str, verb: str, code: int) -> None:
    done = subprocess.run(f'"{sys.executable}" -m leanconv {verb} {closed}', shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


def test_python_dash_m() -> None:
    import leanconv

    done = subprocess.run([sys.executable, "-m", "leanconv", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == leanconv.__version__


@pytest.mark.parametrize(
    ("words", "found"), [("leanconv tr", "train"), ("leanconv train resnet20 --sched", "--schedule")]
)
def test_a_shell_completes_verbs_and_flags(words: str, found: str) -> None:
    asked = {"_LEANCONV_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "leanconv"], capture_output=True, text=True, check=True, env=os.environ | asked
    )
    assert found in done.stdout.split()


def test_the_completion_script_is_shown(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # tests may run without a shell
    answer = call("--show-completion", "bash")
    assert answer.code == 0 and "_LEANCONV_COMPLETE=complete_bash" in answer.out
