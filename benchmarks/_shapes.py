"""The shapes of what is updated: one large leaf, many, and those of real networks."""

import math
from collections.abc import Mapping, Sequence

Shapes = tuple[tuple[int, ...], ...]


def _repeated(*counted: tuple[int, tuple[int, ...]]) -> Shapes:
    return tuple(shape for count, shape in counted for _ in range(count))


# Height, width, channels in, channels out; all norms in one leaf. 25.6 M parameters.
RESNET_50 = _repeated(
    (1, (7, 7, 3, 64)),
    (1, (1, 1, 64, 64)),
    (2, (1, 1, 256, 64)),
    (3, (3, 3, 64, 64)),
    (4, (1, 1, 64, 256)),
    (1, (1, 1, 256, 128)),
    (3, (1, 1, 512, 128)),
    (4, (3, 3, 128, 128)),
    (4, (1, 1, 128, 512)),
    (1, (1, 1, 256, 512)),
    (1, (1, 1, 512, 256)),
    (5, (1, 1, 1024, 256)),
    (6, (3, 3, 256, 256)),
    (6, (1, 1, 256, 1024)),
    (1, (1, 1, 512, 1024)),
    (1, (1, 1, 1024, 512)),
    (2, (1, 1, 2048, 512)),
    (3, (3, 3, 512, 512)),
    (3, (1, 1, 512, 2048)),
    (1, (1, 1, 1024, 2048)),
    (1, (26_560, 2)),
    (1, (2048, 1000)),
    (1, (1000,)),
)
# Six layers of width 512, a vocabulary of 16,384, 512 places. 27.6 M parameters.
TRANSFORMER = _repeated(
    (1, (16_384, 512)),
    (1, (512, 512)),
    (6, (512, 1536)),
    (6, (1536,)),
    (6, (512, 512)),
    (6, (512, 2048)),
    (6, (2048,)),
    (6, (2048, 512)),
    (2 * 6, (512,)),  # biases of what leaves a block
    (2 * (2 * 6 + 1), (512,)),  # norms: scale and shift
)
FULL: Mapping[str, Shapes] = {
    "one leaf of 32 M": ((8192, 4096),),
    "32 x 1 M": _repeated((32, (1024, 1024))),
    "ResNet-50": RESNET_50,
    "transformer": TRANSFORMER,
    "1,000 x 1,000": _repeated((1000, (1000,))),
}
SMALL: Shapes = ((3, 50), (257,), (4, 4, 8))
QUICK: Mapping[str, Shapes] = {"three small leaves": SMALL}


def size(shapes: Sequence[tuple[int, ...]]) -> int:
    """How many numbers there are in all leaves."""
    return sum(math.prod(shape) for shape in shapes)
