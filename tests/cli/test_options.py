"""Laws of the table of options, and of the checks that follow from it."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from common.cli import (
    SHARED_OPTIONS,
    BundleError,
    check_choice,
    check_flags,
    check_whole_numbers,
    has_weights,
    is_scratch,
)
from common.cli.options import FLAG, FRACTION, INT, NON_NEGATIVE, NUMBER, POSITIVE, POSITIVE_INT, SIZE, one_of

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))
METHODS = {
    **dict.fromkeys(("fnet_wtacae_stl", "fnet_wtacae_mtl"), "fnet"),
    "context_restoration_unet": "context",
    "planar_heatmap_descriptor": "planar",
    "layer_decomp_tumor": "layers",
}
KINDS = {  # what fits; what is of another type; what is out of range; and how it is said
    FLAG: ([True, False], ["abc", "false", None, [True]], [0, 1], "True or False"),
    INT: ([0, 7, 10**12], ["abc", "3", None, True, [3]], [-1, 1.5, 2.0, math.inf], "a whole number from 0"),
    POSITIVE_INT: ([1, 7], ["abc", "3", None, True, [3]], [-1, 0, 1.5, math.nan], "a whole number from 1"),
    SIZE: (
        [1, 96, [72, 72, 40], (1, 2, 3)],
        ["abc", None, True, [], [8, 8, "8"]],
        [-1, 0, 8.5, [8], [8, 8], [8, 8, 0]],
        "a whole number from 1, or three of them",
    ),
    NUMBER: ([-500, 0, 0.5], ["abc", "1e-3", None, False, [1.0]], [math.nan, math.inf], "a number"),
    NON_NEGATIVE: ([0, 0.0, 3.0e-5], ["abc", None], [-1.0e-9, math.inf], "a number from 0"),
    POSITIVE: ([1.0e-7, 2], ["1e-3", None], [0, -1, math.nan], "a number above 0"),
    FRACTION: ([0, 0.5, 1], ["abc", None], [-0.1, 1.1], "a number from 0 to 1"),
}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.wanted)


@every_kind
def test_what_is_of_its_kind_passes_and_so_does_a_list_of_it(kind):
    for value in KINDS[kind][0]:
        assert kind.check("one", value) is None
        for some in ([value], (), (value, value)):
            assert kind.list.check("some", some) is None


@every_kind
def test_what_is_not_is_refused_by_the_name_of_the_option(kind):
    right, *wrong, wanted = KINDS[kind]
    for error, values in zip((TypeError, ValueError), wrong, strict=True):
        for value in values:
            with pytest.raises(error) as raised:
                kind.check("patience", value)
            assert str(raised.value) == f"patience must be {wanted}, got {value!r}"
            with pytest.raises((TypeError, ValueError), match=f"features must be a list, each entry {wanted}, got"):
                kind.list.check("features", [right[0], value])


@every_kind
def test_a_list_has_as_many_entries_as_it_must(kind):
    one, *_ = right = KINDS[kind][0]
    kind.times(2).check("betas", [one, one])
    for wrong in ([one], [one] * 3, one, [one, "abc"]):
        with pytest.raises((TypeError, ValueError), match=f"betas must be a list of 2, each entry {kind.wanted}, got"):
            kind.times(2).check("betas", wrong)
    if kind is not FLAG and kind is not SIZE:
        low, high = min(right), max(right)
        kind.range.check("alpha", (low, high))
        kind.range.check("alpha", [low, low])
        for wrong in ([high, low], [low], [low, high, high], low):
            with pytest.raises((TypeError, ValueError), match="alpha must be a list of 2 that do not decrease, each"):
                kind.range.check("alpha", wrong)


def test_a_list_is_one():
    with pytest.raises(ValueError, match=r"features must be a list, each entry a whole number from 1, got \[8, 0\]"):
        POSITIVE_INT.list.check("features", [8, 0])
    for value in ("16,32", 16, None, {16: 32}):
        with pytest.raises(TypeError, match="features must be a list, each entry a whole number from 1"):
            POSITIVE_INT.list.check("features", value)


@every_kind
def test_null_passes_only_where_it_may_be_and_the_error_tells_how_it_is_written(kind):
    for one in (kind, kind.list):
        one.or_null.check("spacing", None)
        with pytest.raises(TypeError, match=r"spacing must be .*, or null \('\$None' on a .*\), got 'null'"):
            one.or_null.check("spacing", "null")


def test_a_word_is_one_of_a_few():
    one_of("brain", "body").check("organ", "body")
    for check in (one_of("brain", "body").check, lambda name, value: check_choice(name, value, ["brain", "body"])):
        with pytest.raises(ValueError, match="organ must be one of brain, body, got 'heart'"):
            check("organ", "heart")


# ---- the tables of the methods -------------------------------------------------------------------


def table(bundle: Path):
    return getattr(import_module(f"common.{METHODS[bundle.name]}"), f"{METHODS[bundle.name].upper()}_OPTIONS")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_every_plain_value_that_a_config_of_a_bundle_offers_is_in_the_table(bundle):
    """Text for a number ended in a traceback from where it was used, which did not name the option."""
    options = table(bundle)
    for path in sorted((bundle / "configs").glob("*.yaml")):
        for name, value in ConfigParser.load_config_file(path).items():
            is_plain = isinstance(value, int | float | list) and "::" not in name and "_target_" not in str(value)
            if is_plain and name not in ("initialize", "run", "finalize", "+initialize"):
                assert name in options, f"{path.name}: {name}"
                options[name].kind.check(name, value)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_a_row_of_the_table_is_used_says_what_it_means_and_has_an_example_that_fits(bundle):
    method = METHODS[bundle.name]
    siblings = [path for path in BUNDLES if METHODS[path.name] == method]
    used = {
        name
        for sibling in siblings
        for path in (sibling / "configs").glob("*.yaml")
        for name in ConfigParser.load_config_file(path)
    }
    for name, option in table(bundle).items():
        assert name in used or name in SHARED_OPTIONS, name
        assert option.meaning and not option.meaning.endswith("."), name
        option.kind.check(name, None if option.example == "$None" else option.example)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_an_inference_has_the_settings_of_the_training_from_the_record(bundle):
    """The report told the gain of `inference.yaml` for that of a training with another one."""
    train, inference = (
        ConfigParser.load_config_file(bundle / "configs" / f"{name}.yaml") for name in ("train", "inference")
    )
    constant = {
        name
        for name, option in table(bundle).items()
        if option.is_setting and not option.kind.is_text and name in train.keys() & inference.keys()
        if not str(inference[name]).startswith("$")
    }
    assert constant == {"nan"}, "which of the scans of a run is refused, is told by each run"


OUT_OF_RANGE = {  # what text and numbers out of range are given for
    "max_epochs": 0,
    "iterations_per_epoch": 0,
    "val_interval": 0,
    "val_iterations": 0.5,
    "batch_size": 0,
    "unlabeled_batch_size": -1,
    "num_workers": -1,
    "learning_rate": 0,
    "transferred_learning_rate": -1,
    "patience": 0,
    "freeze_epochs": -1,
    "seed": -1,
    "num_labeled": 1.5,
    "num_validation": 0,
    "num_unlabeled": -1,
    "num_pictures": -1,
    "tile_size": 0,
    "kernel_size": 2.5,
    "gain": 0,
    "features": [8, 0],
    "image_channels": 0,
    "in_channels": 0,
    "num_groups": 0,
    "cache_memory": -1,
    "step": 0,
    "num_neighbors": 0,
    "half_width": 0,
    "half_depth": -1,
    "cube_half_width": 0,
    "position_weight": -1,
    "search_radius": 0,
    "smoothing": -1,
    "background_weight": 0,
    "max_background": 0,
    "max_voxels": 0.5,
    "snapshot_interval": 0,
    "field_of_view": [100, 0, 100],
    "softmax": 1,
    "formats": ["nifti", "png"],
    "save_probabilities": 1,
    "save_confidence": 1,
    "layers": 1,
    "organ_margin": -1,
    "max_findings": 0,
    "roi_size": 0,
    "overlap": 2,
    "kernel_sizes": [0],
    "strides": [0],
    "roughness": 2,
    "tumor_prob": 2,
    "composition_delay": -1,
    "organ_weight": -1,
    "foreground_fraction": 2,
}


@pytest.mark.parametrize("method", sorted(set(METHODS.values())))
def test_text_and_what_is_out_of_range_are_refused_option_by_option(method):
    options = getattr(import_module(f"common.{method}"), f"{method.upper()}_OPTIONS")
    tried = [name for name in OUT_OF_RANGE if name in options]
    for name in tried:
        for value in ("abc", OUT_OF_RANGE[name]):
            with pytest.raises((TypeError, ValueError)) as raised:
                options[name].kind.check(name, value)
            assert str(raised.value).startswith(f"{name} must be ") and f", got {value!r}" in str(raised.value)
    assert len(tried) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_every_option_of_every_workflow_is_refused_by_its_name_before_data_is_touched(bundle, tmp_path):
    """Whoever used a value much later named its own argument, such as `method` for `--normalization`."""
    options, tried = table(bundle), set()
    for files in (["pretrain"], ["train"], ["train", "evaluate"], ["inference"]):
        paths = [bundle / "configs" / f"{name}.yaml" for name in files]
        if not paths[0].is_file():
            continue
        content = ConfigParser.load_config_files([str(path) for path in paths])
        for name in (set(options) & set(content)) - tried - {"bundle_root"}:
            values = {"dataset_dir": str(tmp_path / "missing"), "ckpt_dir": str(tmp_path), name: {"a": 1}}
            parser = ConfigParser({**content, "bundle_root": str(bundle), **values})
            error = error_of(parser)
            assert str(error).startswith(f"{name} must be ") and "got {'a': 1}" in str(error), name
            assert isinstance(error, BundleError)
            tried.add(name)
    assert len(tried) >= 35 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", sorted(set(METHODS.values())))
def test_every_option_that_is_no_text_refuses_text_and_every_one_a_mapping(method):
    options = getattr(import_module(f"common.{method}"), f"{method.upper()}_OPTIONS")
    for name, option in options.items():
        wrong = [{"a": 1}] if option.kind.is_text or name == "norm" else [{"a": 1}, "abc", ["abc"]]
        for value in wrong:
            with pytest.raises((TypeError, ValueError), match=f"^{name} must be .*, got "):
                option.kind.check(name, value)


# ---- the check of a config -----------------------------------------------------------------------


@pytest.fixture
def config():
    """Return a function that makes a config of F-Net's with some options."""

    def make(**options) -> ConfigParser:
        content = {
            "bundle_root": str(ROOT / "bundles" / "fnet_wtacae_stl"),
            "settings": {"_target_": "common.fnet.check_options"},
            **options,
        }
        return ConfigParser(content)

    return make


