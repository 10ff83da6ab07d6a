"""Perturbations of one image: [channels, rows, columns] or [channels, slices, rows, columns].

Each function takes the image as floating-point numbers in the tensor's own unit, the amount
(`validators.robustness.severity`), the declared range and the case's draws. None clips, rounds or
changes its argument: `validators.robustness.perturb` does that once, for all.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from validators.robustness.draws import Draws, Floats


@dataclass(frozen=True)
class Range:
    """The declared minimum and maximum of a tensor."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Maximum less minimum."""
        return self.high - self.low


def gaussian_noise(image: Floats, amount: float, over: Range | None, draws: Draws) -> Floats:
    """White noise; the amount is its standard deviation, in the unit or (with a range) a share."""
    spread = amount * (over.width if over else 1.0)
    return np.asarray(image + spread * draws.normal(image.shape))


def rician_noise(image: Floats, amount: float, over: Range, draws: Draws) -> Floats:
    """The magnitude of a signal with equal noise in its two parts (Gudbjartsson & Patz 1995)."""
    spread = amount * over.width
    real = image - over.low + spread * draws.normal(image.shape)
    return np.asarray(np.hypot(real, spread * draws.normal(image.shape)) + over.low)


def quantum_noise(image: Floats, amount: float, over: Range, draws: Draws) -> Floats:
    """Poisson-like: the variance goes with the signal; the amount is relative, at full signal."""
    signal = np.clip((image - over.low) / over.width, 0, None)
    spread = amount * over.width * np.sqrt(signal)
    return np.asarray(image + spread * draws.normal(image.shape))


def speckle(image: Floats, amount: float, over: Range, draws: Draws) -> Floats:
    """Noise that multiplies the signal."""
    return image + amount * (image - over.low) * draws.normal(image.shape)


def blur(image: Floats, amount: float) -> Floats:
    """A Gaussian within the image plane; `amount` is its standard deviation in pixels."""
    sigma = [0.0] * (image.ndim - 2) + [amount, amount]
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest"))


def offset(image: Floats, amount: float, draws: Draws) -> Floats:
    """Every value higher, or lower, by the amount."""
    return image + draws.sign() * amount


def gamma(image: Floats, amount: float, over: Range, draws: Draws) -> Floats:
    """The intensity to the power `amount` or 1 / `amount`."""
    power = amount if draws.sign() > 0 else 1 / amount
    share = np.clip((image - over.low) / over.width, 0, 1)
    return np.asarray(over.low + over.width * share**power)


def resampling(image: Floats, amount: float) -> Floats:
    """Mean over voxels `amount` times as long on each axis, then linear interpolation back."""
    for axis in range(1, image.ndim):
        matrix = _down_and_up(image.shape[axis], amount).astype(image.dtype)
        image = np.moveaxis(np.moveaxis(image, axis, -1) @ matrix.T, -1, axis)
    return image


def bias_field(image: Floats, amount: float, over: Range, draws: Draws) -> Floats:
    """Multiplied by exp(amount * p): p a random polynomial of degree 3 in space within [-1, 1]."""
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in image.shape[1:]]
    powers = [p for p in product(range(4), repeat=len(axes)) if 0 < sum(p) <= 3]
    field = np.zeros(image.shape[1:], dtype=np.float32)
    for weight, exponents in zip(draws.normal((len(powers),)), powers, strict=True):
        term = np.asarray(weight)
        for axis, exponent in zip(axes, exponents, strict=True):
            term = term[..., None] * axis**exponent
        field += term
    field -= field.mean()
    field /= max(float(np.abs(field).max()), 1e-6)
    return np.asarray((image - over.low) * np.exp(amount * field) + over.low)


def compression(image: Floats, amount: float, over: Range) -> Floats:
    """What the quantisation of baseline JPEG does at quality `amount`, without chroma subsampling.

    Every 8 x 8 block of each plane is transformed (DCT-II) and rounded to multiples of the tables
    of ITU-T T.81, annex K, scaled as the IJG's library does. The range is mapped to 0 … 255.
    """
    levels = (image - over.low) / over.width * 255
    colour = image.shape[0] == 3
    if colour:
        levels = np.tensordot(_TO_YCBCR, levels, axes=1).astype(image.dtype)
    planes = []
    for number, plane in enumerate(levels):
        chroma = colour and number > 0
        centre = 0 if chroma else 128
        planes.append(_quantised(plane - centre, _table(amount, chroma=chroma)) + centre)
    levels = np.stack(planes)
    if colour:
        levels = np.tensordot(np.linalg.inv(_TO_YCBCR), levels, axes=1)
    return levels.astype(image.dtype) / 255 * over.width + over.low


def stain(image: Floats, amount: float, over: Range, draws: Draws) -> Floats:
    """Haematoxylin and eosin stronger or weaker by `amount`, in optical density.

    Colour deconvolution of Ruifrok & Johnston (2001) with their vectors; what neither stain
    explains stays as it is. [3, …] in the order red, green, blue.
    """
    light = np.clip((image - over.low) / over.width, 1 / 255, None)
    density = -np.log(light)
    concentration = np.tensordot(np.linalg.inv(_STAINS.T), density, axes=1)
    change = np.array([draws.sign(), draws.sign(), 0]) * amount
    shift = np.tensordot(_STAINS.T * change, concentration, axes=1).astype(image.dtype)
    return (image - over.low) * np.exp(-shift) + over.low


_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Red, green, blue of haematoxylin, eosin and the rest (Ruifrok & Johnston 2001, table 1)."""
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""ITU-T T.871."""
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def _table(quality: float, *, chroma: bool) -> NDArray[np.float32]:
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = np.floor(((_CHROMINANCE if chroma else _LUMINANCE) * scale + 50) / 100)
    return np.asarray(np.clip(table, 1, 255), dtype=np.float32)


def _quantised(plane: Floats, table: NDArray[np.float32]) -> Floats:
    """[…, rows, columns], each block of 8 x 8 rounded in the frequency domain."""
    rows, columns = plane.shape[-2:]
    added = [(0, 0)] * (plane.ndim - 2) + [(0, -rows % 8), (0, -columns % 8)]
    padded = np.pad(plane, added, mode="edge")
    height, width = padded.shape[-2:]
    blocks = padded.reshape(*plane.shape[:-2], height // 8, 8, width // 8, 8)
    steps = table[:, None, :]
    waves = fft.dctn(blocks, axes=(-3, -1), norm="ortho")
    again = fft.idctn(
        np.trunc(waves / steps + np.copysign(0.5, waves)) * steps, axes=(-3, -1), norm="ortho"
    )
    return np.asarray(again.reshape(padded.shape)[..., :rows, :columns])


@lru_cache(maxsize=64)
def _down_and_up(size: int, factor: float) -> NDArray[np.float64]:
    """[size, size]: area mean to fewer samples, then linear interpolation between their centres."""
    fewer = max(1, round(size / factor))
    edges = np.linspace(0, size, fewer + 1)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    down = np.clip(overlap, 0, None) * fewer / size
    place = np.clip((pixel + 0.5) * fewer / size - 0.5, 0, fewer - 1)
    left = np.minimum(place.astype(int), max(fewer - 2, 0))
    up = np.zeros((size, fewer))
    up[pixel, left] = 1 - (place - left)
    up[pixel, np.minimum(left + 1, fewer - 1)] += place - left
    return np.asarray(up @ down)
