"""The operator on a GPU, as users call it: streams, devices, graphs, sizes. Skipped where there is none."""

import pytest
import torch

from corr_ops import VideoCorrelation, explain, video_correlation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
OPTIONS = {"kernel_size": 7, "dilation": 2, "groups": 2}
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def make(dtype: torch.dtype, device: str = "cuda", size: int = 28) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 4, size, size, generator=generator).to(device, dtype)
    weight = torch.randn(4, 64, 7, 7, generator=generator).to(device, dtype)
    return x.contiguous(memory_format=torch.channels_last_3d).requires_grad_(), weight.requires_grad_()


def results(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    out = video_correlation(x, weight, **OPTIONS)
    return [out, *torch.autograd.grad(out, (x, weight), out)]


def test_auto_takes_the_kernels() -> None:
    x, _ = make(torch.bfloat16)
    assert explain(x).backend == "triton"


@each_dtype
def test_a_clip_of_the_network_equals_float64(dtype: torch.dtype) -> None:
    x, weight = make(dtype, size=56)
    exact_x, exact_weight = (factor.detach().double().requires_grad_() for factor in (x, weight))
    out = video_correlation(x, weight, **OPTIONS)
    grad = torch.randn_like(out)
    exact = video_correlation(exact_x, exact_weight, backend="reference", **OPTIONS)
    wanted = [exact, *torch.autograd.grad(exact, (exact_x, exact_weight), grad.double())]
    for result, truth in zip([out, *torch.autograd.grad(out, (x, weight), grad)], wanted, strict=True):
        error = (result.double() - truth).abs().max() / truth.abs().max()
        assert error < 4 * torch.finfo(dtype).eps, float(error)


@each_dtype
def test_equal_bit_for_bit_from_run_to_run(dtype: torch.dtype) -> None:
    x, weight = make(dtype)
    first = results(x, weight)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(results(x, weight), first, strict=True))


def test_on_a_side_stream() -> None:
    x, weight = make(torch.bfloat16)
    expected = results(x, weight)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what is launched on another stream would be done before
        later = x.detach().clone().requires_grad_()
        found = results(later, weight)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_on_another_device_than_the_current_one() -> None:
    expected = results(*make(torch.bfloat16))
    found = results(*make(torch.bfloat16, "cuda:1"))
    assert torch.cuda.current_device() == 0
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, expected, strict=True))


def test_in_a_cuda_graph() -> None:
    x, weight = (factor.detach() for factor in make(torch.bfloat16))
    video_correlation(x, weight, **OPTIONS)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = video_correlation(x, weight, **OPTIONS)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(out, video_correlation(x, weight, **OPTIONS))


def test_in_a_compiled_module_under_autocast() -> None:
    module = VideoCorrelation(64, 4, groups=2).cuda()
    x = make(torch.float32)[0]
    with torch.autocast("cuda", torch.bfloat16):
        expected = module(x)
        found = torch.compile(module, fullgraph=True)(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    found.float().square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_only_the_inputs_are_kept_for_the_backward_pass() -> None:
    x, weight = make(torch.bfloat16, size=56)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda kept: kept
    ):
        video_correlation(x, weight, **OPTIONS)
    assert {tensor.data_ptr() for tensor in kept} <= {x.data_ptr(), weight.data_ptr()}


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 24 << 30:
        pytest.skip(f"needs 24 GiB of free GPU memory, there are {free >> 30}")
    x = torch.randn(1, 32, 2, 5800, 5800, dtype=torch.bfloat16, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last_3d)
    assert x.numel() > 1 << 31
    out = video_correlation(x, kernel_size=1)
    corner = x[..., -64:, -64:].double()
    wanted = (corner * corner[:, :, [0, 0]]).mean(1, keepdim=True)
    torch.testing.assert_close(out[..., -64:, -64:].double(), wanted, rtol=2e-2, atol=2e-2)
