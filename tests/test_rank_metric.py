"""The torchmetrics Metrics: in plain loops, in Lightning, on bad input, and when a device's solver fails."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from replicate.rank import CLID, AlphaReQ, Coherence, LiDAR, RankMe, SelfCluster, StableRank, features, metric, spectrum
from replicate.rank.estimators import rankme
from replicate.rank.triangle import Triangle


@pytest.fixture
def embeddings():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(200, 12)) * np.arange(1, 13.0) ** -1 + 1)


def expected(matrix):
    return rankme(spectrum.of(matrix).singular_values)


def test_update_compute_reset(embeddings):
    one = RankMe()
    for _ in range(2):
        for batch in embeddings.split(33):
            one.update(batch)
        value = one.compute()
        assert value.shape == () and value.dtype == torch.float64
        assert float(value) == pytest.approx(expected(embeddings), rel=1e-9)
        assert 0 < one.error_bound < 1e-9 and one.stderr is None
        one.reset()


@pytest.mark.parametrize("width", [None, 12])
def test_forward_gives_the_batchs_value_and_keeps_the_sum(embeddings, width):
    one = RankMe(width)
    for batch in embeddings.split(50):
        assert float(one(batch)) == pytest.approx(expected(batch), rel=1e-9)
    assert float(one.compute()) == pytest.approx(expected(embeddings), rel=1e-9)


def test_a_collection_keeps_one_state_for_all(embeddings):
    whole = MetricCollection([RankMe(), StableRank(), AlphaReQ()])
    for batch in embeddings.split(50):
        whole.update(batch)
    assert float(whole.compute()["RankMe"]) == pytest.approx(expected(embeddings), rel=1e-9)
    assert len(whole.compute_groups) == 1


def test_copies_pickles_and_inference_mode(embeddings):
    one = RankMe()
    with torch.inference_mode():  # as in Lightning's validation
        one.update(embeddings[:90])
    one.update(embeddings[90:].requires_grad_())
    for other in (one, copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert float(other.compute()) == pytest.approx(expected(embeddings), rel=1e-9)


def test_it_follows_its_module_to_a_device_but_not_to_a_type(embeddings):
    one = RankMe(12)
    one.update(embeddings[:90])
    torch.nn.ModuleList([one]).to(torch.bfloat16)
    one.update(embeddings[90:])
    assert float(one.compute()) == pytest.approx(expected(embeddings), rel=1e-9)


def test_states_that_were_loaded_or_merged_keep_their_origin(embeddings):
    one, other, loaded = RankMe(12), RankMe(12), RankMe(12)
    one.update(embeddings[:90])
    one.persistent(True)
    loaded.load_state_dict(one.state_dict())
    other.merge_state(one)
    for again in (loaded, other):
        again.update(embeddings[90:] - 3)
        both = torch.cat([embeddings[:90], embeddings[90:] - 3])
        assert float(again.compute()) == pytest.approx(expected(both), rel=1e-9)


def test_a_refused_first_batch_does_no_harm(embeddings):
    one = RankMe()
    with pytest.raises(ValueError):
        one.update(torch.full((5, 12), torch.nan))
    one.update(1e6 + embeddings)
    assert float(one.compute()) == pytest.approx(expected(1e6 + embeddings), rel=1e-9)


def test_what_is_no_tensor_and_what_has_no_width(embeddings):
    one = RankMe()
    one.update(embeddings.numpy())
    assert float(one.compute()) == pytest.approx(expected(embeddings), rel=1e-9)
    with pytest.raises(ValueError, match="width 0"):
        RankMe(0)


def test_half_precision_and_integers_are_converted(embeddings):
    for batch in (embeddings.half(), embeddings.bfloat16(), (100 * embeddings).int()):
        one = RankMe()
        with torch.autocast("cpu", torch.bfloat16):
            one.update(batch)
        assert float(one.compute()) == pytest.approx(expected(batch), rel=1e-9)


@pytest.mark.parametrize("n", [1, 7, 12, 40, 900])
def test_exact_is_a_float64_svds_near_collapse_too(n):
    """In batches that leave room below the triangle and some that do not; one of them alone does not."""
    rng = np.random.default_rng(n)
    rows = torch.from_numpy((5 + np.outer(rng.normal(size=n), rng.normal(size=12))).astype(np.float32))
    exact = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    centred = np.linalg.svd((rows.double() - rows.double().mean(0)).numpy(), compute_uv=False)
    one = RankMe(exact=True)
    for batch in rows.split(11 if n < 500 else 77):
        assert float(one(batch)) == pytest.approx(rankme(np.linalg.svd(batch.double().numpy(), compute_uv=False)), rel=1e-12)
    assert float(one.compute()) == pytest.approx(rankme(exact), rel=1e-12)
    assert one.error_bound < 1e-6
    found = spectrum.of_triangle(Triangle.of_rows(one.sums.numpy()), True)
    assert found.centred_singular_values == pytest.approx(centred, abs=1e-12 * exact[0])
    assert (found.n_samples, len(found.singular_values)) == (n, min(n, 12))


def test_exact_bears_neither_error_bars_nor_float32(embeddings):
    for other in ({"stderr": True}, {"precision": "float32"}):
        with pytest.raises(ValueError, match="exact"):
            RankMe(exact=True, **other)
    one = RankMe(exact=True)
    one.update(embeddings)
    with pytest.raises(ValueError, match="width 5 after a width of 12"):
        one.update(embeddings[:, :5])
    assert float(one.compute()) == pytest.approx(expected(embeddings), rel=1e-12)


def test_float32_products_come_with_a_bound(embeddings):
    one = RankMe(precision="float32")
    for batch in embeddings.float().split(50):
        one.update(batch)
    assert abs(float(one.compute()) / expected(embeddings.float()) - 1) <= one.error_bound < 1e-3
    with pytest.raises(ValueError, match="bf16"):
        RankMe(precision="bf16")


@pytest.mark.parametrize("batch, said", [
    (torch.full((4, 3), torch.nan), "NaN"),
    (torch.tensor([[1.0, torch.inf]]), "infinity"),
    (torch.zeros(0, 3), "empty"),
    (torch.zeros(3), "shape"),
    (torch.zeros(2, 3, dtype=torch.complex64), "complex"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [RankMe, Coherence])
def test_bad_batches_are_named(batch, said, kind):
    with pytest.raises(ValueError, match=said):
        kind().update(batch)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("kind", [RankMe, CLID, LiDAR])
def test_nothing_seen_is_an_error(kind):
    with pytest.raises(ValueError, match="no samples"):
        kind().compute()


def test_another_width_is_an_error(embeddings):
    one = RankMe()
    one.update(embeddings)
    with pytest.raises(ValueError, match="width 5 after a width of 12"):
        one.update(embeddings[:, :5])


def test_a_device_that_does_not_converge_leaves_it_to_the_cpu(monkeypatch):
    def fails(*args, **kwargs):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    gram = np.diag([3.0, 2.0, 1.0])
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: self)  # there is no such device here
        assert metric._solver(torch.device("cuda"))(gram) == pytest.approx([3, 2, 1])
        patch.setattr(torch.linalg, "eigvalsh", fails)
        with pytest.warns(UserWarning, match="did not converge.*CPU"):
            assert metric._solver(torch.device("cuda"))(gram) == pytest.approx([3, 2, 1])


def test_those_of_rows_and_views(embeddings):
    for kind, function in ((SelfCluster, features.self_cluster), (Coherence, features.coherence),
                           (CLID, lambda rows: features.clid(rows)[2])):  # fmt: skip
        one = kind()
        for batch in embeddings.split(60):
            one.update(batch)
        assert float(one.compute()) == pytest.approx(function(embeddings), rel=1e-9)
    views = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 50, 8)))
    one = LiDAR()
    one.update(views[:, :20])
    one.update(views[:, 20:])
    assert float(one.compute()) == pytest.approx(features.lidar(views), rel=1e-9)
    with pytest.raises(ValueError, match="width 3 after a width of 8"):
        one.update(views[..., :3])
    assert float(one.compute()) == pytest.approx(features.lidar(views), rel=1e-9)
    far = LiDAR()
    far.update(1e7 + views[:, :20])
    far.update(1e7 + views[:, 20:])
    assert float(far.compute()) == pytest.approx(features.lidar(views), rel=1e-6)


def test_directions():
    assert RankMe().higher_is_better and LiDAR().higher_is_better
    assert SelfCluster().higher_is_better is False and AlphaReQ().higher_is_better is None


@pytest.mark.filterwarnings("ignore")
def test_in_lightning(tmp_path):
    """The README's example, trained for an epoch."""
    from pytorch_lightning import LightningModule, Trainer

    class Model(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.rankme = torch.nn.Linear(8, 6), RankMe()

        def training_step(self, batch, _):
            embeddings = self.layer(batch)
            self.rankme.update(embeddings)
            self.log("rankme", self.rankme, on_step=False, on_epoch=True)
            return embeddings.square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    images = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    model = Model()
    trainer.fit(model, torch.utils.data.DataLoader(images, batch_size=16))
    with torch.no_grad():
        assert float(trainer.callback_metrics["rankme"]) == pytest.approx(expected(model.layer(images)), rel=1e-5)
