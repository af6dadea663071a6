"""Networks that run, but not without weights: they are run with them, and nothing of them changes."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.core.meta import SMALL, built_on_meta, dry_run, on_meta

CONV = 3 * 4 * 9  # MACs a position


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x))


class PlainTensor(Net):
    def __init__(self):
        super().__init__()
        self.mean = torch.full((1, 3, 1, 1), 0.5)

    def forward(self, x):
        return super().forward(x - self.mean)


class MadeInForward(Net):
    def forward(self, x):
        return super().forward(x * torch.arange(x.shape[-1]))


class ToDevice(Net):
    def forward(self, x):
        return super().forward(x.to("cpu"))


class LooksAtValues(Net):
    def forward(self, x):
        return super().forward(x / 255 if x.max() > 100 else x)


class ThroughNumpy(Net):
    def forward(self, x):
        return super().forward(torch.from_numpy(x.numpy()))


class PairsOnly(Net):
    def forward(self, x):
        return super().forward(x.view(2, -1, *x.shape[1:]).flatten(0, 1))


class Scripted(Net):
    def __init__(self):
        super().__init__()
        self.conv = torch.jit.script(self.conv)


AWKWARD = [PlainTensor, MadeInForward, ToDevice, LooksAtValues, ThroughNumpy, PairsOnly]


@pytest.mark.parametrize("kind", [*AWKWARD, Scripted])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_network_that_does_not_run_on_meta_is_counted(kind):
    assert lc.count(kind(), (3, 6, 5)).macs == CONV * 30


@pytest.mark.parametrize("kind", AWKWARD)
def test_a_network_that_does_not_run_on_meta_is_planned_with_sizes(kind):
    (site,) = lc.plan(kind(), [("*", None)], input_size=(3, 6, 5)).sites()
    assert site.sizes == ((6, 5),)


def test_a_stored_feature_map_and_a_computed_weight_do_not_stop_a_count():
    class Keeps(Net):
        def forward(self, x):
            self.seen = super().forward(x)
            return self.seen

    model = Keeps()
    model(torch.randn(1, 3, 6, 5))
    torch.nn.utils.spectral_norm(model.conv)
    assert lc.count(model, (3, 6, 5)).macs == CONV * 30
    assert not model.seen.is_meta


def test_a_run_leaves_weights_statistics_flags_and_generators_alone():
    class Restless(LooksAtValues):
        def forward(self, x):
            self.norm.running_mean.add_(1)
            self.conv.weight.mul_(2)
            self.calls = random.random() + np.random.rand()
            return super().forward(x + torch.rand_like(x))

    model = Restless().train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def draws():
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        yield
        yield torch.rand(1).item(), random.random(), np.random.rand()

    plain, around = draws(), draws()
    next(plain)
    wanted = next(plain)
    next(around)
    lc.count(model, (3, 6, 5))
    assert next(around) == wanted
    assert model.training and not model.norm.training and not hasattr(model, "calls")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_forward_of_more_than_an_image_is_one_clear_error():
    class Two(Net):
        def forward(self, x, mask):
            return super().forward(x) * mask

    with pytest.raises(SettingError, match="its forward must take one batch of images") as error:
        lc.count(Two(), (3, 6, 5))
    assert "mask" in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_copied_is_named():
    model = nn.Sequential(Net())
    model[0].guard = threading.Lock()
    for act in (lambda: lc.count(model, (3, 6, 5)), lambda: lc.convert(model, lc.TiedBlock(1))):
        with pytest.raises(SettingError, match=r"its attribute '0.guard' is a lock"):
            act()


@pytest.mark.parametrize("act", [lc.count, on_meta, lambda m: lc.plan(m, lc.TiedBlock()), lambda m: lc.save(m, "x")])
def test_lazy_layers_are_named(act):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(SettingError, match="'2' is lazy and has no shape yet; run the model once"):
        act(model)


def test_a_meta_model_that_needs_values_runs_with_zeros():
    with torch.device("meta"):
        model = LooksAtValues()
    assert lc.count(model, (3, 6, 5)).macs == CONV * 30
    assert model.conv.weight.is_meta


def test_the_run_sees_one_image_first():
    assert dry_run(Net(), (3, 6, 5), lambda twin, images: tuple(images.shape)) == (1, 3, 6, 5)


def test_a_builder_that_computes_with_real_numbers_builds_without_memory():
    class Computes(nn.Module):
        def __init__(self):
            super().__init__()
            width = int(torch.linspace(4, 8, 3)[1].item())  # as RegNet does
            self.conv = nn.Conv2d(3, width, 3)
            self.head = nn.Linear(width, 10**9 // width)  # 4 GB, if it were real
            self.same = self.head

    made: list[Tensor] = []
    with pytest.raises(RuntimeError, match="meta"), torch.device("meta"):
        Computes()
    model = built_on_meta(Computes)
    made += model.parameters()
    assert {p.device.type for p in made} == {"meta"} and model.conv.out_channels == 6
    assert model.same is model.head and sum(p.numel() for p in made) > SMALL


@pytest.mark.parametrize("name", ["regnet_y_400mf", "regnet_x_400mf"])
def test_a_regnet_counts_converts_saves_and_loads(name, tmp_path):
    model = lc.create_model(f"torchvision/{name}")
    lean = lc.convert(model, lc.TiedBlock(2), where="trunk_output.block4.*", exclude="*.se.*") if "y" in name else model
    lc.save(lean, tmp_path)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(lc.load(tmp_path)(x), lean.eval()(x))
