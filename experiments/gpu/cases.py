"""The cases timed on one GPU: the name of each, its sizes, and the floating-point operations of one
example.

An example's operations are counted as the field does. A multiply-add of the forward pass's matrix
products and convolutions is two, and the backward pass makes it three times that. Nothing else
counts. MFU is that, times examples a second, over the peak of the card's data sheet.
"""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    batch: int
    side: int = 0              # of pictures
    length: int = 0            # of rows of tokens
    layers: int = 12
    width: int = 768
    vocabulary: int = 30_522
    masked: float = 0.15

    @property
    def flops(self) -> float:
        """Return the operations of one example, forward and backward."""
        if self.name == "resnet50":  # 4.09 G multiply-adds at 224 (torchvision's count)
            return 3 * 2 * 4.09e9 * (self.side / 224) ** 2
        D, T = self.width, self.length
        layer = 4 * D**2 + 8 * D**2 + 2 * T * D  # q, k, v, out; MLP; scores and their sums of v
        head = self.masked * (D**2 + D * self.vocabulary)  # of the masked positions alone
        return 3 * 2 * T * (self.layers * layer + head)

    @property
    def chosen(self) -> int:
        """Return the masked tokens of a row."""
        return round(self.masked * self.length)


CASES = [Case("resnet50", batch=256, side=224), Case("bert", batch=64, length=512)]
QUICK = [Case("bert", batch=2, length=16, layers=1, width=64, vocabulary=128)]


def case(name: str, quick: bool) -> Case:
    return next(each for each in (QUICK if quick else CASES) if each.name == name)
