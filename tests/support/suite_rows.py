"""Invented rows in the schema of each task's data set, and the prompt that the first scored one must become.

ROWS: task -> split -> rows. In triviaqa a scored question is also a possible exemplar, which must be skipped.
EXPECTED: task -> (prompt with one shot, continuations or accepted answers, the right one's index or -1).
"""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]


def _options(*texts: str, letters: str = "ABCDE") -> dict[str, list[str]]:
    return {"text": list(texts), "label": list(letters[: len(texts)])}


def _arc(question: str, key: str, *texts: str, letters: str = "ABCDE") -> dict[str, Any]:
    return {"id": "x", "question": question, "choices": _options(*texts, letters=letters), "answerKey": key}


def _mmlu(subject: str, question: str, answer: int) -> dict[str, Any]:
    return {"question": question, "subject": subject, "choices": ["one", "two", "three", "four"], "answer": answer}


def _drop(question: str, *answers: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose first answer is the gold one, and the others the validated ones, as parallel lists."""
    date = {"day": "", "month": "", "year": ""}
    full = [{"number": "", "date": date, "spans": [], **a} for a in answers]
    validated = {key: [a[key] for a in full[1:]] for key in ("number", "date", "spans")}
    passage = "Mill FC scored twice, then three times."
    return {"query_id": "q", "section_id": "s", "passage": passage, "question": question, "answer": full[0],
            "validated_answers": validated}  # fmt: skip


def _trivia(question: str, value: str, *aliases: str) -> dict[str, Any]:
    answer = {"value": value, "aliases": [value, *aliases], "normalized_aliases": [], "type": "x"}
    return {"question": question, "question_id": "x", "answer": answer}


def _squad(question: str, *texts: str) -> dict[str, Any]:
    answers = {"text": list(texts), "answer_start": [0 for _ in texts]}
    return {"id": "x", "title": "Tides", "context": "The moon pulls the sea.", "question": question, "answers": answers}


def _race(question: str, answer: str) -> dict[str, Any]:
    options = ["a kite", "a boat", "a bell", "a drum"]
    return {"example_id": "x", "article": "Ana built a boat.", "question": question, "options": options,
            "answer": answer}  # fmt: skip


def _hellaswag(activity: str, a: str, b: str, label: str, *endings: str) -> dict[str, Any]:
    return {"ind": 1, "activity_label": activity, "ctx_a": a, "ctx_b": b, "ctx": f"{a} {b}", "endings": list(endings),
            "label": label}  # fmt: skip


def _tagged(text: str, *tags: int) -> dict[str, Any]:
    tokens = text.split()
    return {"id": "x", "tokens": tokens, "ner_tags": [*tags, *([0] * (len(tokens) - len(tags)))]}


def _massive(scenario: int, annotated: str) -> dict[str, Any]:
    parts = [p.split(" : ")[-1] for p in annotated.replace("]", "[").split("[")]
    return {"id": "x", "locale": "en-US", "scenario": scenario, "utt": "".join(parts), "annot_utt": annotated}


ROWS: dict[str, dict[str, Rows]] = {
    "mmlu": {
        "dev": [_mmlu("marine_biology", "Whales are?", 2), _mmlu("law", "A tort is?", 0), _mmlu("law", "Bail is?", 1)],
        "test": [_mmlu("law", "A writ is?", 1), _mmlu("marine_biology", "Krill are?", 3), _mmlu("law", "A pact is", 0)],
    },
    "triviaqa": {
        "train": [_trivia("Which gas glows red?", "Neon"), _trivia("Which saint names the city of the arch?", "x")],
        "validation": [_trivia("Which saint names the city of the arch?", "St. Louis", "Saint Louis")],
    },
    "nq_open": {
        "train": [{"question": "who mended the bell", "answer": ["the smith", "Ada"]}],
        "validation": [{"question": "where is the old mill", "answer": ["Leyden"]}],
    },
    "sciq": {
        "train": [{"question": "What melts?", "support": "Ice melts.", "distractor1": "sand", "distractor2": "salt",
                   "distractor3": "iron", "correct_answer": "ice"}],
        "test": [{"question": "What rusts?", "support": "", "distractor1": "gold", "distractor2": "wood",
                  "distractor3": "clay", "correct_answer": "iron"}],
    },
    "hellaswag": {
        "train": [_hellaswag("Rowing", "She takes the oars.", "she", "1", "sleeps.", "rows off.", "sings.", "reads.")],
        "validation": [_hellaswag("Baking bread", "Knead [step] the dough. [title] Let it rest.", "then YOU", "2",
                                  "fly.", "swim  off.", "bake it [substeps] at noon.", "sell it.")],
    },
    "piqa": {
        "train": [{"goal": "Dry a shoe", "sol1": "fill it with paper", "sol2": "fill it with soup", "label": 0}],
        "validation": [{"goal": "Cut bread", "sol1": "use a spoon", "sol2": "use a knife", "label": 1}],
    },
    "winogrande": {
        "train": [{"sentence": "Ann thanks Eve, for _ helped.", "option1": "Ann", "option2": "Eve", "answer": "2"}],
        "validation": [{"sentence": "The cup fits the box because the _ is small.", "option1": "cup",
                        "option2": "box", "answer": "1"}],
    },
    "openbookqa": {
        "train": [{"id": "x", "question_stem": "A lamp gives", "choices": _options("light", "wool", "rain", "salt"),
                   "answerKey": "A"}],
        "test": [{"id": "x", "question_stem": "A plant drinks", "choices": _options("sand", "water", "glass", "air"),
                  "answerKey": "B "}],
    },
    "commonsense_qa": {
        "train": [{"id": "x", "question": "Where do boats rest?", "question_concept": "boat",
                   "choices": _options("harbour", "oven", "attic", "shelf", "drawer"), "answerKey": "A"}],
        "validation": [{"id": "x", "question": "What keeps rain off?", "question_concept": "rain",
                        "choices": _options("fork", "roof", "song", "lamp", "shoe"), "answerKey": "B"}],
    },
    "arc_easy": {
        "train": [_arc("What is cold?", "B", "fire", "ice", "steam")],
        "test": [_arc("What is hot?", "3", "ice", "snow", "fire", "rain", letters="12345")],
    },
    "arc_challenge": {
        "train": [_arc("Which orbits the sun?", "A", "a planet", "a cloud", "a tide", "a wind")],
        "test": [_arc("Which one is a metal?", "D", "wood", "chalk", "cloth", "tin")],
    },
    "rte": {
        "train": [{"sentence1": "Ana owns a red boat.", "sentence2": "Ana owns a boat.", "label": 0, "idx": 0}],
        "validation": [{"sentence1": "It rained.", "sentence2": "It was dry.", "label": 1, "idx": 0}],
    },
    "boolq": {
        "train": [{"passage": "Tin is soft.", "question": "is tin soft", "label": 1, "idx": 0}],
        "validation": [{"passage": "The mill burnt down.", "question": "does the mill stand", "label": 0, "idx": 0}],
    },
    "sst2": {
        "train": [{"sentence": "a warm and clever film ", "label": 1, "idx": 0}],
        "validation": [{"sentence": "two dull hours ", "label": 0, "idx": 0}],
    },
    "bbh": {"test": [{"input": f"Sort the words: {w}", "target": " ".join(sorted(w.split()))}
                     for w in ("pear fig", "oak elm", "tin lead")]},
    "gsm8k": {
        "train": [{"question": "Two bags hold 3 nuts each. How many?",
                   "answer": "Two bags are 2*3=<<2*3=6>>6 nuts.\nSo it is 6.\n#### 6"}],
        "test": [{"question": "What is $1,250 less $1,300?", "answer": "1250-1300=<<1250-1300=-50>>-50\n#### -50"}],
    },
    "squadv2": {
        "train": [_squad("Who painted it?")],
        "validation": [_squad("What pulls the sea?", "The moon", "moon"), _squad("Who sailed?")],
    },
    "drop": {
        "train": [_drop("Who scored?", {"spans": ["Mill FC", "Dale"]})],
        "validation": [_drop("How many goals?", {"number": "5"}, {"number": "5"}, {"spans": ["five goals"]}),
                       _drop("When?", {"date": {"day": "3", "month": "May", "year": "1901"}})],
    },
    "race": {"train": [_race("What did Ana see?", "B")], "test": [_race("What did Ana build?", "B")]},
    "fpb": {
        "train": [{"sentence": "Profit doubled.", "sentiment": "positive", "label": 2}],
        "test": [{"sentence": "Sales fell by a third.", "sentiment": "negative", "label": 0}],
    },
    "headlines": {
        "train": [{"News": "gold climbs", "Price Sentiment": "positive", "Price or Not": 1}],
        "test": [{"News": "gold slips at noon", "Price Sentiment": "negative", "Price or Not": 1}],
    },
    "few_nerd": {
        "train": [_tagged("Ada sails .", 7)],
        "test": [_tagged("Ada Byron met Dale Mill FC , then Ada Byron .", 7, 7, 0, 7, 5, 5, 0, 0, 7, 7),
                 _tagged("It rained .")],
    },
    "wikineural": {
        "train_en": [_tagged("It rained .")],
        "test_en": [_tagged("Ada Byron Eve sails to Leyden .", 1, 2, 1, 0, 0, 5)],
    },
    "massive_slots": {
        "train": [_massive(0, "wake me at [time : six] on [date : may  day]"), _massive(3, "play [song_name : tides]")],
        "test": [_massive(3, "play [song_name : low tide] by [artist_name : eve]"), _massive(0, "stop the alarm")],
    },
    "e2e_attributes": {
        "train": [{"meaning_representation": "name[The Mill], food[Thai]", "human_reference": "The Mill is Thai."}],
        "test": [{"meaning_representation": "name[Alimentum], customer rating[5 out of 5], familyFriendly[no]",
                  "human_reference": "Adults rate Alimentum 5 out of 5."}],
    },
}  # fmt: skip

_LETTERED = "A. one\nB. two\nC. three\nD. four\nAnswer:"
_BOAT = "A. a kite\nB. a boat\nC. a bell\nD. a drum\nAnswer:"
_MOVE = "\nQuestion: Is the gold price said to go up, down, steady, or none of these?\nAnswer:"
_FEEL = "\nQuestion: Is this sentence positive or negative?\nAnswer:"
_TONE = "\nQuestion: Is the sentiment negative, neutral or positive?\nAnswer:"
_TIDES = "Title: Tides\n\nBackground: The moon pulls the sea.\n\nQuestion: "
_MILL = "Passage: Mill FC scored twice, then three times.\nQuestion: "
_A_TO_D = (" A", " B", " C", " D")

EXPECTED: dict[str, tuple[str, tuple[Any, ...], int]] = {
    "mmlu": (
        "The following are multiple choice questions (with answers) about law.\n\n"
        f"A tort is?\n{_LETTERED} A\n\nA writ is?\n{_LETTERED}",
        _A_TO_D, 1,
    ),
    "triviaqa": (
        "Question: Which gas glows red?\nAnswer: Neon\n\n"
        "Question: Which saint names the city of the arch?\nAnswer:",
        (("St. Louis",), ("St. Louis",), ("Saint Louis",)), -1,
    ),
    "nq_open": (
        "Answer these questions:\n\nQ: who mended the bell?\nA: the smith\nQ: where is the old mill?\nA:",
        (("Leyden",),), -1,
    ),
    "sciq": (
        "Ice melts.\nQuestion: What melts?\nAnswer: ice\n\n\nQuestion: What rusts?\nAnswer:",
        (" gold", " wood", " clay", " iron"), 3,
    ),
    "hellaswag": (
        "Rowing: She takes the oars. She rows off.\n\nBaking bread: Knead the dough.. Let it rest. Then you",
        (" fly.", " swim off.", " bake it at noon.", " sell it."), 2,
    ),
    "piqa": (
        "Question: Dry a shoe\nAnswer: fill it with paper\n\nQuestion: Cut bread\nAnswer:",
        (" use a spoon", " use a knife"), 1,
    ),
    "winogrande": (
        "Ann thanks Eve, for Eve helped.\n\nThe cup fits the box because the cup", (" is small.", " is small."), 0,
    ),
    "openbookqa": ("A lamp gives light\n\nA plant drinks", (" sand", " water", " glass", " air"), 1),
    "commonsense_qa": (
        "Question: Where do boats rest?\nA. harbour\nB. oven\nC. attic\nD. shelf\nE. drawer\nAnswer: A\n\n"
        "Question: What keeps rain off?\nA. fork\nB. roof\nC. song\nD. lamp\nE. shoe\nAnswer:",
        (*_A_TO_D, " E"), 1,
    ),
    "arc_easy": (
        "Question: What is cold?\nAnswer: ice\n\nQuestion: What is hot?\nAnswer:",
        (" ice", " snow", " fire", " rain"), 2,
    ),
    "arc_challenge": (
        "Question: Which orbits the sun?\nAnswer: a planet\n\nQuestion: Which one is a metal?\nAnswer:",
        (" wood", " chalk", " cloth", " tin"), 3,
    ),
    "rte": (
        "Ana owns a red boat.\nQuestion: Ana owns a boat. True or False?\nAnswer: True\n\n"
        "It rained.\nQuestion: It was dry. True or False?\nAnswer:",
        (" True", " False"), 1,
    ),
    "boolq": (
        "Tin is soft.\nQuestion: is tin soft?\nAnswer: yes\n\n"
        "The mill burnt down.\nQuestion: does the mill stand?\nAnswer:",
        (" no", " yes"), 0,
    ),
    "sst2": (
        f"a warm and clever film {_FEEL} positive\n\ntwo dull hours {_FEEL}", (" negative", " positive"), 0,
    ),
    "bbh": (
        "Give the truth value of an expression of True, False, and, or, not.\n\n"
        "Q: Sort the words: pear fig\nA: fig pear\n\nQ: Sort the words: oak elm\nA:",
        (("elm oak",),), -1,
    ),
    "gsm8k": (
        "Q: Two bags hold 3 nuts each. How many?\nA: Two bags are 2*3=6 nuts. So it is 6. The answer is 6.\n\n"
        "Q: What is $1,250 less $1,300?\nA:",
        (("-50",),), -1,
    ),
    "squadv2": (
        f"{_TIDES}Who painted it?\n\nAnswer: unanswerable\n\n{_TIDES}What pulls the sea?\n\nAnswer:",
        (("The moon",), ("moon",)), -1,
    ),
    "drop": (
        f"{_MILL}Who scored?\nAnswer: Mill FC, Dale\n\n{_MILL}How many goals?\nAnswer:", (("5",), ("five goals",)), -1,
    ),
    "race": (
        f"Article: Ana built a boat.\n\nQuestion: What did Ana see?\n{_BOAT} B\n\n"
        f"Article: Ana built a boat.\n\nQuestion: What did Ana build?\n{_BOAT}",
        _A_TO_D, 1,
    ),
    "fpb": (
        f"Profit doubled.{_TONE} positive\n\nSales fell by a third.{_TONE}", (" negative", " neutral", " positive"), 0,
    ),
    "headlines": (
        f"gold climbs{_MOVE} up\n\ngold slips at noon{_MOVE}", (" up", " down", " steady", " none"), 1,
    ),
    "few_nerd": (
        "List the names in each text with their types: art, building, event, location, organization, other, person, "
        "product.\n\nText: Ada sails .\nNames: person: Ada\n\n"
        "Text: Ada Byron met Dale Mill FC , then Ada Byron .\nNames:",
        (("person: Ada Byron", "person: Dale", "organization: Mill FC"),), -1,
    ),
    "wikineural": (
        "List the names in each text with their types: person, organization, location, misc.\n\n"
        "Text: It rained .\nNames: none\n\nText: Ada Byron Eve sails to Leyden .\nNames:",
        (("person: Ada Byron", "person: Eve", "location: Leyden"),), -1,
    ),
    "massive_slots": (
        "List the slots of each request.\n\nRequest: play tides\nSlots: song_name: tides\n\n"
        "Request: play low tide by eve\nSlots:",
        (("song_name: low tide", "artist_name: eve"),), -1,
    ),
    "e2e_attributes": (
        "List the attributes in each text: name, eatType, food, priceRange, customer rating, area, familyFriendly, "
        "near.\n\nText: The Mill is Thai.\nAttributes: name: The Mill; food: Thai\n\n"
        "Text: Adults rate Alimentum 5 out of 5.\nAttributes:",
        (("name: Alimentum", "customer rating: 5 out of 5", "familyFriendly: no"),), -1,
    ),
}  # fmt: skip
