"""Comparison of answers by a judge: prompts, outputs, judge, annotations and win rates, in AlpacaEval's formats."""
