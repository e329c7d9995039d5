"""Distances between features in closed form, extractors, the cache of references."""

import hashlib
import math
import socket
import threading

import pytest
import torch
from torch.testing import assert_close

from ssdiff.errors import CheckpointError, DataError, ResourceError, UsageError
from ssdiff.evaluation import features as features_module
from ssdiff.evaluation.distances import Cache, collect, compute_metric
from ssdiff.evaluation.features import Features, open_extractor

CPU = torch.device("cpu")


def normal(count, width, shift=0.0, scale=1.0, seed=0):
    """Features with exactly the mean ``shift`` and the covariance ``scale^2 I``."""
    x = torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.mT))).mT
    return Features((scale * x + shift).float(), None)


def test_frechet_distance_of_two_normal_distributions():
    found, true = normal(500, 6, shift=0.5, scale=2.0, seed=1), normal(400, 6)
    expected = 6 * 0.5**2 + 6 * (2.0 - 1.0) ** 2
    assert compute_metric("fid", found, true)["distance"] == pytest.approx(expected, rel=1e-4)
    assert compute_metric("fid", true, true)["distance"] == pytest.approx(0, abs=1e-4)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    x = [normal(600, 6, seed=k) for k in range(2)]
    near, far = (
        compute_metric("kid", *x, subset=300),
        compute_metric("kid", normal(600, 6, shift=1.0), x[1], subset=300),
    )
    assert abs(near["mean"]) < 0.05 < far["mean"] and far["std"] > 0


def test_precision_and_recall():
    true = normal(300, 4)
    assert compute_metric("prc", true, true) == {"precision": 1.0, "recall": 1.0}
    narrow = Features(true.pool[:50], None)
    assert compute_metric("prc", narrow, true)["precision"] == 1.0
    assert compute_metric("prc", narrow, true)["recall"] < 1.0
    assert compute_metric("prc", normal(300, 4, shift=50.0), true) == {"precision": 0.0, "recall": 0.0}


def test_monge_distance_of_a_shift_and_a_scale():
    """Shifted by d: squared sliced distance |d|^2 / D, times 3 D; a scale of s adds 3 D (s - 1)^2."""
    width, count = 8, 4000
    true = normal(count, width)
    shifted = Features(true.pool + 0.5, None)
    assert compute_metric("mind", shifted, true)["distance"] == pytest.approx(3 * width * 0.25, rel=0.1)
    scaled = Features(3 * true.pool, None)
    assert compute_metric("mind", scaled, true)["distance"] == pytest.approx(3 * width * 4, rel=0.1)
    assert compute_metric("mind", true, true)["distance"] < 0.05


def test_inception_score_of_certain_and_of_undecided_classifiers():
    certain = 100 * torch.eye(10).repeat(100, 1)
    assert compute_metric("is", Features(torch.zeros(1000, 2), certain), None)["mean"] == pytest.approx(
        10, rel=0.05
    )
    undecided = Features(torch.zeros(1000, 2), torch.zeros(1000, 10))
    assert compute_metric("is", undecided, None) == {"mean": pytest.approx(1), "std": pytest.approx(0)}
    with pytest.raises(UsageError, match="logits"):
        compute_metric("is", normal(20, 3), None)


@pytest.mark.parametrize("metric", ["fid", "kid", "prc", "mind"])
def test_too_few_images(metric):
    with pytest.raises(DataError, match=f"{metric} needs"):
        compute_metric(metric, normal(8, 2), Features(torch.zeros(1, 2), None))
    with pytest.raises(DataError, match="2 features cannot be compared with 3"):
        compute_metric(metric, normal(8, 2), normal(8, 3))


def test_kid_says_how_many_there_are():
    with pytest.raises(DataError, match=r"kid needs 1000 images on each side, not 8; .*--subset-size"):
        compute_metric("kid", normal(8, 2), normal(2000, 2))


def test_an_extractor_of_ones_own():
    extractor = open_extractor("tinynet:Tiny", None, CPU)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    found = collect(extractor, iter(images.split(2)))
    assert found.pool.shape == (5, 12) and found.logits is None
    assert_close(found.pool[3:4], extractor.run(images[3:4]).pool)
    grey = collect(extractor, iter([images[:, :1]]))
    assert_close(grey.pool, extractor.run(images[:, :1].repeat(1, 3, 1, 1)).pool)
    assert extractor.label("F") == "FD-Tiny" and extractor.label("K") == "KD-Tiny"
    assert open_extractor("tinynet:Tiny", None, CPU).identity == extractor.identity
    assert open_extractor("tinynet:Other", None, CPU).identity != extractor.identity


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "choose inception or give module:Class"),
        ("tinynet:", "choose inception"),
        ("nowhere:Net", "cannot import extractor"),
        ("tinynet:Gone", "cannot import extractor"),
        ("math:sqrt", "no torch.nn.Module class"),
    ],
)
def test_extractors_that_are_none(name, message):
    with pytest.raises(UsageError, match=message):
        open_extractor(name, None, CPU)


