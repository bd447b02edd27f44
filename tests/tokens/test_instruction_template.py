"""The prompt of an instruction: what the model reads before it answers."""

from hypothesis import given
from hypothesis import strategies as st

from smallgpt.tokens.instruction_template import instruction_prompt


def test_prompt_has_the_form_of_alpaca():
    assert instruction_prompt("Add.", "1 and 2") == (
        "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n"
    )
    assert instruction_prompt("Add.") == "### Instruction:\nAdd.\n\n### Response:\n"


@given(st.text(), st.sampled_from(["", " ", "\n\t"]))
def test_an_empty_input_leaves_no_trace(instruction, empty):
    assert instruction_prompt(instruction, empty) == instruction_prompt(instruction)


@given(st.text(), st.text())
def test_whitespace_at_the_ends_does_not_change_a_prompt(instruction, given_input):
    prompt = instruction_prompt(instruction, given_input)
    assert prompt == instruction_prompt(f" {instruction}\n", f"\t{given_input} ")
    assert prompt.endswith("### Response:\n")
