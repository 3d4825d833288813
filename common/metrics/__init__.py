from .clinical import compare_classes, measure_class
from .distance import HausdorffDistanceInMm
from .wilcoxon import WilcoxonResult, one_sided_wilcoxon
