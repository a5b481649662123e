"""Made-up rows of a declared shape: what scale=smoke and the tests train on, without disk or network."""

import numpy as np

from lossatlas.data.table import Spec, Table

TRAIN, TEST = 512, 256  # where no limit is given


def fake_table(spec: Spec, train: int | None, test: int | None, seed: int) -> Table:
    """Class-conditional Gaussians: every class has its own mean, so a net can learn something.

    Without classes y is a linear function of Gaussian features, plus noise of a tenth of its deviation.

    Args:
        spec: shape and classes.
        train, test: rows, >= 1; None takes 512 and 256.
        seed: >= 0; the same seed gives the same rows.

    Shapes:
        x (train + test, *shape) float32, or uint8 for images.
    """
    rng = np.random.default_rng(seed)
    sizes = [TRAIN if train is None else train, TEST if test is None else test]
    part = np.repeat(np.array([0, 1], np.uint8), sizes)
    if spec.classes == 0:
        z = rng.normal(size=(sum(sizes), *spec.shape)).astype(np.float32)
        slope = rng.normal(size=spec.shape)
        y = (z * slope).reshape(len(z), -1).sum(1) / np.sqrt((slope**2).sum()) + 0.1 * rng.normal(size=len(z))
        x = np.clip(128 + 40 * z, 0, 255).astype(np.uint8) if spec.image else z
        return Table(x, y.astype(np.float32), part)
    y = np.concatenate([rng.permutation(np.arange(n) % spec.classes) for n in sizes])
    means = rng.normal(size=(spec.classes, *spec.shape)).astype(np.float32)
    x = means[y] + rng.normal(size=(len(y), *spec.shape)).astype(np.float32)
    if spec.image:
        x = np.clip(128 + 40 * x, 0, 255).astype(np.uint8)
    return Table(x, y.astype(np.int64), part)
