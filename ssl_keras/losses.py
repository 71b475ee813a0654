"""Losses that objectives share. The contrastive ones compare an example with those of all replicas.

The anchors are the replica's own examples, the candidates those of all replicas. Loss and gradient therefore do not
depend on the number of replicas. `weight` 0 marks padding, which is not a candidate.

Shapes: `b` this replica's examples, `B` all replicas', `D` features, `P` positions.
"""

import math

import tensorflow as tf

MIN_SQUARE = 1e-6  # smallest squared norm to divide by, so that the gradient of a row of zeros fits into float16
GATHERED = "gathered"  # name of the ops in one replica's graph whose outputs would be gathered from all replicas
KNOTS, MAX_FREQUENCY = 17, 3.0  # of the characteristic function in `sigreg`
FAR = -1e9  # score of a masked candidate; finite, so that a row without candidates gives no NaN


def all_gather(x):
    """Gathers the rows of all replicas in order, (b, …) -> (B, …); gradients flow back to the replica of each row."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return tf.identity(x, GATHERED)
    # A sum over replicas of rows padded with zeros: TensorFlow's own all_gather fails under
    # MultiWorkerMirroredStrategy inside the loop over steps.
    place = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync, dtype=x.dtype)
    placed = tf.reshape(place, (-1, *[1] * len(x.shape))) * x  # (replicas, b, …)
    together = replica.all_reduce(tf.distribute.ReduceOp.SUM, placed)
    return tf.reshape(together, (-1, *x.shape[1:]))


def l2_normalize(x):
    """Scales rows to length 1, (…, D) -> float32 (…, D); rows shorter than 1e-3 stay shorter than 1."""
    return tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1, epsilon=MIN_SQUARE)


def own_rows(count):
    """Returns the indices of this replica's `count` rows among the gathered ones, int32 (b,)."""
    replica = tf.distribute.get_replica_context()
    index = 0 if replica is None else replica.replica_id_in_sync_group
    return index * count + tf.range(count)


def smoothed_cross_entropy(label, logits, smoothing=0.0):
    """Softmax cross-entropy in nats of labels (…,) and logits (…, Y): (…,), with label smoothing (Szegedy et al. 2016,
    section 7): the fraction `smoothing` of the target is spread over all classes."""
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    if not smoothing:
        return loss
    uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)  # mean of -log P over classes
    return (1 - smoothing) * loss + smoothing * uniform


def nt_xent(first, second, weight, temperature):
    """Normalized temperature-scaled cross-entropy, (b,) nats: InfoNCE over 2B − 1 candidates.

    Chen et al. 2020 (SimCLR), equation 1; the mean over an example's two anchors.

    Args:
        first, second: (b, D) projections of two views, of any norm.
        weight: (b,) 0 for padding.
        temperature: divides the cosine similarities.
    """
    views = tf.stack([l2_normalize(first), l2_normalize(second)], 1)  # (b, 2, D)
    count, dimensions = tf.shape(views)[0], views.shape[-1]
    anchors = tf.reshape(views, (-1, dimensions))  # (2b, D)
    candidates = tf.reshape(all_gather(views), (-1, dimensions))  # (2B, D): the two views of an example are neighbors
    present = tf.repeat(all_gather(weight) > 0, 2)  # (2B,)
    scores = tf.matmul(anchors, candidates, transpose_b=True) / temperature  # (2b, 2B)
    own = 2 * tf.repeat(own_rows(count), 2) + tf.tile([0, 1], [count])  # (2b,)
    partner = tf.bitwise.bitwise_xor(own, 1)
    columns = tf.range(tf.shape(candidates)[0])
    scores = tf.where(present & (columns != own[:, None]), scores, FAR)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(partner, scores)  # (2b,)
    return tf.reduce_mean(tf.reshape(losses, (-1, 2)), axis=1)


