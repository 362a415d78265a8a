"""What one step of a decoder does on a GPU: operations, calls of layers, launches, kernels, copies.

It is what `benchmarks.traces` plays. Names, arguments and nesting are those that PyTorch's profiler records.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import prod

__all__ = ["COMPUTE", "COPIES", "LENGTHS", "Call", "Frame", "Kernel", "Node", "Op", "decoder"]

LAYERS, WIDTH, HEADS, WORDS = 24, 1024, 16, 32_000
LENGTHS = range(96, 256, 16)
"""Tokens of a step; each length has shapes of its own."""

COMPUTE, COPIES = 7, 13
"""Streams of the device."""

HALF, LONG = "c10::BFloat16", "long int"
UPLOAD, DOWNLOAD = "Memcpy HtoD (Pinned -> Device)", "Memcpy DtoH (Device -> Pinned)"

SMALL_GEMM = (
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_128x2_tn_align8>"
    "(cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_128x2_tn_align8::Params)"
)
LARGE_GEMM = (
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_"
    "cublas"
)
LAYER_NORM = (
    "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>(int, float, "
    "c10::BFloat16 const*, c10::BFloat16 const*, c10::BFloat16 const*, float*, float*, c10::BFloat16*)"
)
FLASH = (
    "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, "
    "cutlass::bfloat16_t, pytorch_flash::Flash_kernel_traits<64, 128, 128, 4, cutlass::bfloat16_t> >, false, true, "
    "false, false, false, true, false, false>(pytorch_flash::Flash_fwd_params)"
)
GATHER = (
    "void at::native::(anonymous namespace)::indexSelectLargeIndex<c10::BFloat16, long, unsigned int, 2, 2, -2, true>("
    "at::cuda::detail::TensorInfo<c10::BFloat16, unsigned int>, at::cuda::detail::TensorInfo<c10::BFloat16 const, "
    "unsigned int>, at::cuda::detail::TensorInfo<long const, unsigned int>, int, int, unsigned int, unsigned int, long)"
)
GELU = (
    "GeluCUDAKernelImpl(at::TensorIteratorBase&, at::native::GeluType)::{lambda()#2}::operator()() const::{lambda()#4}"
    "::operator()() const::{lambda(c10::BFloat16)#1}"
)


@dataclass(frozen=True)
class Kernel:
    """Work of the device; `args` is the text of the arguments that it has besides its ids."""

    category: str
    name: str
    duration_ns: int
    args: str
    stream: int = COMPUTE


@dataclass(frozen=True)
class Call:
    """A call of CUDA's runtime, with its number there, that launches a kernel or none."""

    name: str
    code: int
    kernel: Kernel | None = None


@dataclass(frozen=True)
class Op:
    """An operation and what it does within; `inputs` is the text of its arguments, `allocates` is bytes."""

    name: str
    inputs: str
    parts: tuple[Node, ...] = ()
    allocates: int = 0


@dataclass(frozen=True)
class Frame:
    """A call of a Python function, or of a layer, which has a number."""

    name: str
    parts: tuple[Node, ...]
    layer: int | None = None


Node = Op | Frame | Call
Input = tuple[str, list[int], str]
"""Type, shape and value, as Kineto writes them."""

NOTHING: Input = ("", [], "")


@cache
def decoder(length: int) -> tuple[Node, ...]:
    """Return what one step does with so many tokens."""
    tokens = _tensor(length, kind=LONG)
    copy = _op("aten::copy_", [tokens, tokens, _value(True)], _copy(UPLOAD, 8 * length))
    to = [tokens, _value(4), _value(0), NOTHING, NOTHING, _value(True), _value(False), NOTHING]
    network = _layer(
        "Decoder",
        0,
        "decoder/model.py(140): forward",
        _embedding(length),
        *[_block(number, length) for number in range(LAYERS)],
        _norm(2 * LAYERS, length),
        _linear(6 * LAYERS, 1, WIDTH, WORDS),
    )
    scores = [_tensor(1, WORDS), _tensor(1, WORDS), _value(False)]
    download = _op("aten::copy_", scores, _copy(DOWNLOAD, 2 * WORDS, COMPUTE))
    return _op("aten::to", to, copy), network, download, Call("cudaStreamSynchronize", 131)


