"""From when on something counts as a leak."""

from __future__ import annotations

from smallgpt.console import printable, shorten

MOST_FINDINGS = 10  # told of each kind
_EXAMPLES = 5
MIN_ROWS, MAX_P = 10, 0.001
MIN_COVERAGE, MIN_GAIN = 0.2, 0.85
MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT = 0.05, 0.5
MIN_GAIN_OF_PLACE = 0.75
MIN_REST_ERROR, TIMES_BETTER_THAN_REST = 0.02, 3
WIDE_COVERAGE, MIN_REST_ERROR_BELOW_IT = 0.6, 0.25
_NAME_COLUMNS = 40  # of a token or a label in a message
_SEED = 0  # of the sample and the halves
THRESHOLDS = {
    "rows": MIN_ROWS,
    "of_label": MIN_COVERAGE,
    "gap_closed": MIN_GAIN,
    "gap_closed_by_place": MIN_GAIN_OF_PLACE,
    "of_label_for_label_text": MIN_COVERAGE_OF_LABEL_TEXT,
    "gap_closed_for_label_text": MIN_GAIN_OF_LABEL_TEXT,
    "p_value": MAX_P,
    "rest_error": MIN_REST_ERROR,
    "rest_error_where_below": [MIN_REST_ERROR_BELOW_IT, WIDE_COVERAGE],
    "times_better_than_rest": TIMES_BETTER_THAN_REST,
}


def short_name(name: str) -> str:
    """A token, a label or a group for a message: short and printable whatever it holds."""
    return shorten(printable(name), _NAME_COLUMNS)
