"""The two-stream network of Table 5."""

import torch
from torch import Tensor

from corrnet_models._config import EXPANSION, ModelConfig, StageName
from corrnet_models._errors import ModelError
from corrnet_models._network import Backbone, VideoModel


class TwoStreamResNet(VideoModel):
    """One backbone on RGB, one on optical flow, fused by concatenation (section 6.2, Table 5).

    The input is one tensor [N, in_channels, L, H, W]: first RGB, then the `flow_channels` channels of
    optical flow. `forward_features` returns [N, 2*C, L', H', W'], the C channels of RGB's feature map
    before those of flow's. Pooling works on each channel alone, so this is the paper's concatenation
    after global average pooling.

    Args:
        config: The configuration, with `flow_channels` above 0.

    Raises:
        ValueError: If the configuration is for one stream.
    """

    def __init__(self, config: ModelConfig) -> None:
        if config.flow_channels == 0:
            raise ModelError("TwoStreamResNet needs channels of optical flow; got flow_channels=0")
        super().__init__(config, num_features=2 * EXPANSION * config.widths[-1])
        self.rgb = Backbone(config, in_channels=config.in_channels - config.flow_channels)
        self.flow = Backbone(config, in_channels=config.flow_channels)

    def backbones(self) -> dict[str, Backbone]:
        """Return the two backbones, RGB's first."""
        return {"rgb": self.rgb, "flow": self.flow}

    def _features(self, x: Tensor, stage: StageName) -> Tensor:
        rgb, flow = self._split(x)
        return torch.cat([self.rgb(rgb, stage), self.flow(flow, stage)], dim=1)

    def _intermediates(self, x: Tensor, last: StageName) -> list[Tensor]:
        rgb, flow = self._split(x)
        pairs = zip(self.rgb.intermediates(rgb, last), self.flow.intermediates(flow, last), strict=True)
        return [torch.cat(pair, dim=1) for pair in pairs]

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flow_channels = self.config.flow_channels
        return x[:, :-flow_channels], x[:, -flow_channels:]
