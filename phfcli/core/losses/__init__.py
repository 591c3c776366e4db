"""The mathematics of the method: pure functions of tensors, with the gradient to the student only."""
