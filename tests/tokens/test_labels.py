"""Names of labels and their tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallgpt.errors import UserError
from smallgpt.tokens.labels import LabelNames, label_text, label_token, sorted_labels

SPECIAL = ["<PAD>", "<UNK>", "<IMG>", "</IMG>", "<CLS>", "<EOS>"]


def test_labels_that_are_whole_numbers_are_sorted_by_value():
    assert sorted_labels(["10", "9", "9", "-1"]) == ["-1", "9", "10"]
    assert sorted_labels(["10", "9", "b"]) == ["10", "9", "b"]
    assert sorted_labels(["1", "01", "001"]) == ["001", "01", "1"]


def test_label_token_spells_the_label():
    assert label_token("7") == "<CLS_7>"


@pytest.mark.parametrize(
    "label", [True, 1.5, None, "", " \u3000\n", [1], {}, "\ud800", "x" * 996, 10**996]
)
def test_what_no_token_can_hold_is_no_label(label):
    with pytest.raises(ValueError, match=r"^label ") as caught:
        label_text(label)
    assert len(str(caught.value)) < 200


NAMES = st.text(st.sampled_from(" _\u3000\t.>"), max_size=5) | st.text(max_size=3)


@given(st.lists(NAMES | st.integers(-2, 2)))
def test_labels_have_one_token_only_where_they_differ_in_whitespace_alone(labels):
    names, given_labels = LabelNames(), {}
    for place, label in enumerate(labels):
        try:
            spelling = names.add(label, f"line {place}")
        except ValueError:
            assert not str(label).split()
            continue
        except UserError as error:
            other = next(o for o in given_labels if label_text(o) == label_text(label))
            assert other.split() != str(label).split()
            assert str(error).startswith(f"line {place}: the label ")
            assert f" of line {given_labels[other]}, " in str(error)
            continue
        token = label_token(label_text(spelling))
        assert token.encode().split() == [token.encode()]
        given_labels.setdefault(str(label), place)
        assert spelling == next(o for o in given_labels if label_text(o) == label_text(label))
    by_name = {}
    for label in given_labels:
        by_name.setdefault(label_text(label), set()).add(tuple(label.split()))
    assert all(len(spellings) == 1 for spellings in by_name.values())
    assert bool(names.notes()) == any(label != label_text(label) for label in given_labels)
