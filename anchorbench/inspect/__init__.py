"""Analysis of trained models of any origin: their answers, their internals, and verdicts on both."""
