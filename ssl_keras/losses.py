"""Losses that objectives share; most compare views of the same examples, over the examples of all replicas.

Each replica has its own examples as anchors, and all replicas' as candidates: two replicas then
have the loss and the gradient of one. `weight` 0 marks padding, which is no candidate.

Shapes: `b` this replica's examples, `B` all replicas', `D` features, `P` positions.
"""

import math

import tensorflow as tf

MIN_SQUARE = 1e-6  # of a row's length: a row of zeros keeps a gradient that float16 can hold
GATHERED = "gathered"  # name of the ops, in a graph of one replica, whose outputs all replicas would see
FAR = -1e9  # a score that must not count; finite, so that a row of padding stays finite


def gathered(x):
    """(b, …) -> (B, …): the rows of all replicas in order; its gradient goes back to where they came from."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return tf.identity(x, GATHERED)
    # A sum of rows at their places, and zeros elsewhere: TensorFlow's all_gather fails under
    # MultiWorkerMirroredStrategy inside the loop over steps.
    place = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync, dtype=x.dtype)
    placed = tf.reshape(place, (-1, *[1] * len(x.shape))) * x  # (replicas, b, …)
    together = replica.all_reduce(tf.distribute.ReduceOp.SUM, placed)
    return tf.reshape(together, (-1, *x.shape[1:]))


def unit(x):
    """(…, D) -> float32 (…, D) of length 1; rows shorter than 1e-3 stay shorter."""
    return tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1, epsilon=MIN_SQUARE)


def own_rows(count):
    """int32 (b,): where this replica's rows are among the gathered ones."""
    replica = tf.distribute.get_replica_context()
    index = 0 if replica is None else replica.replica_id_in_sync_group
    return index * count + tf.range(count)


def smoothed_cross_entropy(label, logits, smoothing=0.0):
    """Softmax cross-entropy in nats of labels (…,) and logits (…, Y): (…,); a share `smoothing` of the target is spread
    over all classes (Szegedy et al. 2016, section 7)."""
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    if not smoothing:
        return loss
    uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)  # mean of -log P over classes
    return (1 - smoothing) * loss + smoothing * uniform


def nt_xent(first, second, weight, temperature):
    """Normalized temperature-scaled cross-entropy, (b,) nats: InfoNCE over 2B − 1 candidates.

    Chen et al. 2020 (SimCLR), equation 1; the mean of an example's two anchors.

    Args:
        first, second: (b, D) two views' projections, of any length.
        weight: (b,) 0 for padding.
        temperature: what cosine similarities are divided by.
    """
    views = tf.stack([unit(first), unit(second)], 1)  # (b, 2, D)
    count, dimensions = tf.shape(views)[0], views.shape[-1]
    anchors = tf.reshape(views, (-1, dimensions))  # (2b, D)
    candidates = tf.reshape(gathered(views), (-1, dimensions))  # (2B, D): an example's two views side by side
    present = tf.repeat(gathered(weight) > 0, 2)  # (2B,)
    scores = tf.matmul(anchors, candidates, transpose_b=True) / temperature  # (2b, 2B)
    own = 2 * tf.repeat(own_rows(count), 2) + tf.tile([0, 1], [count])  # (2b,)
    partner = tf.bitwise.bitwise_xor(own, 1)
    columns = tf.range(tf.shape(candidates)[0])
    scores = tf.where(present & (columns != own[:, None]), scores, FAR)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(partner, scores)  # (2b,)
    return tf.reduce_mean(tf.reshape(losses, (-1, 2)), axis=1)


def top1(first, second, weight, same=None):
    """float32 (b,): whether of all second embeddings (b, D) an example's own, or one of its concept (`same` as of
    `clip`), is the nearest to its first."""
    everyone = gathered(tf.stop_gradient(unit(second)))
    similarity = tf.matmul(unit(first), everyone, transpose_b=True)  # (b, B)
    nearest = tf.argmax(tf.where(gathered(weight) > 0, similarity, FAR), axis=1, output_type=tf.int32)
    if same is None:
        return tf.cast(tf.equal(nearest, own_rows(tf.shape(first)[0])), tf.float32)
    # Not `==`, whose result has no rank where one of the shapes is not quite known.
    return tf.cast(tf.reduce_all(tf.equal(tf.gather(gathered(same), nearest), same), -1), tf.float32)


def local_global(whole, local, weight, temperature):
    """InfoNCE between an image and the places of its other view, (b,) nats, the mean over places.

    In the spirit of Bachman et al. 2019 (AMDIM), section 3.3: the positive of an image is one
    place of its own other view; the negatives are all places of all other images. Departures:
    cosine similarity over a temperature, where the paper clips inner products.

    Args:
        whole: (b, D) projections of whole views.
        local: (b, P, D) projections of places of the other views.
        weight: (b,) 0 for padding.
        temperature: what cosine similarities are divided by.
    """
    whole, local = unit(whole), unit(local)
    positive = tf.einsum("bd,bpd->bp", whole, local) / temperature  # (b, P)
    everywhere = gathered(local)  # (B, P, D)
    places = tf.shape(local)[1]
    scores = tf.matmul(whole, tf.reshape(everywhere, (-1, local.shape[-1])), transpose_b=True) / temperature
    scores = tf.reshape(scores, (-1, tf.shape(everywhere)[0], places))  # (b, B, P)
    others = (gathered(weight) > 0) & (tf.range(tf.shape(everywhere)[0]) != own_rows(tf.shape(whole)[0])[:, None])
    negative = tf.reduce_logsumexp(tf.where(others[..., None], scores, FAR), axis=(1, 2))  # (b,)
    return tf.reduce_mean(tf.nn.softplus(negative[:, None] - positive), axis=1)


