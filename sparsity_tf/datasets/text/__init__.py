"""Data sets of text, vocabularies, and the way from sentences to batches."""
