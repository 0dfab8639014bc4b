"""EfficientNet-Lite0's features in PyTorch, under the names of its published file."""
from torch import nn
from torch.nn import functional as F

# (blocks, kernel, stride of the first, expansion, width), a stage a row
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
          (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
WIDTHS = {4: 24, 8: 40, 16: 112, 32: 320}  # of the last map of each stride


class Same(nn.Conv2d):
    """A convolution with TensorFlow's padding, as the weights were trained."""

    def forward(self, x):
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1],
                                        strict=True):
            whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [whole // 2, whole - whole // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class Block(nn.Module):
    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, width: int):
        super().__init__()
        wide, self.adds = inputs * expansion, stride == 1 and inputs == width
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = Same(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = nn.Conv2d(wide, width, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x):                                                    # (B, C, H, W)
        y = x
        if hasattr(self, "_expand_conv"):
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """The network without its head: (B, 3, H, W) -> {stride: (B, F, H / stride, W / stride)}."""

    def __init__(self):
        super().__init__()
        self._conv_stem = Same(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks, inputs, self.strides, stride_of = [], 32, [], 2
        for repeats, kernel, stride, expansion, width in STAGES:
            stride_of *= stride
            for i in range(repeats):
                blocks.append(Block(inputs, kernel, stride if i == 0 else 1, expansion, width))
                self.strides.append(stride_of)
                inputs = width
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x):
        x, maps = F.relu6(self._bn0(self._conv_stem(x))), {}
        for stride, block in zip(self.strides, self._blocks, strict=True):
            maps[stride] = x = block(x)
        return maps


def train_with_fixed_statistics(model: nn.Module) -> None:
    """Let a network train, its BatchNorm by the statistics that it has."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