def top1(first, second, weight, same=None):
    """Top-1 accuracy of retrieving second embeddings (b, D) by the first ones: 1.0 or 0.0 for each, (b,).

    With `same`, see `clip`, an embedding of an example of the same concept counts as well.
    """
    candidates = all_gather(tf.stop_gradient(l2_normalize(second)))
    similarity = tf.matmul(l2_normalize(first), candidates, transpose_b=True)  # (b, B)
    nearest = tf.argmax(tf.where(all_gather(weight) > 0, similarity, FAR), axis=1, output_type=tf.int32)
    if same is None:
        return tf.cast(tf.equal(nearest, own_rows(tf.shape(first)[0])), tf.float32)
    # tf.equal, since the result of `==` has no known rank if one of the shapes is only partly known.
    return tf.cast(tf.reduce_all(tf.equal(tf.gather(all_gather(same), nearest), same), -1), tf.float32)


def uniformity(x, weight):
    """Returns the log of the mean of exp(−2‖a − b‖²) over pairs of normalized rows of all replicas, a scalar.

    Wang & Isola 2020, equation 4. It is 0 if all rows are equal or there is no pair. It has no gradient.

    Args:
        x: (b, D) float32, of length 1.
        weight: (b,) 0 for padding.
    """
    x, present = all_gather(tf.stop_gradient(x)), tf.cast(all_gather(weight) > 0, tf.float32)  # (B, D), (B,)
    pairs = tf.linalg.set_diag(present[:, None] * present, tf.zeros_like(present))  # (B, B)
    squares = 2 - 2 * tf.matmul(x, x, transpose_b=True)
    count = tf.reduce_sum(pairs)
    mean = tf.math.divide_no_nan(tf.reduce_sum(pairs * tf.exp(-2 * squares)), count)
    return tf.where(count > 0, tf.math.log(tf.maximum(mean, 1e-30)), 0.0)


def local_global(whole, local, weight, temperature):
    """InfoNCE between an image's global features and the local features of its other view, (b,) nats.

    After Bachman et al. 2019 (AMDIM), section 3.3: the positive is one position of the image's other
    view, the negatives are all positions of all other images; the loss is the mean over positives.
    Departure: cosine similarity over a temperature, where the paper clips inner products.

    Args:
        whole: (b, D) projections of whole views.
        local: (b, P, D) projections of the positions of the other views.
        weight: (b,) 0 for padding.
        temperature: divides the cosine similarities.
    """
    whole, local = l2_normalize(whole), l2_normalize(local)
    positive = tf.einsum("bd,bpd->bp", whole, local) / temperature  # (b, P)
    candidates = all_gather(local)  # (B, P, D)
    positions = tf.shape(local)[1]
    scores = tf.matmul(whole, tf.reshape(candidates, (-1, local.shape[-1])), transpose_b=True) / temperature
    scores = tf.reshape(scores, (-1, tf.shape(candidates)[0], positions))  # (b, B, P)
    others = (all_gather(weight) > 0) & (tf.range(tf.shape(candidates)[0]) != own_rows(tf.shape(whole)[0])[:, None])
    negative = tf.reduce_logsumexp(tf.where(others[..., None], scores, FAR), axis=(1, 2))  # (b,)
    return tf.reduce_mean(tf.nn.softplus(negative[:, None] - positive), axis=1)


def clip(first, second, weight, scale, same=None):
    """Symmetric InfoNCE between two modalities, (b,) nats: the mean of both directions.

    Radford et al. 2021 (CLIP), figure 3.

    Args:
        first, second: (b, D) embeddings of the two modalities, of any norm.
        weight: (b,) 0 for padding.
        scale: multiplies the cosine similarities; one over the temperature.
        same: (b, K) int32; examples with equal rows are one concept and not each other's negatives. None: all differ.
    """
    candidate, own = _candidates(tf.shape(first)[0], weight, same)
    first, second = l2_normalize(first), l2_normalize(second)

    def one_way(anchors, others):
        scores = scale * tf.matmul(anchors, all_gather(others), transpose_b=True)  # (b, B)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(own, tf.where(candidate, scores, FAR))

    return (one_way(first, second) + one_way(second, first)) / 2