def error_of(parser: ConfigParser) -> Exception:
    with pytest.raises(RuntimeError) as raised:
        parser.get_parsed_content("settings")
    error = raised.value
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def test_the_settings_of_a_run_are_the_options_on_which_its_numbers_depend(config):
    options = {"seed": 3, "learning_rate": 0.1, "num_workers": 2, "resume": True, "ckpt_dir": "a", "own": 5}
    parser = config(**options, transferred_learning_rate="$@learning_rate / 2")
    settings = parser.get_parsed_content("settings")
    assert settings == {"seed": 3, "learning_rate": 0.1, "transferred_learning_rate": 0.05}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rate": "1e-3"}, "learning_rate must be a number above 0, got '1e-3'"),
        ({"fold": "a"}, "fold must be a whole number from 0, got 'a'"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        ({"patch_size": [8, 8]}, "patch_size must be a whole number from 1, or three of them, got [8, 8]"),
        ({"num_labeled": "all"}, "num_labeled must be a whole number from 0, or null ('$None' on a command line), got"),
        ({"normalization": "minmax"}, "normalization must be one of zscore, range, got 'minmax'"),
        (  # the expression that it would break comes later
            {"transferred_learning_rate": "$@learning_rate / 2", "learning_rate": "fast"},
            "learning_rate must be a number above 0, got 'fast'",
        ),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(config, options, sentence):
    error = error_of(config(**options))
    assert str(error).startswith(sentence) and isinstance(error, ValueError | TypeError)


def test_a_folder_that_is_no_bundle_is_refused(config, tmp_path):
    error = error_of(config(bundle_root=str(tmp_path)))
    assert isinstance(error, FileNotFoundError) and str(error).startswith(f"{tmp_path}: bundle_root must be")


def test_options_are_those_of_a_config_that_is_evaluated():
    with pytest.raises(RuntimeError, match="options must be checked by a config"):
        import_module("common.cli").running_config()


# ---- what the constructors of the library ask ----------------------------------------------------


@pytest.mark.parametrize("value", ["false", "no", 0, 1, None, [True]])
def test_text_and_numbers_are_no_flags(value):
    check_flags(resume=True, amp=False)
    with pytest.raises(TypeError) as raised:
        check_flags(resume=True, amp=value)
    assert str(raised.value) == f"amp must be True or False, got {value!r}"


@pytest.mark.parametrize("value", ["3", 2.0, None, True, [3]])
def test_text_and_fractions_are_no_whole_numbers(value):
    check_whole_numbers(step=-3, count=0)
    with pytest.raises(TypeError) as raised:
        check_whole_numbers(step=1, count=value)
    assert str(raised.value) == f"count must be a whole number, got {value!r}"


@pytest.mark.parametrize(
    ("pretrained", "scratch", "weights"),
    [
        (None, True, False),
        ("null", True, False),
        ("None", True, False),
        ("random", False, False),
        ("a.pt", False, True),
        (Path("a.pt"), False, True),
    ],
)
def test_what_a_training_starts_from(pretrained, scratch, weights):
    assert (is_scratch(pretrained), has_weights(pretrained)) == (scratch, weights)


@pytest.mark.parametrize("value", [None, [-155, 295], [[-155, 295]], [[-155, 295], [0, 10.5]]])
def test_clip_values_are_a_pair_or_one_for_each_channel(value):
    SHARED_OPTIONS["clip"].kind.check("clip", value)


@pytest.mark.parametrize("value", [5, "fitted", [5, 5], [["a", 1]], [[0, 1], 5], [None, 1]])
def test_other_clip_values_are_refused_by_name(value):
    with pytest.raises((TypeError, ValueError), match="clip must be a list of two increasing numbers, or"):
        SHARED_OPTIONS["clip"].kind.check("clip", value)
