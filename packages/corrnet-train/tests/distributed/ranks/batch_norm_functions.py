"""torch's functions for batch norm over several GPUs, as plain arithmetic that a CPU can do."""

AXES, SHAPE = (0, 2, 3, 4), (1, -1, 1, 1, 1)


def stats(x, eps):
    return x.mean(AXES), (x.var(AXES, correction=0) + eps).rsqrt()


def gather_stats_with_counts(x, means, deviations, running_mean, running_var, momentum, eps, counts):
    counts, total = counts[:, None], counts.sum()
    mean = (means * counts).sum(0) / total
    variance = ((deviations**-2 - eps + (means - mean) ** 2) * counts).sum(0) / total
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def elemt(x, weight, bias, mean, deviation, eps):
    return (x - mean.view(SHAPE)) * (deviation * weight).view(SHAPE) + bias.view(SHAPE)


def backward_reduce(gradient, x, mean, deviation, weight, of_input, of_weight, of_bias):
    total, product = gradient.sum(AXES), (gradient * (x - mean.view(SHAPE))).sum(AXES)
    return total, product, product * deviation, total


def backward_elemt(gradient, x, mean, deviation, weight, total, product, counts):
    total, product = ((values / counts.sum()).view(SHAPE) for values in (total, product))
    centered = gradient - total - (x - mean.view(SHAPE)) * deviation.view(SHAPE) ** 2 * product
    return centered * (deviation * weight).view(SHAPE)


ALL = {
    "stats": stats,
    "gather_stats_with_counts": gather_stats_with_counts,
    "elemt": elemt,
    "backward_reduce": backward_reduce,
    "backward_elemt": backward_elemt,
}