def siglip(first, second, weight, scale, bias, same=None):
    """Sigmoid loss between two modalities, (b,) nats: the binary cross-entropies of all pairs, summed over candidates.

    Zhai et al. 2023 (SigLIP), section 3.2. The arguments are those of `clip`, and `bias`, added to scaled similarities.
    """
    candidate, own = _candidates(tf.shape(first)[0], weight, same)
    scores = scale * tf.matmul(l2_normalize(first), all_gather(l2_normalize(second)), transpose_b=True) + bias  # (b, B)
    sign = tf.where(tf.range(tf.shape(scores)[1]) == own[:, None], 1.0, -1.0)
    return tf.reduce_sum(tf.where(candidate, tf.nn.softplus(-sign * scores), 0.0), axis=1)


def _candidates(count, weight, same):
    """Returns a mask of each example's candidates, bool (b, B), and the indices of the examples themselves, (b,)."""
    own, present = own_rows(count), all_gather(weight) > 0
    itself = tf.range(tf.shape(present)[0]) == own[:, None]
    if same is None:
        return present | itself, own
    alike = tf.reduce_all(same[:, None] == all_gather(same), -1)  # (b, B)
    return (present & ~alike) | itself, own


def vicreg(first, second, weight, invariance=25.0, variance=25.0, covariance=1.0):
    """VICReg: variance, invariance, covariance (Bardes et al. 2022, equations 1 to 6), (b,). It needs no negatives.

    The statistics are over the examples of all replicas. The variance and covariance terms belong to the whole
    batch; each example carries an equal part of them.

    Args:
        first, second: (b, D) projections of two views.
        weight: (b,) 0 for padding.
        invariance, variance, covariance: weights of the three terms.
    """
    first, second = (tf.cast(v, tf.float32) for v in (first, second))
    distance = tf.reduce_mean(tf.square(first - second), axis=1)  # (b,)
    present = tf.cast(all_gather(weight) > 0, tf.float32)[:, None]  # (B, 1)
    count = tf.reduce_sum(present)
    spread, redundancy = 0.0, 0.0
    for view in (first, second):
        view = all_gather(view)  # (B, D)
        mean = tf.math.divide_no_nan(tf.reduce_sum(view * present, axis=0), count)
        centered = (view - mean) * present
        matrix = tf.math.divide_no_nan(tf.matmul(centered, centered, transpose_a=True), count - 1)  # (D, D)
        diagonal = tf.linalg.diag_part(matrix)
        spread += tf.reduce_mean(tf.nn.relu(1.0 - tf.sqrt(diagonal + 1e-4))) / 2
        redundancy += (tf.reduce_sum(tf.square(matrix)) - tf.reduce_sum(tf.square(diagonal))) / view.shape[-1]
    return invariance * distance + variance * spread + covariance * redundancy


def lejepa(views, num_global, weight, slices, share=0.05):
    """LeJEPA (Balestriero & LeCun 2025): (1 − share)·invariance + share·`sigreg`, (b,). It needs no negatives.

    The invariance is the mean squared distance of all views to the mean of the global ones.

    Args:
        views: (V, b, D) projections, those of the global views first.
        num_global: number of global views.
        weight: (b,) 0 for padding.
        slices: (D, S) unit columns, the same on all replicas, see `unit_slices`.
        share: weight of `sigreg`, in [0, 1].
    """
    views = tf.cast(views, tf.float32)
    center = tf.reduce_mean(views[:num_global], 0)
    distance = tf.reduce_mean(tf.square(views - center), axis=(0, 2))  # (b,)
    return (1 - share) * distance + share * sigreg(views, weight, slices)


