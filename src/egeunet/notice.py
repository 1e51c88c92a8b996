"""What is said where a mask could be taken for more than it is."""

NOTICE = "Research use only; not a medical device or a diagnosis."
