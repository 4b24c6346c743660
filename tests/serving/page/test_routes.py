"""The examples that the page offers for the embedded pair show what lam does."""

from __future__ import annotations

from pa_lite.serving.page.routes import _OF_DEMO
from tests.support.served import Lams


def test_examples_of_the_embedded_pair_differ_along_lam() -> None:
    """Base does not follow the instruction; from the examples, only the model in between learns."""
    lams = Lams()
    try:
        (_, question, _), (_, text, _) = _OF_DEMO
        followed, learned = [], []
        for lam in (0.0, 0.6, 1.0):
            model = lams.model(lam)
            followed.append(model.text(lams.tokens(lam, lams.prompt(question), 8)).strip())
            learned.append(model.text(lams.tokens(lam, model.tokenize(text, True), 3)).splitlines()[0].strip())
    finally:
        lams.close()
    assert followed[0] not in ("tailor", "tailor.")
    assert followed[1:] == ["tailor", "tailor"]
    assert learned[1] == "drink"
    assert "drink" not in learned[0]
    assert "drink" not in learned[2]
