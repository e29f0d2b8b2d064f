"""Exact and approximate inference as pure functions over tensors: no modules, no hidden state."""
