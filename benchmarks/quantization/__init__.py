"""What quantization does to the return: the cases of docs/quantization.md, remade by one command."""