def clip(first, second, weight, scale, same=None):
    """The symmetric InfoNCE of two modalities, (b,) nats: an example's partner among all partners, both ways.

    Radford et al. 2021 (CLIP), figure 3.

    Args:
        first, second: (b, D) embeddings of the two modalities, of any length.
        weight: (b,) 0 for padding.
        scale: what cosine similarities are multiplied by, one over the temperature.
        same: (b, K) int32; examples with equal rows are one concept, and not each other's negatives. None: all differ.
    """
    candidate, own = _candidates(tf.shape(first)[0], weight, same)
    first, second = unit(first), unit(second)

    def one_way(anchors, others):
        scores = scale * tf.matmul(anchors, gathered(others), transpose_b=True)  # (b, B)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(own, tf.where(candidate, scores, FAR))

    return (one_way(first, second) + one_way(second, first)) / 2


def siglip(first, second, weight, scale, bias, same=None):
    """The sigmoid loss of two modalities, (b,) nats: of each pair, whether it is one; summed over candidates.

    Zhai et al. 2023 (SigLIP), section 3.2. Arguments as of `clip`, and the bias that is added to similarities.
    """
    candidate, own = _candidates(tf.shape(first)[0], weight, same)
    scores = scale * tf.matmul(unit(first), gathered(unit(second)), transpose_b=True) + bias  # (b, B)
    sign = tf.where(tf.range(tf.shape(scores)[1]) == own[:, None], 1.0, -1.0)
    return tf.reduce_sum(tf.where(candidate, tf.nn.softplus(-sign * scores), 0.0), axis=1)


def _candidates(count, weight, same):
    """(which of all replicas' examples each of ours is compared with, bool (b, B); which of them is itself, (b,))."""
    own, present = own_rows(count), gathered(weight) > 0
    itself = tf.range(tf.shape(present)[0]) == own[:, None]
    if same is None:
        return present | itself, own
    alike = tf.reduce_all(same[:, None] == gathered(same), -1)  # (b, B)
    return (present & ~alike) | itself, own


def vicreg(first, second, weight, invariance=25.0, variance=25.0, covariance=1.0):
    """Variance, invariance, covariance (Bardes et al. 2022, equations 1 to 6), (b,): no negatives.

    The statistics are those of all replicas' examples; every example of the batch bears an
    equal part of the terms that belong to the whole batch.

    Args:
        first, second: (b, D) two views' projections.
        weight: (b,) 0 for padding.
        invariance, variance, covariance: the three terms' weights.
    """
    first, second = (tf.cast(v, tf.float32) for v in (first, second))
    apart = tf.reduce_mean(tf.square(first - second), axis=1)  # (b,)
    present = tf.cast(gathered(weight) > 0, tf.float32)[:, None]  # (B, 1)
    count = tf.reduce_sum(present)
    spread, together = 0.0, 0.0
    for view in (first, second):
        view = gathered(view)  # (B, D)
        mean = tf.math.divide_no_nan(tf.reduce_sum(view * present, axis=0), count)
        centerd = (view - mean) * present
        matrix = tf.math.divide_no_nan(tf.matmul(centerd, centerd, transpose_a=True), count - 1)  # (D, D)
        diagonal = tf.linalg.diag_part(matrix)
        spread += tf.reduce_mean(tf.nn.relu(1.0 - tf.sqrt(diagonal + 1e-4))) / 2
        together += (tf.reduce_sum(tf.square(matrix)) - tf.reduce_sum(tf.square(diagonal))) / view.shape[-1]
    return invariance * apart + variance * spread + covariance * together


def nearest_distance(images, weight):
    """Mean distance, over all replicas, from each image (b, …) to the nearest other one; those of weight 0 left out."""
    x = tf.reshape(tf.stop_gradient(tf.cast(images, tf.float32)), (-1, math.prod(images.shape[1:])))
    everyone, present = gathered(x), gathered(weight) > 0
    center = tf.reduce_mean(everyone, axis=0)  # of images that are nearly alike all digits would be lost
    x, everyone = x - center, everyone - center
    squares = tf.reduce_sum(tf.square(everyone), axis=1)
    distance = tf.reduce_sum(tf.square(x), axis=1)[:, None] - 2 * tf.matmul(x, everyone, transpose_b=True) + squares
    itself = own_rows(tf.shape(x)[0])[:, None] == tf.range(tf.shape(everyone)[0])
    distance = tf.where(present & ~itself, distance, distance.dtype.max)
    nearest = tf.sqrt(tf.maximum(tf.reduce_min(distance, axis=1), 0.0))
    nearest, weight = gathered(nearest), gathered(weight)
    return tf.reduce_sum(weight * nearest) / tf.reduce_sum(weight)


def gradient_norms(function, points):
    """Gradient norms ‖∇function‖ at points (b, H, W, C): (b,), themselves with a gradient (Gulrajani et al. 2017)."""
    with tf.GradientTape() as tape:
        tape.watch(points)
        score = tf.reduce_sum(function(points, training=True))
    squares = tf.reduce_sum(tf.square(tape.gradient(score, points)), axis=(1, 2, 3))
    return tf.sqrt(squares + 1e-12)  # the root's own gradient is infinite at 0
