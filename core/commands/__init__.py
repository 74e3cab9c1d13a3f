"""What each `hapax` command does: reads its arguments, calls the library, says what it wrote."""
