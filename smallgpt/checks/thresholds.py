"""Thresholds from which something counts as a leak.

A leak and an honest strong feature differ in degree only. A sign (a token, a lacking token, a token
at a place, a length) of a label counts as a leak of it when

- it occurs in at least MIN_ROWS rows and in MIN_COVERAGE of the label's rows: rare codes are nearly
  always pure, by chance or by nature;
- the lower end of the 95 % Wilson interval of the share of its rows that have the label closes
  MIN_GAIN of the gap between the label's share of all rows and 1;
- chance does so with p <= MAX_P (binomial, times the number of signs tested).

Words that are a label's name need less (..._OF_LABEL_TEXT).

A place as a whole counts when a lookup table from one half of the rows closes MIN_GAIN_OF_PLACE of
the gap between the most frequent class and 1 in the other half (lower end, same p). The patch in
the middle of an image honestly separates 0 from 1; so a place counts only if naive Bayes on the
rest of the row, held out, errs in at least MIN_REST_ERROR of the rows and TIMES_BETTER_THAN_REST as
often; for a single label of whose rows less than WIDE_COVERAGE have the sign, in at least
MIN_REST_ERROR_BELOW_IT. How near clean data comes to these limits: docs/measurements.md.
"""

from __future__ import annotations

MIN_ROWS, MAX_P = 10, 0.001
MIN_COVERAGE, MIN_GAIN = 0.2, 0.85
MIN_COVERAGE_OF_LABEL_TEXT, MIN_GAIN_OF_LABEL_TEXT = 0.05, 0.5
MIN_GAIN_OF_PLACE = 0.75
MIN_REST_ERROR, TIMES_BETTER_THAN_REST = 0.02, 3
WIDE_COVERAGE, MIN_REST_ERROR_BELOW_IT = 0.6, 0.25
# `thresholds` of data_report.json.
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
