"""A mean over tasks, tested exactly by flipping the signs of the tasks' values (ours)."""

import numpy as np


def sign_flip_p(values: np.ndarray) -> float:
    """Exact two-sided p-value of a mean of 0: the share of sign flips that reach it (ours).

    Under the hypothesis a task's value is as likely as its negative. Sums of two halves are joined,
    so n values take about 2^(n/2) steps. The least possible value is 2 / 2^n.
    """

    def sums(part: np.ndarray) -> np.ndarray:
        found = np.zeros(1)
        for value in part:
            found = np.concatenate([found + value, found - value])
        return found

    left, right = sums(values[::2]), np.sort(sums(values[1::2]))
    reached = abs(values.sum()) - 1e-12  # sums that are level to rounding are equal
    beyond = len(right) - np.searchsorted(right, reached - left)
    return min(1.0, 2 * float(beyond.sum()) / 2 ** len(values))


def sign_flip_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The means that `sign_flip_p` does not reject: ends among the means of all subsets (ours).

    Hartigan (1969): a centre of symmetry is as likely to lie in each of the gaps between these
    2^n - 1 means. Of five values none can be rejected at 0.05, so theirs is their range, of 94%.
    Above 16 values as many subsets are drawn, above 62 (documents, not tasks) an eighth of them.
    """
    n, rng = len(values), np.random.default_rng(0)
    if n > 62:
        members = rng.integers(0, 2, (2**13, n))
    else:
        subsets = rng.integers(1, 2**n, 2**16) if n > 16 else np.arange(1, 2**n)
        members = subsets[:, None] >> np.arange(n) & 1
    means = np.sort(members @ values / members.sum(axis=1))
    beyond = max(1, int((1 - level) / 2 * (len(means) + 1)))
    return float(means[beyond - 1]), float(means[-beyond])
