"""What the rest of a row tells, against a model fitted anew without the places."""

import numpy as np
from checked_rows import VOCABULARY, make_rows, nothing
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.naive_bayes import MultinomialNB

from smallgpt.checks import naive_bayes, rest_of_row
from smallgpt.checks.leak_state import Bodies
from smallgpt.checks.leaks import find_leaks
from smallgpt.checks.sides import Sides
from smallgpt.rows.reading import dataset_from_records
from smallgpt.rows.splitting import split_dataset
from smallgpt.tokens.vocabulary import Vocabulary


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    one_length=st.booleans(),
    places=st.lists(st.integers(0, 23), unique=True, max_size=6),
)
def test_rest_of_a_row_is_told_as_by_a_model_fitted_without_the_places(seed, one_length, places):
    rows = make_rows(nothing, rows=80, one_length=one_length, seed=seed)
    bodies = Bodies.of(Sides(rows, rows.subset(slice(0, 0)), "a"))
    longest = int(bodies.lengths_N.max())
    places = np.array(places if not one_length else [p for p in places if p < longest], int)
    counts = np.zeros((80, len(VOCABULARY) * (longest if one_length else 1)))
    for row in range(80):
        body = rows.body(row).tolist()
        for place, token in enumerate(body):
            if not {place, longest + len(body) - 1 - place} & set(places.tolist()):
                counts[row, token + one_length * place * len(VOCABULARY)] += 1
    counts_NxF = csr_array(counts[:, counts.any(axis=0)])
    half_N, asked = bodies.halves(), np.arange(0, 80, 3)
    truth = rows.classes_N.astype(int)
    told = np.zeros(80, bool)
    certain = np.zeros(80, bool)
    for known_N in (half_N, ~half_N):
        model = MultinomialNB(alpha=0.1).fit(counts_NxF[known_N], truth[known_N])
        scores = np.sort(model.predict_joint_log_proba(counts_NxF[~known_N]), axis=1)
        told[~known_N] = model.predict(counts_NxF[~known_N]) == truth[~known_N]
        certain[~known_N] = scores[:, -1] - scores[:, -2] > 1e-9
    right = rest_of_row.RestOfRow(bodies).right(asked, places)
    assert (right == told[asked])[certain[asked]].all()


def test_rows_are_counted_once_however_many_labels_a_place_gives_away(monkeypatch):
    calls = []
    counting = naive_bayes.class_counts
    monkeypatch.setattr(
        rest_of_row, "class_counts", lambda *rows: calls.append(1) or counting(*rows)
    )
    for labels in (6, 20):
        # So many that a token is rare at a place, and so few that it stands elsewhere too.
        words = [f"w{number}" for number in range(50 * labels)]
        vocabulary = Vocabulary(
            ["<PAD>", "<CLS>", "<EOS>", *words, *[f"<CLS_{number}>" for number in range(labels)]]
        )
        random = np.random.default_rng(0)
        records = []
        for number in range(labels * 100):
            label, body = number % labels, random.choice(words, random.integers(14, 22)).tolist()
            if random.random() < 0.6:
                body[label % 12] = words[label]
            records.append({"tokens": body, "label": label})
        rows = dataset_from_records(records, vocabulary, max_length=64)
        calls.clear()
        found, search = find_leaks(Sides(*split_dataset(rows, 0.2, 1), "a"))
        assert {leak["kind"] for leak in found} == {"position_gives_label"}
        assert len(found) + search["left_out"].get("position_gives_label", 0) >= labels // 2
        assert len(calls) == 2  # once for each half
