"""Interpretation: what an encoder responds to, and whether the pictures of it can be trusted (docs/interpretation.md).

from ssl_keras.interpretation import Explained, integrated_gradients, of_classes

output = of_classes(encoder, head)
maps = integrated_gradients(Explained(output.graph), images, index)  # (B, H, W)
"""

from ssl_keras.interpretation.dense import place_features, principal_colors, similarities
from ssl_keras.interpretation.faithfulness import areas, curves, random_areas, sanity_check
from ssl_keras.interpretation.grad_cam import enlarge, grad_cam
from ssl_keras.interpretation.gradients import (
    Explained,
    completeness_error,
    gradient_x_input,
    score_difference,
    smooth_grad,
)
from ssl_keras.interpretation.integrated import integrated_gradients
from ssl_keras.interpretation.layers import features_of_layers, most_exciting, probe_layers
from ssl_keras.interpretation.methods import available, units_of
from ssl_keras.interpretation.occlusion import occlude_units, occlude_windows
from ssl_keras.interpretation.outputs import (
    of_classes,
    of_features,
    of_image_tower,
    of_probe,
    of_similarity,
    of_symbols,
    of_token,
)
from ssl_keras.interpretation.rollout import rollout

__all__ = [
    "Explained",
    "areas",
    "available",
    "completeness_error",
    "curves",
    "enlarge",
    "features_of_layers",
    "grad_cam",
    "gradient_x_input",
    "integrated_gradients",
    "most_exciting",
    "occlude_units",
    "occlude_windows",
    "of_classes",
    "of_features",
    "of_image_tower",
    "of_probe",
    "of_similarity",
    "of_symbols",
    "of_token",
    "place_features",
    "principal_colors",
    "probe_layers",
    "random_areas",
    "rollout",
    "sanity_check",
    "score_difference",
    "similarities",
    "smooth_grad",
    "units_of",
]
