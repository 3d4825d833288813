from .mean_teacher import MeanTeacherUpdate, perturb
from .plausibility import Segmentation, describe_segmentation, find_implausible
from .pooling import class_thresholds, pool_probabilities, steadiness_weights
