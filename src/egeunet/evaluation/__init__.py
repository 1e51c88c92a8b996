"""How good a trained system is: scores, intervals, tests, figures."""
