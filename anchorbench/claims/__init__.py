"""Claims of papers, one per file: what is claimed, the experiment that tries it, and the rule by which it is judged."""
