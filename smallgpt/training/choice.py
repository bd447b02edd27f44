"""Choice of an evaluation by some validation rows: the last not clearly worse than the lowest."""

from __future__ import annotations

import numpy as np

from smallgpt.evaluation.statistics import ratio_and_error

STANDARD_ERRORS = 1.0  # of a difference, above which an evaluation is clearly worse


class Choice:
    """The last evaluation that is not clearly worse than the one of the lowest cost before it.

    The learning rate falls, so that later weights are better unless the model overfits; the lowest
    of many figures on few rows is mostly luck. Clearly worse is a mean cost more than so many
    standard errors above the lowest (the one-standard-error rule, Breiman et al., 1984; here of the
    paired difference, since the rows are the same).

    Attributes:
        lowest: the lowest mean cost so far.
        cost_R: costs of the R rows with a say in that evaluation; NaN where they are not known.
    """

    def __init__(self, weight_N: np.ndarray):
        """`weight_N`: over how much a row's cost is the sum; 0 for a row without a say."""
        self._rows_R = np.flatnonzero(weight_N)
        self._weight_R = weight_N[self._rows_R]
        self.forget()

    def forget(self, lowest: float = np.inf) -> None:
        """Begin anew, after an evaluation of this mean cost of which nothing more is known."""
        self.lowest = lowest
        self.cost_R = np.full(len(self._rows_R), np.nan, np.float32)

    def add(self, cost_N: np.ndarray) -> bool:
        """Whether the rows choose another evaluation, in which these are their costs."""
        cost_R = cost_N[self._rows_R]
        value = float(cost_R.sum() / self._weight_R.sum())
        if value < self.lowest:
            self.lowest, self.cost_R = value, cost_R.astype(np.float32)
            return True
        if len(cost_R) < 2:
            return False
        _, error = ratio_and_error(cost_R - self.cost_R, self._weight_R)
        return value - self.lowest <= STANDARD_ERRORS * error  # an unknown error is NaN