def test_an_extractor_without_features():
    with pytest.raises(UsageError, match="must give"):
        open_extractor("tinynet:Images", None, CPU).run(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


def test_weights_of_inception_are_verified_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    with pytest.raises(ResourceError, match="SHA-256 of the right file: 6726825d"):
        open_extractor("inception", path, CPU)
    path.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(CheckpointError, match="the weights of Inception have 6726825d"):
        open_extractor("inception", path, CPU)
    # Even a file of the right hash may hold nothing but tensors.
    monkeypatch.setattr(features_module, "_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError):
        open_extractor("inception", path, CPU)
    assert not (tmp_path / "hacked").exists()


def test_the_real_network_with_weights_of_a_file(tmp_path, monkeypatch):
    """Inception itself, its weights drawn at random: 2048 features, 1008 logits, none of it downloaded."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    fresh = {}
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda url, progress: fresh)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state, **_: None)
    net = theirs.FeatureExtractorInceptionV3("plain", ["2048"])
    monkeypatch.undo()
    path = tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    with monkeypatch.context() as patch:
        patch.setattr(features_module, "_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        extractor = open_extractor("inception", path, CPU)
    found = extractor.run(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    assert found.pool.shape == (2, 2048) and found.logits.shape == (2, 1008)
    assert found.pool.isfinite().all() and extractor.label("F") == "FID"


@pytest.fixture
def server(monkeypatch):
    """Takes connections, and says what it is given to say; nothing else."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(features_module, "_URL", f"http://127.0.0.1:{listening.getsockname()[1]}/w.pth")
        yield listening


def answer(server, said):
    """Say it to the first who asks, then be silent; the thread that does so."""

    def work():
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(said)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_server_that_never_answers(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features_module, "_PATIENCE", 0.2)
    with pytest.raises(ResourceError, match=r"cannot be downloaded from http.*w\.pth \(timed out\)") as error:
        open_extractor("inception", None, CPU)
    assert str(tmp_path) in error.value.path and "--weights-file" in str(error.value)
    assert "SHA-256 6726825d" in str(error.value)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfoo", "3 bytes of SHA-256 2c26b46b68ffc68f"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfoo", "IncompleteRead"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"220 mail\r\n\r\n", "220 mail"),
        (b"", "closed connection"),
    ],
)
def test_wrong_answers_leave_no_weights(server, tmp_path, monkeypatch, said, reason):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    thread = answer(server, said)
    with pytest.raises(ResourceError, match=f"cannot be downloaded .*{reason}"):
        open_extractor("inception", None, CPU)
    thread.join()
    assert not list(tmp_path.rglob("*.*"))


def test_weights_are_downloaded_once(server, tmp_path, monkeypatch):
    content = b"weights"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features_module, "_SHA256", hashlib.sha256(content).hexdigest())
    thread = answer(server, b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" + content)
    path = features_module._cached_weights()
    thread.join()
    assert path.read_bytes() == content and path.is_relative_to(tmp_path)
    assert features_module._cached_weights() == path


def test_the_cache_is_keyed_by_content_and_survives_damage(tmp_path):
    extractor = open_extractor("tinynet:Tiny", None, CPU)
    features = Features(torch.full((3, 2), math.pi), torch.ones(3, 4))
    cache = Cache(tmp_path, "a", extractor)
    assert cache.find(3) is None
    cache.keep(features)
    again = Cache(tmp_path, "a", extractor).find(3)
    assert torch.equal(again.pool, features.pool) and torch.equal(again.logits, features.logits)
    assert cache.find(4) is None
    assert Cache(tmp_path, "b", extractor).find(3) is None
    assert Cache(tmp_path, "a", open_extractor("tinynet:Other", None, CPU)).find(3) is None
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert cache.find(3) is None
    file.write_bytes(whole[:50])
    assert cache.find(3) is None
    cache.keep(features)
    assert cache.find(3) is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Needy", "cannot make extractor .*missing 1 required"),
        ("Broken", "cannot make extractor .*no weights here"),
    ],
)
def test_extractors_that_cannot_be_made(name, message):
    with pytest.raises(UsageError, match=message):
        open_extractor(f"tinynet:{name}", None, CPU)


def test_a_module_that_is_no_python(tmp_path, monkeypatch):
    (tmp_path / "crooked.py").write_text("def (:")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="cannot import extractor 'crooked:Net'"):
        open_extractor("crooked:Net", None, CPU)


def test_features_that_are_not_finite():
    extractor = open_extractor("tinynet:Lost", None, CPU)
    with pytest.raises(DataError, match="not finite"):
        collect(extractor, iter([torch.zeros(2, 3, 4, 4, dtype=torch.uint8)]))


def test_weights_in_half_precision_have_an_identity():
    assert len(open_extractor("tinynet:Half", None, CPU).identity) == 64
