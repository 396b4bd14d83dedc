"""What the algorithms that change masks have in common."""