def _embedding(length: int) -> Frame:
    table, tokens = _tensor(WORDS, WIDTH), _tensor(length, kind=LONG)
    gather = _kernel(GATHER, 3_100, blocks=4 * length)
    select = _op("aten::index_select", [table, _value(0), tokens], _empty(length, WIDTH), gather)
    embedding = _op("aten::embedding", [table, tokens, _value(-1), _value(False), _value(False)], select)
    return _layer("Embedding", 0, "torch/nn/modules/sparse.py(188): forward", embedding)


def _block(number: int, length: int) -> Frame:
    return _layer(
        "DecoderBlock",
        number,
        "decoder/block.py(52): forward",
        _norm(2 * number, length),
        _attention(number, length),
        _residual(length),
        _norm(2 * number + 1, length),
        _mlp(number, length),
        _residual(length),
    )


def _attention(number: int, length: int) -> Frame:
    first = 6 * number
    project = [_linear(first + i, length, WIDTH, WIDTH) for i in range(4)]
    split = [part for linear in project[:3] for part in (linear, _split_heads(length))]
    attend = _function("<built-in function scaled_dot_product_attention>", _flash(length))
    merge = _transpose(1, HEADS, length, WIDTH // HEADS)
    file = "decoder/attention.py(104): forward"
    return _layer("Attention", number, file, *split, attend, merge, project[3])


def _mlp(number: int, length: int) -> Frame:
    first = 6 * number + 4
    gelu = _elementwise("aten::gelu", GELU, length, 4 * WIDTH, _value("none"))
    dropout = _op("aten::dropout", [_tensor(1, length, WIDTH), _value("0.10000000000000001"), _value(False)])
    return _layer(
        "MLP",
        number,
        "decoder/mlp.py(31): forward",
        _linear(first, length, WIDTH, 4 * WIDTH),
        _layer("GELU", number, "torch/nn/modules/activation.py(734): forward", gelu),
        _linear(first + 1, length, 4 * WIDTH, WIDTH),
        _layer("Dropout", number, "torch/nn/modules/dropout.py(69): forward", dropout),
    )


def _residual(length: int) -> Op:
    other = _tensor(1, length, WIDTH)
    return _elementwise("aten::add", "CUDAFunctor_add<c10::BFloat16>", length, WIDTH, other, _value(1))


def _linear(number: int, length: int, wide: int, out: int) -> Frame:
    t = _op("aten::t", [_tensor(out, wide)], _transpose(out, wide))
    small = out <= wide
    gemm = _kernel(
        SMALL_GEMM if small else LARGE_GEMM,
        3_000 + length * wide * out // 60_000,
        blocks=length * out // 4096 + 1,
        registers=80 if small else 168,
        shared=49_152,
    )
    addmm = _op(
        "aten::addmm",
        [_tensor(out), _tensor(length, wide), _tensor(wide, out), _value(1), _value(1)],
        _empty(length, out),
        Call("cudaFuncSetAttribute", 269),
        gemm,
    )
    views = _view([1, length, wide], [length, wide]), addmm, _view([length, out], [1, length, out])
    linear = _op("aten::linear", [_tensor(1, length, wide), _tensor(out, wide), _tensor(out)], t, *views)
    call = _function("<built-in function linear>", linear)
    return _layer("Linear", number, "torch/nn/modules/linear.py(124): forward", call)


def _norm(number: int, length: int) -> Frame:
    epsilon = _value("1.0000000000000001e-05")
    inputs = [_tensor(1, length, WIDTH), _value([WIDTH]), _tensor(WIDTH), _tensor(WIDTH), epsilon]
    native = _op(
        "aten::native_layer_norm",
        inputs,
        _empty(1, length, WIDTH),
        _empty(1, length, 1),
        _empty(1, length, 1),
        _kernel(LAYER_NORM, 2_600 + length * 4, blocks=length),
        *[_view([1, length], [1, length, 1])] * 2,
    )
    norm = _op("aten::layer_norm", [*inputs, _value(True)], native)
    call = _function("torch/nn/functional.py(2889): layer_norm", norm)
    return _layer("LayerNorm", number, "torch/nn/modules/normalization.py(216): forward", call)


def _split_heads(length: int) -> Frame:
    view = _view([1, length, WIDTH], [1, length, HEADS, WIDTH // HEADS])
    return _function("decoder/attention.py(88): split_heads", view, _transpose(1, HEADS, length, WIDTH // HEADS))


def _flash(length: int) -> Op:
    shape = 1, HEADS, length, WIDTH // HEADS
    inputs = [_tensor(*shape)] * 3
    blocks = HEADS * (length // 128 + 1)
    forward = _op(
        "aten::_flash_attention_forward",
        [*inputs, NOTHING, NOTHING, *map(_value, (length, length, 0.0, True, False, 0.125))],
        _empty(*shape),
        _empty(1, HEADS, length),
        _empty(2),
        Call("cudaFuncSetAttribute", 269),
        _kernel(FLASH, 4_000 + length * length // 16, blocks=blocks, registers=255, shared=81_920),
    )
    flash = _op(
        "aten::_scaled_dot_product_flash_attention",
        [*inputs, *map(_value, (0.0, True, False, 0.125))],
        *[_transpose(*shape)] * 3,
        forward,
        _transpose(*shape),
    )
    rest = NOTHING, _value(0.0), _value(True), NOTHING, _value(False)
    return _op("aten::scaled_dot_product_attention", [*inputs, *rest], flash)


def _elementwise(name: str, functor: str, length: int, wide: int, *others: Input) -> Op:
    kernel = (
        f"void at::native::vectorized_elementwise_kernel<4, at::native::{functor}, std::array<char*, 3ul> >(int, "
        f"at::native::{functor}, std::array<char*, 3ul>)"
    )
    launch = _kernel(kernel, 1_900 + length * wide // 1_000, blocks=length * wide // 512 + 1)
    return _op(name, [_tensor(1, length, wide), *others], _empty(1, length, wide), launch)


def _layer(name: str, number: int, file: str, *parts: Node) -> Frame:
    """Return a call of a layer as the profiler sees it, through `Module.__call__`."""
    tracing = _function("<built-in method _get_tracing_state of PyCapsule object at 0x749934d6b810>")
    call = _function("torch/nn/modules/module.py(1743): _call_impl", tracing, _function(file, *parts))
    return Frame(f"nn.Module: {name}_{number}", (call,), layer=number)


def _function(name: str, *parts: Node) -> Frame:
    return Frame(name, parts)


def _view(shape: list[int], to: list[int]) -> Op:
    return _op("aten::view", [_tensor(*shape), _value(to)])


def _transpose(*shape: int) -> Op:
    to = [*shape[:-2], shape[-1], shape[-2]]
    strided = _op("aten::as_strided", [_tensor(*shape), _value(to), _value(_strides(to)), _value(0)])
    return _op("aten::transpose", [_tensor(*shape), _value(-2), _value(-1)], strided)


def _empty(*shape: int) -> Op:
    inputs = [_value(list(shape)), _value(15), _value(0), NOTHING, NOTHING, NOTHING]
    return _op("aten::empty", inputs, allocates=2 * prod(shape))


def _op(name: str, inputs: list[Input], *parts: Node, allocates: int = 0) -> Op:
    kinds, shapes, values = zip(*inputs, strict=True)
    text = (
        f'"Concrete Inputs": {json.dumps(values)}, "Input type": {json.dumps(kinds)}, '
        f'"Input Strides": {json.dumps([*map(_strides, shapes)])}, "Input Dims": {json.dumps(shapes)}, '
    )
    return Op(name, text, parts, allocates)


def _kernel(name: str, duration_ns: int, *, blocks: int, registers: int = 32, shared: int = 0) -> Call:
    warps = blocks * 4
    args = (
        f'"registers per thread": {registers},\n      "shared memory": {shared},\n      '
        f'"blocks per SM": {blocks / 132:.6f},\n      "warps per SM": {warps / 132:.6f},\n      '
        f'"grid": [{blocks}, 1, 1],\n      "block": [128, 1, 1],\n      '
        f'"est. achieved occupancy %": {min(100, warps // 85)}'
    )
    return Call("cudaLaunchKernel", 211, Kernel("kernel", name, duration_ns, args))


def _copy(name: str, size: int, stream: int = COPIES) -> Call:
    duration_ns = 900 + size // 40
    args = f'"bytes": {size}, "memory bandwidth (GB/s)": {size / duration_ns:.6f}'
    return Call("cudaMemcpyAsync", 41, Kernel("gpu_memcpy", name, duration_ns, args, stream))


def _value(value: object) -> Input:
    return "ScalarList" if isinstance(value, list) else "Scalar", [], str(value)


def _tensor(*shape: int, kind: str = HALF) -> Input:
    return kind, list(shape), ""


def _strides(shape: list[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]
