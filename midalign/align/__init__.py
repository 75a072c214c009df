"""The alignment objective and what it needs: tensors in, tensors out."""
