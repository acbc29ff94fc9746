"""Where networks compute. Only what needs torch imports it, because that takes seconds."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_mitosis.errors import InputError

if TYPE_CHECKING:
    from wsi_mitosis.tables import Precision

NVIDIA_DRIVER = "libcuda.so.1"
"""The library of NVIDIA's driver, without which CUDA finds no GPU."""
AMD_DRIVER = Path("/dev/kfd")
"""The device file of AMD's driver, without which ROCm finds no GPU. torch calls such GPUs `cuda`, too."""


def resolve_device(device: str) -> str:
    """Resolve `auto` to `cuda` or `cpu`. Any other device is returned as it is.

    Raises:
        InputError: If there is no such device.
    """
    if device == "cpu" or (device == "auto" and not has_driver()):
        return "cpu"
    import torch

    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if available else "cpu"
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (device == "cuda" or number.isdecimal()):
        raise InputError(
            "no such device", subject=f"--device {device}", remedy="Use auto, cpu, cuda or cuda:N"
        )
    if int(number or 0) >= available:
        raise InputError(
            f"torch finds {available} GPUs",
            subject=f"--device {device}",
            remedy="Use --device cpu, or check the GPU with `nvidia-smi` and that torch was built with CUDA",
        )
    return device


def has_driver() -> bool:
    """Whether a driver is installed without which torch finds no GPU."""
    try:
        ctypes.CDLL(NVIDIA_DRIVER)
    except OSError:
        return AMD_DRIVER.exists()
    return True


def check_precision(precision: Precision, device: str) -> None:
    """Refuse float16 on a CPU, where it saves no time, and bfloat16 on a GPU, which is as fast in float16.

    Measured on one thread with two bundles: fp16 took as long as fp32 on a CPU with `avx512_fp16`, and 14 to
    17 times as long where torch was kept from these instructions.

    Args:
        precision: Precision of the encoders.
        device: A device that `resolve_device` returned.

    Raises:
        InputError: If the precision is not for the device.
    """
    if precision == "fp16" and device == "cpu":
        raise InputError(
            "it is for GPUs; on a CPU it is no faster than fp32, and mostly much slower",
            subject="--precision fp16",
            remedy="Use --precision fp32 or bf16, or a machine with a GPU that `wsi-mitosis doctor` finds",
        )
    if precision == "bf16" and device != "cpu":
        raise InputError(
            "it is for CPUs; a GPU is as fast in fp16, which changes fewer labels",
            subject="--precision bf16",
            remedy="Use --precision fp16, or --device cpu",
        )


def describe_devices() -> str:
    """Describe the devices that torch can use on this machine, in words."""
    import torch

    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} can use; {torch.get_num_threads()} CPU threads"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
