"""Batch norm over all processes and over parts of a batch: real gloo processes against one, and memory layouts."""
import copy
import json

import pytest
import torch
import torch.nn as nn
from batchnorm_step import FINETUNING, PRETRAINING
from golden.formula import noise
from helpers import NARROW, OWN, PATIENCE, REPOSITORY, SMALL, environment, make_dataset, start, succeed

from models import build_backbone, build_pretrainer
from models.backbones import BACKBONES
from models.batchnorm import SyncBatchNorm, split_batchnorm, sync_batchnorm
from models.classifier import pooled
from models.dualvar import as_batch, shuffle_segments

CASES = [(name, n) for n in (2, 4) for name in PRETRAINING] + [(name, n) for n in FINETUNING for name in FINETUNING[n]]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """{processes: [what batchnorm_step.py found in each]}"""
    folder = tmp_path_factory.mktemp("steps")
    env = environment(folder)
    env["PYTHONPATH"] += f":{env['PYTHONPATH']}/tests"
    for n in (1, 2, 3, 4):
        succeed("tests/batchnorm_step.py", folder, 2, 3, 4, cwd=folder, env=env, processes=n)
    return {n: [torch.load(folder / f"{n}_{r}.pt", weights_only=True) for r in range(n)] for n in (1, 2, 3, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("name, processes", CASES)
def test_several_processes_give_the_step_of_one(steps, name, processes):
    """Losses, all gradients and the state after; in fine-tuning with unequal and empty batches."""
    whole = steps[1][0][name]
    for process in steps[processes]:
        found = process[name]
        assert torch.allclose(found["losses"], whole["losses"], rtol=1e-12, atol=0)
        for kind in ("gradients", "state"):
            assert found[kind].keys() == whole[kind].keys()
            for key, value in whole[kind].items():
                error = (found[kind][key] - value).double().norm()
                assert error <= 1e-12 * value.double().norm() + 1e-15, f"{kind} of {key}: {error} off"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_bf16_is_as_near_to_float64_as_rounding_allows(steps, processes):
    """Statistics are exact to float32 although a channel's mean is 50 times its deviation."""
    found = [process["bf16"] for process in steps[processes]]
    x, grad = (torch.cat(parts).double() for parts in zip(*(process["inputs"] for process in found), strict=True))
    layer = nn.BatchNorm3d(3).double()
    layer.weight.data.copy_(found[0]["weight"])
    wanted = layer(x.requires_grad_())
    wanted.backward(grad)
    assert torch.allclose(torch.cat([process["out"] for process in found]).double(), wanted, rtol=2**-8, atol=1e-4)
    gradient = torch.cat([process["input gradient"] for process in found])
    assert gradient.dtype == torch.bfloat16
    # rounded twice by us, once by torch
    assert (gradient.double() - x.grad).abs().max() <= 2**-7 * x.grad.abs().max()
    for process in found:
        for name, values in (("gradients", layer.parameters()), ("running", [layer.running_mean, layer.running_var])):
            values = torch.stack([x.grad if name == "gradients" else x for x in values])
            assert torch.allclose(process[name].double(), values, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("kind, shape", [(nn.BatchNorm3d, (4, 6, 3, 5, 5)), (nn.BatchNorm3d, (1, 6, 1, 1, 2)),
                                         (nn.BatchNorm1d, (5, 6))])
def test_one_process_has_what_torchs_batch_norm_gives(kind, shape):
    generator = torch.Generator().manual_seed(0)
    plain = kind(6, affine=kind is nn.BatchNorm3d).double()
    for p in plain.parameters():
        nn.init.uniform_(p, generator=generator)
    ours = sync_batchnorm(nn.Sequential(copy.deepcopy(plain)))[0]
    assert isinstance(ours, SyncBatchNorm) and ours.state_dict().keys() == plain.state_dict().keys()
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = [(3 * grad + 1).requires_grad_() for _ in range(2)]
    outs = [layer(x) for layer, x in zip((plain, ours), inputs, strict=True)]
    for out in outs:
        out.backward(grad.square())
    pairs = [outs, [x.grad for x in inputs], *zip(plain.buffers(), ours.buffers(), strict=True),
             *((p.grad, q.grad) for p, q in zip(plain.parameters(), ours.parameters(), strict=True))]
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in pairs)
    assert torch.allclose(ours.eval()(grad), plain.eval()(grad), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("change", [sync_batchnorm, lambda network: split_batchnorm(network, 2)])
def test_a_batch_norm_keeps_its_settings(change):
    x = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1, 1)
    plain = nn.Sequential(nn.BatchNorm3d(3, eps=0.25, momentum=0.5))
    changed = change(copy.deepcopy(plain))
    assert torch.allclose(changed(x), plain(x), atol=1e-6) and type(changed[0]) is not nn.BatchNorm3d
    assert torch.allclose(changed[0].running_mean, plain[0].running_mean, atol=1e-6)


def test_variance_is_not_lost_beside_a_large_mean():
    x = torch.randn(64, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0)) + 1000
    layer = sync_batchnorm(nn.Sequential(nn.BatchNorm3d(1)))[0]
    assert torch.allclose(layer(x).double().var(correction=0), torch.tensor(1.0).double(), rtol=1e-3)
    assert torch.allclose(layer.running_var.double(), 0.9 + 0.1 * x.double().var(), rtol=1e-5)


# --- layout ---------------------------------------------------------------------------------------------------

TOKENS = {"mvit_v2_s", "swin3d_t"}  # these have no maps of channels between their layers


def is_last(x):
    return x.is_contiguous(memory_format=torch.channels_last_3d)


def layers_out_of_layout(network, run):
    """Names of layers of which `run` gives, or gets the gradient of, something that is not channels last."""
    found = []

    def look(name, what, x):
        # a gradient may be a slice of a concatenation's: channels last with gaps
        if x.dim() == 5 and x.stride(1) != 1:
            found.append(f"{what} of {name}: {tuple(x.shape)}, strides {x.stride()}")

    def follow(name):
        def hook(_, inputs, out):
            for what, x in (("input", inputs[0]), ("output", out)):
                look(name, what, x)
                if x.requires_grad:
                    x.register_hook(lambda gradient, what=what: look(name, f"gradient of {what}", gradient))
        return hook

    handles = [layer.register_forward_hook(follow(name)) for name, layer in network.named_modules()
               if not any(layer.children()) and not isinstance(layer, nn.Identity)]
    run()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("net, kind", [(net, kind) for net in BACKBONES for kind in ("plain", "split", "sync")
                                       if net in OWN or net not in TOKENS and kind == "sync"])
def test_every_layer_keeps_channels_last_forward_and_backward(net, kind):
    network = build_backbone(net, 0.0625).to(memory_format=torch.channels_last_3d).train()
    if kind != "plain":
        network = split_batchnorm(network, 2) if kind == "split" else sync_batchnorm(network)
    # of fewer than 16 clips, one thread computes k x 1 x 1 convolutions in the default layout
    clips = noise((16, 3, 16, 32, 32), "clips").contiguous(memory_format=torch.channels_last_3d)
    assert not layers_out_of_layout(network, lambda: pooled(network, clips).square().sum().backward())


@pytest.mark.parametrize("framework", ["simclr", "moco"])
@pytest.mark.parametrize("last", [True, False])
def test_clips_enter_the_networks_channels_last(framework, last):
    """Whole batches, parts of a sample's views, shuffled segments and shuffled keys: the stem takes its 2-D way."""
    def look(_, inputs):
        assert is_last(inputs[0])

    model = build_pretrainer(framework, "r21d", width=0.0625, queue_size=16, shuffle_keys=True)
    views = noise((4, 3, 8, 24, 24, 3), "views").movedim(-1, 2) if last else noise((4, 3, 3, 8, 24, 24), "views")
    for encoder in (model.encoder, *([model.key_encoder] if framework == "moco" else [])):
        encoder.backbone.stem.spatial.register_forward_pre_hook(look)
    sum(model.train()(views).losses.values()).backward()


def test_a_batch_of_whole_samples_is_not_copied():
    views = noise((2, 3, 4, 8, 8, 3), "views").movedim(-1, 2)
    assert as_batch(views).data_ptr() == views.data_ptr()
    assert torch.equal(as_batch(views[:, :2]), views[:, :2].flatten(0, 1)) and is_last(as_batch(views[:, :2]))
    shuffled = shuffle_segments(views[:, 2], torch.tensor([[1, 0], [0, 1]]))
    assert is_last(shuffled) and torch.equal(shuffled[1], views[1, 2])
    assert torch.equal(shuffled[0], views[0, 2].roll(2, dims=1))


# --- waits ----------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("flags", ["train.py --framework simclr --bn sync --batch_size 4",
                                   "train.py --framework moco --moco-k 8 --bn shuffle --batch_size 4 --accumulate 2"])
def test_models_do_not_make_the_host_wait(flags, tmp_path):
    """On a pretend GPU: synchronised batch norm, MoCo's shuffle and queues, losses."""
    data = make_dataset(tmp_path / "data")
    script, *flags = flags.split()
    env = environment(data, PYTHONPATH=f"{REPOSITORY}:{REPOSITORY / 'tests'}")
    group = start("tests/pretend_run.py", script, *SMALL[:-1], "cuda", *NARROW, *flags, "--epochs", "1", "--precision",
                  "bf16", "--name", "w", cwd=tmp_path, env=env, processes=2,
                  env_of={0: {**env, "PRETEND_COUNTS": str(tmp_path / "counts.json")}})
    assert [process.wait(PATIENCE) for process in group] == [0, 0], group[0].output("err")
    steps = json.loads((tmp_path / "counts.json").read_text())
    lines = [line for step in steps for line, *_ in step["waits"]]
    assert steps and not [line for line in lines if line.startswith("models/")]
