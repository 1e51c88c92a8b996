"""Statement of intended use, shown wherever a mask could be taken for a diagnosis."""

NOTICE = "Research use only; not a medical device or a diagnosis."
