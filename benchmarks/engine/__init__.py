"""What one inference costs on each core: instructions, bytes and stack, against targets and rivals."""
