"""The deliberate faults of `mutants.py`: for each, a line of the package, its replacement, and the tests that should fail."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A text that occurs once in a file, its replacement, and the pytest arguments of the tests that should then fail."""

    area: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.area}: {self.file}: {self.old.strip()} -> {self.new.strip()}"


def area(name: str, file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    """Mutants of one file that the same tests should detect."""
    return [Mutant(name, f"leanconv/{file}", old, new, tuple(shlex.split(tests))) for old, new in changes]


CONTRACT, QUICK = "tests/ops/test_contract.py -k", "not exports and not saves and not inductor"
DIFFERS = "tests/deploy/test_export.py::test_a_file_that_differs_is_not_written"
SCORED = "tests/deploy/test_metadata.py::test_a_file_scores_as_eval_does_through_its_own_metadata"
FIT = "tests/train/test_fit.py::test_"  # a few tests of each of these files, which take long
STOPPED = "tests/train/test_resume.py::test_killed_politely_then_stopped"
STEPS = f"{FIT}one_step_by_hand {FIT}no_decay_on_norms_and_biases {FIT}each_epoch_counts_its_own_steps {STOPPED}"
FEED = f"{FIT}the_validation_part_follows_the_seed_of_the_run {FIT}each_epoch_has_its_own_order {STOPPED}"
SAFE = (
    "tests/train/test_failures.py::test_weights_that_are_not_finite_after_the_last_step_end_the_run "
    "tests/train/test_checkpoint.py::test_other_images_are_seen_by_the_number_of_steps"
)

# fmt: off
MUTANTS: list[Mutant] = [
    # operators: outputs, counts and fits
    *area(
        "operators", "ops/tied_block.py", f"tests/ops/test_tied_block.py {CONTRACT} 'tied_block and {QUICK}'",
        ("x = x.reshape(n * b, i, h, w)", "x = x.reshape(b, n, i, h, w).transpose(0, 1).reshape(n * b, i, h, w)"),
        ("s.fan_in * s.out_channels // b**2 + s.out_channels", "s.fan_in * s.out_channels // b + s.out_channels"),
        ("blocks.diagonal(dim1=1, dim2=3).mean(-1)", "blocks.diagonal(dim1=1, dim2=3).sum(-1)"),
        ("conv.bias.unflatten(0, (g, b, -1)).mean(1)", "conv.bias.unflatten(0, (g, b, -1)).sum(1)"),
        ("torch.einsum(\"bc,goikl->gbocikl\", eye, rows)", "torch.einsum(\"bc,goikl->gbocikl\", 1 - eye, rows)"),
    ),
    *area(
        "operators", "ops/grouped.py", "tests/ops/test_grouped.py",
        ("return self.conv2d(x, self.weight, self.bias, self.groups * self.own_groups)",
         "return self.conv2d(x, self.weight, self.bias, self.own_groups)"),
        (".movedim(-1, 1).flatten(0, 2))", ".movedim(-1, 2).flatten(0, 2))"),
    ),
    *area(
        "operators", "ops/split_fit.py", f"tests/ops/test_split.py {CONTRACT} 'split and not lego and {QUICK}'",
        ("weight = conv.weight * (2 if gated else 1)", "weight = conv.weight"),
        ("norm.weight.fill_((1 + norm.eps) ** 0.5)", "norm.weight.fill_(1)"),
        ("norm.bias.copy_(conv.bias if gated or len(norms) == 1 else conv.bias / 2)", "norm.bias.copy_(conv.bias)"),
        ("rows = [i for i in range(kh) if 0 <= i * dh - top < sh]", "rows = [i for i in range(kh) if i * dh == top]"),
    ),
    *area(
        "operators", "ops/split.py", f"tests/ops/test_split.py {CONTRACT} 'split and not lego and {QUICK}'",
        ("o * (taps * used // groups + point + rest)", "o * (taps * used // groups + point)"),
        ("return gated_sum(u3, u1) if self.fusion else u3 + u1", "return u3 + u1"),
    ),
    *area(
        "operators", "ops/shared_basis.py", f"tests/ops/test_shared_basis.py {CONTRACT} 'shared_basis and {QUICK}'",
        ("index=position % self.bases,", "index=0,"),
        ("return scale, norm.bias - norm.running_mean * scale", "return scale, norm.bias + norm.running_mean * scale"),
        ("layer.norm.weight.fill_((1 + layer.norm.eps) ** 0.5)", "layer.norm.weight.fill_(2)"),
        ("return self.bases * self.shared * specs[0].fan_in + own", "return self.shared * specs[0].fan_in + own"),
        ("factor = self.growth ** (_stage(members[0]) - first)", "factor = self.growth ** _stage(members[0])"),
    ),
    *area(
        "operators", "ops/depth_shared.py", "tests/ops/test_depth_shared.py",
        ("bias = torch.stack([with_bias(conv)[..., -1] for conv in convs]).mean(0)", "bias = with_bias(convs[0])[..., -1]"),
        ("last_use = {site.stage: index for index, site in enumerate(sites)}", "last_use = {0: len(sites) - 1}"),
    ),
    *area(
        "operators", "ops/soft_shared.py", "tests/ops/test_soft_shared.py",
        ("coefficients = stacked @ templates.T", "coefficients = stacked @ templates.T * 0.5"),
        ("return self.templates * first.out_channels * first.fan_in + own", "return first.out_channels * first.fan_in + own"),
    ),
    *area("operators", "ops/padded_depth_shared.py", "tests/models/test_shard.py",
        ("return self.bank.weight[:, : self.in_channels]", "return self.bank.weight[:, -self.in_channels :]")),
    *area("operators", "ops/ghost.py", "tests/ops/test_ghost.py",
        ("primary = -(-out_channels // expansion)", "primary = out_channels // expansion")),
    *area(
        "counts", "core/count.py", "tests/core/test_count.py",
        ("return list({memory_of(tensor): tensor for tensor in tensors}.values())", "return list(tensors)"),
        ("bytes=sum(t.numel() * t.element_size() for t in unique([*parameters, *buffers])),",
         "bytes=sum(t.numel() * 4 for t in unique([*parameters, *buffers])),"),
    ),
    *area(
        "counts", "core/spec.py", "tests/core/test_spec.py",
        ("return (tw // 2, tw - tw // 2, th // 2, th - th // 2)", "return (tw - tw // 2, tw // 2, th - th // 2, th // 2)"),
        ("return self.out_channels * self.fan_in + self.out_channels * self.bias", "return self.out_channels * self.fan_in"),
        ("return top + bottom == dh * (kh - 1) and left + right == dw * (kw - 1)", "return top + bottom == dh * (kh - 1)"),
    ),
    *area(
        "counts", "core/penalty.py", "tests/core/test_penalty.py",
        ("(gram - torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).square().sum()", "gram.square().sum()"),
    ),
    # plans and conversion
    *area(
        "plan", "conversion/plan.py", "tests/conversion/test_plan.py",
        ("kept.append(Skipped(site, \"excluded\"))", "chosen[rule or 0].append(site)"),
        ("for group in self.groups) + sum(kept.site.params() for kept in self.kept)", "for group in self.groups)"),
        ("kept.sort(key=lambda item: order[item.site.name])", "kept.sort(key=lambda item: -order[item.site.name])"),
    ),
    *area(
        "plan", "core/method.py", "tests/core/test_registry.py",
        ("kind.__module__ == other.__module__ and kind", "kind"),
        ("if name == DENSE or not name.isidentifier():", "if not name.isidentifier():"),
    ),
    *area(
        "plan", "core/registry.py", "tests/core/test_registry.py",
        ("if _top(found) != _top(module) and \"__main__\" not in (found, module):", "if _top(found) != _top(module):"),
        ("if known is None or class_path(known) != class_path(kind):", "if False:"),
    ),
    *area(
        "plan", "conversion/check.py", "tests/conversion/test_convert.py tests/core/test_sharing.py",
        ("        if found != planned:", "        if found < planned:"),
    ),
    *area("plan", "core/sharing.py", "tests/core/test_sharing.py", ("del users[0].__dict__[name]", "pass")),
    # files
    *area(
        "load", "files/load.py", "tests/files/test_save_load.py tests/files/test_fuzz.py",
        ("if n in tensors and wanted[n].shape != tensors[n].shape]", "if False]"),
        ("sorted(tensors.keys() - wanted.keys())", "sorted(set())"),
        ("sorted(wanted.keys() - tensors.keys()), ", "sorted(set()), "),
        ("refused = FORBIDDEN & set(base[\"kwargs\"])", "refused = set()"),
        ("return in_eval(lean)", "return lean.train()"),
    ),
    *area("load", "files/save.py", "tests/files/test_changed.py", ("        info[\"base\"] = None\n", "")),
    # training: steps, schedules, averages
    *area(
        "fit", "train/base.py", STEPS,
        ("seed_all(mix(self.config.seed, self.trainer.global_step, self.trainer.global_rank), self.device)", "pass"),
        ("self.sums = torch.zeros_like(self.sums)", "pass"),
    ),
    *area(
        "fit", "train/base.py", "tests/train/test_fit.py -k penalty",
        ("total = extra = penalty(self.model)", "total = extra = penalty(self.model).detach()"),
    ),
    *area(
        "fit", "train/base.py", "tests/train/test_steps.py",
        ("loss = loss * (size / sum(sizes))", "loss = loss / len(sizes)"),
        ("            self.trainer.optimizers[0].zero_grad()", "            pass"),
        ("if self.config.clip is not None:", "if False:"),
    ),
    *area(
        "fit", "train/module.py", "tests/train/test_steps.py",
        ("labels.argmax(dim=1)\n", "labels.argmin(dim=1)\n"),
    ),
    *area(
        "fit", "train/optimizers.py", "tests/train/test_optimizers.py",
        ("if config.no_decay_norm and own.ndim < 2}", "if own.ndim < 2}"),
        ("values.setdefault(parameter, value)", "values[parameter] = value"),
        ("key=weight.stride, reverse=True", "key=weight.stride"),
        ("permuted.copy_(matrix.view(permuted.shape))", "pass"),
        ("chain(*layers[:1], *layers[-1:])", "chain(*layers[:1])"),
    ),
    *area(
        "fit", "train/freeze.py", "tests/train/test_optimizers.py -k froze",
        ("            norm.training = False", "            pass"),
        ("            parameter.requires_grad_(True)", "            pass"),
    ),
    *area(
        "fit", "train/module.py", "tests/train/test_fit.py",
        ("label_smoothing=self.config.label_smoothing)", "label_smoothing=0.0)"),
    ),
    *area(
        "fit", "train/schedules.py", "tests/train/test_schedules.py",
        ("return config.lr * (step + 1) / warm", "return config.lr * step / warm"),
        ("peak = config.pct_start * total - 1", "peak = config.pct_start * total"),
        ("passed = sum(step >= epoch * steps_per_epoch for", "passed = sum(step > epoch * steps_per_epoch for"),
    ),
    *area(
        "fit", "train/scoring.py", "tests/train/test_evaluation.py",
        ("logits.topk(min(5, logits.shape[1]), dim=1)", "logits.topk(min(4, logits.shape[1]), dim=1)"),
        (".logsumexp(dim=1) - math.log(crops)", ".mean(dim=1)"),
    ),
    *area(
        "fit", "train/caller.py", "tests/train/test_caller.py",
        ("        torch.set_rng_state(own)\n", ""),
        ("        np.random.set_state(numpy)\n", ""),
    ),
    # resuming
    *area(
        "resume", "train/feed.py", FEED,
        ("self.loader.set_epoch(epoch, done)", "self.loader.set_epoch(epoch)"),
        ("self.loader.set_epoch(epoch, done)", "self.loader.set_epoch(0, done)"),
    ),
    *area(
        "resume", "train/prepared.py", FEED,
        ("return data.split(config.validation, config.seed) if config.validation",
         "return data.split(config.validation) if config.validation"),
    ),
    *area(
        "resume", "train/checkpoint.py", "tests/train/test_checkpoint.py",
        ("        _verify(checkpoint, sums, path)", "        pass"),
        ("yield f\"tensor {value.dtype} {tuple(value.shape)};\".encode()", "yield b\"tensor\""),
        ("            damaged = file.testzip()", "            damaged = None"),
    ),
    *area(
        "resume", "train/resume.py", "tests/train/test_checkpoint.py",
        ("_need(bool(state) or not needed,", "_need(True,"),
        ("_need(_same_kind(buffer, wanted),", "_need(True,"),
        ("return isinstance(found, Tensor) and (found.shape, found.dtype, found.layout) == (own.shape, own.dtype, own.layout)",
         "return isinstance(found, Tensor) and found.shape == own.shape"),
        ("_need(_finite(buffer),", "_need(True,"),
        ("_need(type(there) is type(value) and there == value,", "_need(type(there) is type(value),"),
    ),
    *area(
        "resume", "train/best.py", "tests/train/test_best.py",
        ("if not ends_epoch(checkpoint) or best_epoch(history) != len(history):", "if not ends_epoch(checkpoint):"),
    ),
    *area(
        "resume", "train/callbacks.py", SAFE,
        ("        self._check_weights(trainer, module)\n        if trainer", "        if trainer"),
        ("if before is not None and before != here:", "if False:"),
    ),
    # data
    *area(
        "data", "data/split.py", "tests/data/test_data_split.py",
        ("draw = generator(seed)", "draw = generator(0)"),
        ("min(max(round(fraction * len(rows)), 1), len(rows) - 1)", "max(round(fraction * len(rows)), 1)"),
    ),
    *area(
        "data", "data/sampling.py", "tests/data/test_data_loader.py",
        ("generator=generator(self.seed, epoch))[steps % self.count]", "generator=generator(self.seed))[steps % self.count]"),
        ("        if not self.shuffle:\n            return self.count\n", ""),
    ),
    *area(
        "data", "data/sampling.py", "tests/train/test_elastic.py -k same_images",
        ("        if self.drop_last:  #", "        if False:  #"),
    ),
    *area(
        "data", "data/transforms.py", "tests/train/test_elastic.py -k augmented",
        ("left = torch.randint(2 * wide + 1, (count,), generator=draw)[rank::processes]",
         "left = torch.randint(2 * wide + 1, (count,), generator=draw)[:len(images)]"),
    ),
    *area(
        "data", "data/loader.py", "tests/data/test_data_shards.py -k continues",
        ("[first * self.sampling.batch_size :]", "[first:]"),
    ),
    *area(
        "data", "data/tar_index.py", "tests/data/test_data_shards.py",
        ('if b" path=" not in extra and b" size=" not in extra and b"GNU.sparse" not in extra:', "if True:"),
        ("        if position > end:", "        if False:"),
        ("        if header == bytes(BLOCK):", "        if not header.strip(bytes(1)):"),
    ),
    *area(
        "train", "train/recompute.py", "tests/train/test_recompute.py",
        ("_buffers_kept(module))  #", "contextlib.nullcontext())  #"),
        ("(*part.parameters(recurse=False), *borrowed(part))", "part.parameters(recurse=False)"),
    ),
    *area(
        "train", "train/fsdp.py", "tests/train/test_fsdp.py",
        ("                joined |= places", "                pass"),
    ),
    *area(
        "experiment", "experiment/where.py", "tests/experiment/test_where.py -k submitit",
        ("if (killed or _was_ended(started)) and tries[name] < self.retries:", "if False:"),
    ),
    *area(
        "data", "data/transforms.py", "tests/data/test_data_loader.py",
        ("return torch.where(mirror[:, None, None, None], cut.flip(3), cut)",
         "return torch.where(mirror[:, None, None, None], cut.flip(2), cut)"),
    ),
    *area(
        "data", "data/stats.py", "tests/data/test_data_stats.py",
        ("clamp(min=1 / 255)", "clamp(min=0)"),
    ),
    # average precision and occlusion
    *area(
        "detection", "detect/scoring.py", "tests/detect/test_scoring.py",
        ("\"iscrowd\": int(instance.crowd),", "\"iscrowd\": 0,"),
        ("None if v < 0 else 100 * float(v)", "100 * float(v)"),
        ("if high is None else (ratios >= low) & (ratios < high)", "if high is None else (ratios > low) & (ratios < high)"),
        ("keep = np.isin(self.ids, chosen)", "keep = np.isin(self.ids, self.ids)"),
        ("(result[\"masks\"][place, 0] > 0.5)", "(result[\"masks\"][place, 0] > 0.9)"),
    ),
    *area(
        "detection", "detect/occluded.py", "tests/detect/test_occluded.py",
        ("return float(count[count >= 2].sum() / total)", "return float((count >= 2).sum() / total)"),
        ("return float(areas[count >= 2].sum() / areas.sum())", "return float(areas[count >= 1].sum() / areas.sum())"),
    ),
    # verdicts on measurements
    *area(
        "verdict", "report/verdict.py", "tests/report/test_verdict.py",
        ("differences = [ours[seed] - theirs[seed] for seed in both]",
         "differences = [a - b for a, b in zip(sorted(ours.values()), sorted(theirs.values()))]"),
        ("if low > 0 or high < 0:", "if difference:"),
        ("half = student_t(CONFIDENCE, max(1, int(degrees))) * math.sqrt(total)", "half = math.sqrt(total)"),
        ("interval[0] == interval[1] and len(differences) < SIGNS", "False"),
    ),
    *area(
        "verdict", "core/shown.py", "tests/core/test_shown.py",
        ("            text.set_parse_math(False)\n", ""),
        ("return MARKS.sub(", "return re.compile(\"x^\").sub("),
    ),
    *area(
        "processes", "core/processes.py", "tests/core/test_processes.py",
        ("return found if world > 1 else None", "return found"),
        ("return rank() == 0", "return True"),
    ),
    # exports: slow to test, so few
    *area("export", "deploy/answers.py", DIFFERS, ("TOLERANCE = 1e-4", "TOLERANCE = 1e4")),
    *area("export", "deploy/export.py", SCORED, ("    set_task(shaped, task)", "    pass")),
    *area("export", "deploy/answers.py", "tests/deploy/test_sizes.py", ("*beyond(guard, channels, (height, width))", "")),
    *area(
        "export", "deploy/formats.py", SCORED,
        ("    made.model.metadata_props.update(task_text(model))\n", ""),
        ("found = {} if task is None else {TASK: task.to_json()}", "found = {}"),
    ),
    # inference forms
    *area(
        "inference", "core/affine.py", "tests/inference/test_forms.py",
        ("self.shift * other.scale + other.shift", "self.shift + other.shift"),
        ("self.shift if bias is None else bias * self.scale + self.shift", "self.shift if bias is None else bias + self.shift"),
        ("shift = -norm.running_mean * scale", "shift = norm.running_mean * scale"),
    ),
    *area(
        "inference", "ops/forms/split.py", "tests/inference/test_forms.py",
        ("(-a.mean((2, 3), keepdim=True)).sigmoid()", "a.mean((2, 3), keepdim=True).sigmoid()"),
        ("return b if self.behind is None else self.behind(b)", "return b"),
    ),
    *area(
        "operators", "ops/gated_sum.py", "tests/ops/test_contract_autograd.py -k split",
        ("gate * (1 - gate) * mean", "gate * (1 + gate) * mean"),
        ("gate * (1 - gate) * _means", "gate * (1 + gate) * _means"),
    ),
    *area(
        "operators", "ops/normed_sum.py", "tests/ops/test_normed_sum.py",
        ("through = ga * gb * slope / pixels", "through = ga * gb * slope"),
        ("(norm.means - norm.mean)).sum(0)", "norm.means).sum(0)"),
        ("(var * (count / (count - 1)))", "(var)"),
        ("and not (norm._forward_hooks or", "and not ("),
    ),
    *area(
        "operators", "ops/het.py", "tests/ops/test_het.py",
        ("own = point.new_zeros(", "own = point.new_ones("),
        ("return self._reordered(y, (self.groups, self.part, -1)) + cheap", "return y + cheap"),
    ),
    *area(
        "operators", "ops/lego.py", "tests/ops/test_lego.py",
        ("torch.cat([self.weight] * self.splits)", "torch.cat([self.weight.flip(0)] * self.splits)"),
    ),
    # use of trained networks
    *area(
        "data", "data/classes.py", "tests/data/test_data_classes.py tests/train/test_evaluation.py",
        ("return tuple(where[name] for name in found)", "return tuple(range(len(found)))"),
    ),
    *area(
        "counts", "core/counted_ops.py", "tests/core/test_count.py",
        ("return steps * (args[1].numel() + args[2].numel())", "return steps * args[1].numel()"),
    ),
    # settings that are declared once, and runs from Python
    *area(
        "settings", "core/config.py", "tests/core/test_config.py",
        ("number <= self.above)", "number < self.above)"),
        ("(kind is int and not number.is_integer())", "False"),
    ),
    *area(
        "settings", "experiment/settings.py", "tests/cli/test_config_file.py -k repeat",
        ("        found |= request", "        found = request"),
    ),
    *area(
        "data", "data/own.py", "tests/data/test_data_own.py",
        ("return None if whole is None else whole[torch.as_tensor(dataset.indices)]", "return whole"),
        ("if isinstance(part, TensorImages):", "if False:"),
    ),
    *area(
        "experiment", "experiment/series.py", "tests/experiment/test_compare.py -k once",
        ("first = None if known else built.pop(job.label, None)", "first = None"),
    ),
    *area(
        "experiment", "experiment/job.py",
        "tests/experiment/test_compare.py tests/cli/test_config_file.py -k 'anew or repeat or seeds'",
        ("kept = [stem(network)] if self.keep_stem and self.method is not None else []", "kept = []"),
        ("if self.in_place and isinstance(self.network, nn.Module)", "if isinstance(self.network, nn.Module)"),
    ),
    *area(
        "search", "budget/networks.py", "tests/budget/test_flow.py -k control_gets",
        ("return copied(part) if any(", "return part if any("),
    ),
    *area(
        "search", "core/functions.py", "tests/core/test_functions.py",
        ("[value.co_code, value.co_names, value.co_consts]", "[value.co_code, value.co_consts]"),
    ),
]
# fmt: on
