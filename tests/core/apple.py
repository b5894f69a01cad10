"""A stand-in for Apple's GPU on a machine without one: tensors that say "mps" and, as it does, refuse some things."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

MIXED_DEVICES = ("_to_copy", "copy_", "index", "index_put_")  # operations that may read a CPU tensor beside an mps one


class AppleTensor(torch.Tensor):
    """Says that it is on "mps", and to torch itself on "meta", which exists; its numbers are in `inner`, on the CPU."""

    device = torch.device("mps")

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="meta"
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return on_apple(function, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return on_apple(function, args, kwargs or {})


class _Moves(TorchFunctionMode):
    """Moves that torch refuses before it looks at operations: to "mps" and to lists."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.tolist and isinstance(args[0], AppleTensor):
            return args[0].inner.tolist()
        if function is torch.Tensor.to and torch.device("mps") in args[1:]:
            return args[0] if isinstance(args[0], AppleTensor) else AppleTensor(args[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def apple():
    """Inside this block the device "mps" exists."""
    with _Moves(), _Operations():
        yield


def to_apple(tensor):
    return AppleTensor(tensor)


def on_apple(function, args, kwargs):
    """The operation on the CPU; where its result belongs to "mps", refused for float64 and for eigenvalues."""
    name = function.overloadpacket.__name__
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    apples = [x for x in given if isinstance(x, AppleTensor)]
    is_apple = torch.device(kwargs.get("device") or ("mps" if apples else "cpu")).type in ("mps", "meta")
    if is_apple:
        if "eig" in name:
            raise NotImplementedError(f"The operator 'aten::{name}' is not currently implemented for the MPS device")
        if name not in MIXED_DEVICES and any(x.ndim for x in given if not isinstance(x, AppleTensor)):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    inner = tree_map(lambda x: x.inner if isinstance(x, AppleTensor) else x, (args, kwargs))
    found = function(*inner[0], **(inner[1] | ({"device": "cpu"} if kwargs.get("device") else {})))
    return tree_map(lambda x: _placed(x, apples, is_apple), found)


def _placed(result, apples, is_apple):
    if not isinstance(result, torch.Tensor) or not is_apple:
        return result
    if result.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
    changed = [x for x in apples if x.inner is result]  # in place
    return changed[0] if changed else AppleTensor(result)
