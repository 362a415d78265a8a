"""Floating-point operations of one step of a PyTorch network, counted by what each ATen operation was given.

Products are counted by PyTorch's own formulas (`torch.utils.flop_counter.flop_registry`): a multiplication and an
addition are two. Of the others an elementwise operation counts one for each element of its result, whatever it
computes, a reduction one for each element that it reduces, and softmax, normalisation and pooling what the textbook
does for each element. What only moves, makes or selects, or has no floating-point tensor, counts nothing. The rest is
unknown.

This is a pass of its own, as counting while PyTorch's profiler runs counts twice (pytorch#195746).
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from math import prod
from threading import local
from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dnnamo.frameworks.pytorch.layers import entered_layers, is_compiled
from dnnamo.profiles.flops import CountedOperation

__all__ = ["FlopCounter"]

Formula = Callable[[tuple[Any, ...], dict[str, Any], Any], int]
"""From the positional and keyword arguments and the result of an operation to its floating-point operations."""


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in names.split())


_MOVES = _aten(
    """
    _copy_from _foreach_copy_ _foreach_zero_ _local_scalar_dense _pin_memory _reshape_alias _reshape_copy _to_copy
    _unsafe_view arange argmax argmin argsort as_strided_ bernoulli bernoulli_ cat clone constant_pad_nd contiguous copy
    copy_ detach_ embedding empty empty_like empty_permuted empty_strided eye fill fill_ flip full full_like gather
    index index_put index_put_ index_select item lift_fresh linspace masked_fill masked_fill_ masked_select narrow_copy
    new_empty new_empty_strided new_full new_ones new_zeros nll_loss2d_backward nll_loss_backward nonzero normal_ ones
    ones_like permute_copy rand rand_like randint randint_like randn randn_like randperm record_stream repeat resize_
    roll scalar_tensor scatter scatter_ select_backward set_ slice_backward sort split_with_sizes_copy squeeze_ stack t_
    topk transpose_ tril tril_ triu triu_ unfold_copy uniform_ unsqueeze_ view_copy where zero_ zeros zeros_like
    """
)
"""What makes, moves or selects values."""

_REDUCES = _aten(
    """
    amax amin aminmax any all cumprod cumsum embedding_dense_backward linalg_vector_norm logcumsumexp logsumexp max
    mean min nansum native_norm norm prod sum
    """
)
"""What takes one operation for each element that it is given."""

_PER_ELEMENT = {
    "aten::_softmax": 5,  # greatest, difference, exponential, sum, quotient
    "aten::_log_softmax": 5,
    "aten::_safe_softmax": 5,
    "aten::_softmax_backward_data": 4,
    "aten::_log_softmax_backward_data": 4,
    "aten::native_layer_norm": 7,  # mean, difference, square, sum, quotient, scale, shift
    "aten::native_batch_norm": 7,
    "aten::_native_batch_norm_legit": 7,
    "aten::cudnn_batch_norm": 7,
    "aten::native_group_norm": 7,
    "aten::native_layer_norm_backward": 14,
    "aten::native_batch_norm_backward": 14,
    "aten::cudnn_batch_norm_backward": 14,
    "aten::native_group_norm_backward": 14,
    "aten::native_dropout": 2,  # mask and scale
    "aten::native_dropout_backward": 2,
    "aten::max_pool2d_with_indices_backward": 1,
    "aten::mse_loss": 3,
    "aten::mse_loss_backward": 3,
    "aten::var": 4,
    "aten::var_mean": 4,
    "aten::std": 4,
}
"""What takes so many for each element of its first input, about."""


def _of_pooling(args: tuple[Any, ...], _: dict[str, Any], result: Any) -> int:
    kernel = args[1] if isinstance(args[1], int) else prod(args[1])
    return kernel * int(tree_leaves(result)[0].numel())


def _of_encoder_layer(args: tuple[Any, ...], _: dict[str, Any], result: Any) -> int:
    """The products of an encoder layer that PyTorch computes as one: attention and the two layers after it."""
    width, hidden = int(args[1]), int(args[14].shape[0])
    padded = result.to_padded_tensor(0) if result.is_nested else result
    tokens, length = prod(map(int, padded.shape[:-1])), int(padded.shape[-2])
    return tokens * (2 * 4 * width * width + 2 * 2 * length * width + 2 * 2 * width * hidden)


_OWN: dict[str, Formula] = {
    "aten::_transformer_encoder_layer_fwd": _of_encoder_layer,
    "aten::max_pool2d_with_indices": _of_pooling,
    "aten::avg_pool2d": _of_pooling,
    "aten::nll_loss_forward": lambda args, *_: int(args[1].numel()),
    "aten::nll_loss2d_forward": lambda args, *_: int(args[1].numel()),
}

_SAME_AS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "_scaled_dot_product_flash_attention_backward",
}
"""What PyTorch's registry lacks, with what it has that computes the same of the same first inputs."""


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run in `counting`.

    Args:
        network: Tells in which of its layers each operation runs; a backward one counts for the forward one's layer.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layers = _Layers(network)
        self._calls: Counter[tuple[str, str, str | None, int | None]] = Counter()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count meanwhile; what was compiled runs as it was written."""
        with self._layers.followed(), torch.compiler.set_stance("force_eager"), self:
            yield

    def operations(self) -> list[CountedOperation]:
        """Return what was counted, in the order of the first calls."""
        return [
            CountedOperation(
                name=name, shapes=shapes, layer=layer, calls=calls, flops=None if flops is None else flops * calls
            )
            for (name, shapes, layer, flops), calls in self._calls.items()
        ]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it; one that is only made of others is run as those."""
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload) or func.namespace == "profiler":
            return func(*args, **kwargs)
        formula = _formula(func)
        if formula is None:
            with self:
                done = func.decompose(*args, **kwargs)
            if done is not NotImplemented:
                return done
        shapes = _shapes(func, args, kwargs)  # before it runs, as an operation in place may change them
        result = func(*args, **kwargs)
        flops = 0 if not _computes((args, kwargs, result)) else formula and formula(args, kwargs, result)
        self._calls[func._schema.name, shapes, self._layers.current(), flops] += 1
        return result


