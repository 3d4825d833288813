from .clinical import compare_classes, measure_class
from .wilcoxon import WilcoxonResult, one_sided_wilcoxon
