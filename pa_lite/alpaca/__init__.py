"""Answers compared by a judge: prompts, outputs, the judge, annotations and win rates, in the forms of AlpacaEval."""
