"""Networks for tests."""

from __future__ import annotations

from wsi_mitosis.specs import NetworkSpec


def preact(width: int) -> NetworkSpec:
    """The paper's network of a width."""
    return NetworkSpec(backbone="preact-resnet50", width=width, head="gap-fc3")


def timm_network(name: str = "tf_efficientnet_lite0") -> NetworkSpec:
    """A network with an encoder of timm."""
    return NetworkSpec(backbone=f"timm:{name}", head="gap-fc3")
