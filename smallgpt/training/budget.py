"""The time that --max_minutes allows: a plan of so many updates as fit, made anew on the way.

    budget = Budget(run, measured_seconds(run))  # makes the first plan
    if budget.is_due(): budget.plan_anew()       # after an update

The time is that of training with its evaluations, over all calls of a run that is resumed.
"""

from __future__ import annotations

from smallgpt.console import format_duration, plural
from smallgpt.training.run import Run

# Shares of the time after which the plan is compared with the clock: early, since the first guess
# is that of three updates, and ever closer towards the end, where little is left to correct with.
_LOOKS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.88, 0.93, 0.96, 0.98)
_AIM = 0.98  # share of the time that a plan takes
_EARLIEST = 0.95  # a plan that would end between this share and the limit stays as it is


class Budget:
    """Plans a run so that it ends within `max_minutes`."""

    def __init__(self, run: Run, seconds: tuple[float, float], share: float = 1.0):
        """Plan the run, unless its checkpoint has a plan.

        `seconds`: of `measured_seconds`. `share`: of the time, where other runs have the rest.
        """
        self._run, state = run, run.state
        assert run.settings.max_minutes is not None
        self._limit = 60 * run.settings.max_minutes * share
        self._seconds_of_update, self._seconds_of_evaluation = seconds
        self._looks = [look for look in _LOOKS if look * self._limit > state.seconds]
        self._look()
        if not state.plan:
            self._plan(self._updates_that_fit())

    def note_evaluation(self, seconds: float) -> None:
        """Take the time of an evaluation, saved models included."""
        self._evaluating += seconds
        self._seconds_of_evaluation = seconds

    def is_due(self) -> bool:
        """Whether the clock has reached a look at the plan, or the time for the last evaluation."""
        now = self._run.state.seconds
        return now + self._seconds_of_evaluation >= self._limit or (
            bool(self._looks) and now >= self._looks[0] * self._limit
        )

    def plan_anew(self) -> bool:
        """Compare the plan with the clock; returns whether another one was made."""
        run, state = self._run, self._run.state
        self._looks = [look for look in self._looks if look * self._limit > state.seconds]
        # As fast as since the last look: the machine may have become busy.
        updating = state.seconds - self._began - self._evaluating
        self._seconds_of_update = updating / (state.step - self._first)
        self._look()
        end = state.seconds + self._seconds_of(state.total_steps)
        if _EARLIEST * self._limit <= end <= self._limit:
            return False
        total = self._updates_that_fit()
        if total == state.total_steps:
            return False
        run.log.say(
            f"planned anew at step {state.step:,}, after {format_duration(state.seconds)}: "
            f"{plural(total, 'step')} instead of {state.total_steps:,} fit into "
            f"{format_duration(self._limit)}"
        )
        self._plan(total)
        return True

    def _look(self) -> None:
        """Count from here: the updates to come, their time, and that of evaluations."""
        self._began, self._first = self._run.state.seconds, self._run.state.step
        self._evaluating = 0.0

    def _plan(self, total: int) -> None:
        plan = self._run.state.plan
        plan.append([self._run.state.step if plan else 0, total])

    def _updates_that_fit(self) -> int:
        """Updates of a whole run that ends in time; those that are done, and at least one."""
        step, left = self._run.state.step, _AIM * self._limit - self._run.state.seconds
        fits = max(step, 1)
        # Evaluations come after whole epochs, and the fewer an epoch the more epochs there are.
        low, high = fits, step + max(1, int(left / self._seconds_of_update) + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._seconds_of(middle) <= left else (low, middle - 1)
        return max(fits, low)

    def _seconds_of(self, total: int) -> float:
        """Seconds from now to the end of a plan of `total` updates."""
        run, step = self._run, self._run.state.step
        evaluations = 1 + (total - step) / (run.steps_per_epoch * run.epochs_an_evaluation(total))
        return (
            max(0, total - step) * self._seconds_of_update
            + evaluations * self._seconds_of_evaluation
        )