@cache
def _formula(func: torch._ops.OpOverload) -> Formula | None:
    name = func._schema.name
    packet = getattr(torch.ops.aten, _SAME_AS[name]) if name in _SAME_AS else func.overloadpacket
    own = _OWN.get(name) or _from_registry(packet)
    if own is not None:
        return own
    if func.is_view or name in _MOVES:
        return _nothing
    base = name.replace("_foreach_", "")
    if base.rstrip("_") in _REDUCES:
        return _elements
    if base in _PER_ELEMENT:
        return lambda *call: _PER_ELEMENT[base] * _elements(*call)
    return _elements_of_result if _is_elementwise(base) else None


def _from_registry(packet: Any) -> Formula | None:
    known = flop_registry.get(packet)
    return known and (lambda args, kwargs, result: int(known(*args, **kwargs, out_val=result)))


def _is_elementwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )


def _nothing(*_: Any) -> int:
    return 0


def _elements(args: tuple[Any, ...], *_: Any) -> int:
    return _count(args[:1])


def _elements_of_result(args: tuple[Any, ...], _: dict[str, Any], result: Any) -> int:
    return _count(args[:1] if result is None else result)  # of lists in place there is none


def _count(values: Any) -> int:
    return sum(int(value.numel()) for value in tree_leaves(values) if isinstance(value, torch.Tensor))


def _computes(values: Any) -> bool:
    """Whether there is any tensor of floating-point or complex numbers."""
    tensors = (value for value in tree_leaves(values) if isinstance(value, torch.Tensor))
    return any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors)


def _shapes(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the inputs' shapes as PyTorch's profiler writes them: what is no tensor has an empty one."""
    expected = func._schema.arguments
    given = [*args, *(kwargs.get(argument.name) for argument in expected[len(args) :])]
    return _as_text([_shape(value) for value in given])


def _shape(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [] if value.is_nested else list(value.shape)
    is_list = isinstance(value, list | tuple) and value and all(isinstance(item, torch.Tensor) for item in value)
    return [_shape(item) for item in value] if is_list else []


def _as_text(shapes: list[Any]) -> str:
    return msgspec.json.encode(shapes).decode()


class _Layers:
    """Knows in which layer what runs now belongs."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        self._open = _Paths()
        # Where in the forward pass's sequence numbers the innermost layer changes, and to what.
        self._starts: list[int] = []
        self._owners: list[str | None] = []

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Know meanwhile; of a compiled network, which would notice, nothing."""
        with nullcontext() if is_compiled(self._network) else entered_layers(self._network, self._within):
            yield

    def current(self) -> str | None:
        """Return the path of the innermost layer that is open; in a backward pass, of the forward operation's."""
        node = torch._C._current_autograd_node()
        if self._open.paths or node is None:
            return self._open.innermost
        at = bisect_right(self._starts, node._sequence_nr()) - 1
        return self._owners[at] if at >= 0 else None

    @contextmanager
    def _within(self, path: str) -> Iterator[None]:
        self._open.paths.append(path)
        self._note()
        try:
            yield
        finally:
            self._open.paths.pop()
            self._note()

    def _note(self) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._owners.append(self._open.innermost)


class _Paths(local):
    """The paths of the layers that are open on the thread that looks."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    @property
    def innermost(self) -> str | None:
        return self.paths[-1] if self.paths else None
