"""Laws of a training that only describes, and of what it need not describe again."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedTrainer

from common.planar import AtlasCheckpoint, AtlasUpdate, GrayValueDifference, PlanarAtlas
from common.training import SaveLast


def make_cases(number: int = 3) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for index in range(number):
        image = torch.randn(1, 8, 7, 6, generator=generator)
        label = torch.zeros(1, 8, 7, 6)
        label[:, 2:5, 2:5, 2:5] = 1
        meta = {"filename_or_obj": f"case_{index}.nii.gz"}
        cases.append({"image": MetaTensor(image, meta=meta), "label": MetaTensor(label)})
    return cases


def make_trainer(cases, folder=None, network=None, resume=True, stop_after=None, **options):
    network = network or PlanarAtlas(GrayValueDifference(8), 2, step=1, num_neighbors=1, **options)
    handlers = []
    if folder is not None:
        handlers = [
            AtlasCheckpoint(folder / "training.ckpt", folder / "model.pt", network, resume),
            SaveLast(folder / "model.pt", network),
        ]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=stop_after or len(cases),
        epoch_length=1,
        train_data_loader=DataLoader(cases, batch_size=1),
        network=network,
        optimizer=None,
        loss_function=None,
        iteration_update=AtlasUpdate({0: "background", 1: "liver"}),
        train_handlers=handlers,
        decollate=False,
    )
    return trainer, network


@pytest.fixture
def described(monkeypatch):
    """Return a list that gets the number of voxels each time that some are described."""
    counts: list[int] = []
    describe = PlanarAtlas._describe

    def count(self, volume, centers):
        counts.append(len(centers))
        return describe(self, volume, centers)

    monkeypatch.setattr(PlanarAtlas, "_describe", count)
    return counts


def test_every_epoch_adds_a_volume_and_counts_it(tmp_path):
    trainer, network = make_trainer(make_cases())
    trainer.run()
    assert trainer.state.metrics == {"atlas_volumes": 3, "atlas_voxels": 3 * 8 * 7 * 6}
    for index, case in enumerate(make_cases()):
        votes = network(case["image"][None])
        assert torch.equal(votes.argmax(1), case["label"].as_tensor().long()), index


def test_more_epochs_than_volumes_change_nothing(described):
    """MONAI Label asks for 50 epochs."""
    trainer, network = make_trainer(make_cases(2), stop_after=2)
    trainer.run()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    described.clear()
    make_trainer(make_cases(2), network=network, stop_after=5)[0].run()
    assert max(described) < 20  # probes
    for name, value in network.state_dict().items():
        if name not in ("volumes", "volume_ids", "fingerprints", "recipes"):  # whose order follows the last addition
            assert torch.equal(value.sort(dim=0).values, before[name].sort(dim=0).values), name


def test_one_more_volume_is_all_that_is_described_again(tmp_path, described):
    make_trainer(make_cases(2), tmp_path)[0].run()
    assert not (tmp_path / "training.ckpt").exists()
    described.clear()
    trainer, network = make_trainer(make_cases(3), tmp_path)
    trainer.run()
    assert sum(count > 20 for count in described) == 1
    fresh = make_trainer(make_cases(3))
    fresh[0].run()
    for name, value in fresh[1].state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_an_interrupted_training_goes_on(tmp_path, described):
    trainer, _ = make_trainer(make_cases(3), tmp_path)
    trainer.add_event_handler("EPOCH_STARTED", lambda engine: engine.state.epoch == 3 and interrupt())

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert (tmp_path / "training.ckpt").is_file() and not (tmp_path / "model.pt").exists()
    described.clear()
    make_trainer(make_cases(3), tmp_path)[0].run()
    assert sum(count > 20 for count in described) == 1
    assert (tmp_path / "model.pt").is_file() and not (tmp_path / "training.ckpt").exists()


@pytest.mark.parametrize("change", ["image", "label", "descriptor", "choice", "resume"])
def test_what_has_changed_is_described_again(tmp_path, described, change):
    make_trainer(make_cases(1), tmp_path)[0].run()
    cases, options = make_cases(1), {}
    if change in ("image", "label"):
        cases[0][change][0, 3, 3, 3] = 0.25 if change == "image" else 0
    elif change == "descriptor":
        options = {"network": PlanarAtlas(GrayValueDifference(8, seed=1), 2, step=1)}
    elif change == "choice":
        options = {"max_background": 50}
    else:
        options = {"resume": False}
    described.clear()
    make_trainer(cases, tmp_path, **options)[0].run()
    assert max(described) > 20


def test_volumes_that_are_no_longer_listed_leave_the_atlas(tmp_path):
    make_trainer(make_cases(3), tmp_path)[0].run()
    trainer, network = make_trainer(make_cases(1), tmp_path)
    trainer.run()
    assert len(network.volume_ids) == 1 and len(network.labels) == 8 * 7 * 6


def test_an_atlas_of_other_descriptors_is_not_taken_over(tmp_path):
    make_trainer(make_cases(1), tmp_path)[0].run()
    network = PlanarAtlas(GrayValueDifference(4), 2, step=1)
    make_trainer(make_cases(1), tmp_path, network=network)[0].run()
    assert network.descriptors.shape == (8 * 7 * 6, 4)


def with_a_class_in_the_last_case_only() -> list[dict]:
    cases = make_cases(3)
    cases[2]["label"][:, 6:, 5:, 4:] = 2
    return cases


def test_a_class_may_be_met_in_the_last_volume(tmp_path):
    """A validation before it refused the atlas, and the training ended."""
    network = PlanarAtlas(GrayValueDifference(8), 3, step=1, num_neighbors=1)
    trainer, _ = make_trainer(with_a_class_in_the_last_case_only(), tmp_path, network)
    predicted: list[int] = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine):
        predicted.append(int(network(with_a_class_in_the_last_case_only()[2]["image"][None]).argmax(1).max()))

    trainer.run()
    assert predicted == [1, 1, 2]
    assert (tmp_path / "model.pt").is_file()


def test_a_class_in_no_volume_is_refused_and_an_older_atlas_stays(tmp_path):
    """The older file was overwritten by an atlas that nobody could use."""
    (tmp_path / "model.pt").write_bytes(b"older")
    network = PlanarAtlas(GrayValueDifference(8), 3, step=1)
    trainer, _ = make_trainer(make_cases(2), tmp_path, network, resume=False)
    with pytest.raises(ValueError, match=r"every class, got none of \[2\]"):
        trainer.run()
    assert len(network.volume_ids) == 2
    assert (tmp_path / "model.pt").read_bytes() == b"older"


def test_what_was_taken_over_is_kept_once(tmp_path):
    """The rows of earlier files stayed in memory as long as the atlas, beside its own."""
    make_trainer(make_cases(3), tmp_path)[0].run()
    trainer, network = make_trainer(make_cases(2), tmp_path)
    numbers: list[int] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: numbers.append(len(network.recalled)))
    trainer.run()
    assert numbers == [2, 1] and not network.recalled
