"""How an interrupted command ends."""

INTERRUPTED = 130
SENTENCE = "anchorbench: interrupted; finished runs are kept, and the same command resumes the rest\n"
