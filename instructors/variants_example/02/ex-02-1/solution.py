def batch_norm_last(x, gamma, beta, eps=1e-5):
    """BN with batch statistics; x: (N, ..., C), channels last."""
    dims = tuple(range(x.dim() - 1))
    mean = x.mean(dim=dims)
    var = x.var(dim=dims, correction=0)
    return gamma * (x - mean) / torch.sqrt(var + eps) + beta
