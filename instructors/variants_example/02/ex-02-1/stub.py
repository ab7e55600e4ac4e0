def batch_norm_last(x, gamma, beta, eps=1e-5):
    """BN with batch statistics; x: (N, ..., C), channels last."""
    ...  # your code here, about 5 lines