def sigreg(views, weight, slices):
    """Epps-Pulley distance of the examples of all replicas from a standard Gaussian, a scalar (ibid., section 4).

    Per view and slice it is N·∫|φ̂(t) − e^(−t²/2)|²·e^(−t²/2) dt over [−3, 3], by the trapezoidal rule on 17 points of
    the non-negative half; φ̂ is the empirical characteristic function of the N sliced projections. The mean over views
    and slices is returned.

    Args:
        views: (V, b, D) projections, float32.
        weight: (b,) 0 for padding.
        slices: (D, S) unit columns.
    """
    present = tf.cast(weight > 0, tf.float32)
    step = MAX_FREQUENCY / (KNOTS - 1)
    angle = step * tf.einsum("vbd,ds->vbs", views, slices)
    turn_real, turn_imaginary = tf.cos(angle), tf.sin(angle)
    real, imaginary = tf.ones_like(angle), tf.zeros_like(angle)
    sums = []
    for knot in range(KNOTS):
        if knot:  # e^(i·knot·angle) by one more turn, since sines of all knots would cost most of the loss
            real, imaginary = (
                real * turn_real - imaginary * turn_imaginary,
                real * turn_imaginary + imaginary * turn_real,
            )
        sums.append([tf.einsum("vbs,b->vs", part, present) for part in (real, imaginary)])
    sums, count = _sum_over_replicas(tf.stack(sums)), _sum_over_replicas(tf.reduce_sum(present))
    mean = tf.math.divide_no_nan(sums, count)  # (knots, 2, V, S)
    frequency = step * tf.range(KNOTS, dtype=tf.float32)
    gaussian = tf.exp(-tf.square(frequency) / 2)[:, None, None]
    error = tf.square(mean[:, 0] - gaussian) + tf.square(mean[:, 1])
    ends = tf.one_hot([0, KNOTS - 1], KNOTS)
    trapezoid = step * (2 - tf.reduce_sum(ends, 0))[:, None, None] * gaussian  # both halves of the symmetric integral
    return count * tf.reduce_mean(tf.reduce_sum(trapezoid * error, 0))


def unit_slices(seed, features, count):
    """Returns random unit columns (features, count) float32 that depend on `seed` (2,) alone."""
    slices = tf.random.stateless_normal((features, count), seed)
    return slices / tf.norm(slices, axis=0)


def _sum_over_replicas(x):
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return x
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, x)


def nearest_distance(images, weight):
    """Returns the mean distance of images (b, …) to their nearest neighbors in the global batch, without weight 0."""
    x = tf.reshape(tf.stop_gradient(tf.cast(images, tf.float32)), (-1, math.prod(images.shape[1:])))
    candidates, present = all_gather(x), all_gather(weight) > 0
    center = tf.reduce_mean(candidates, axis=0)  # without centering, distances of similar images would lose all digits
    x, candidates = x - center, candidates - center
    squares = tf.reduce_sum(tf.square(candidates), axis=1)
    distance = tf.reduce_sum(tf.square(x), axis=1)[:, None] - 2 * tf.matmul(x, candidates, transpose_b=True) + squares
    itself = own_rows(tf.shape(x)[0])[:, None] == tf.range(tf.shape(candidates)[0])
    distance = tf.where(present & ~itself, distance, distance.dtype.max)
    nearest = tf.sqrt(tf.maximum(tf.reduce_min(distance, axis=1), 0.0))
    nearest, weight = all_gather(nearest), all_gather(weight)
    return tf.reduce_sum(weight * nearest) / tf.reduce_sum(weight)


def gradient_norms(function, points):
    """Returns differentiable gradient norms ‖∇function‖ at points (b, H, W, C): (b,) (Gulrajani et al. 2017)."""
    with tf.GradientTape() as tape:
        tape.watch(points)
        score = tf.reduce_sum(function(points, training=True))
    squares = tf.reduce_sum(tf.square(tape.gradient(score, points)), axis=(1, 2, 3))
    return tf.sqrt(squares + 1e-12)  # the square root has an infinite gradient at 0
