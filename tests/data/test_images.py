"""Images from digits, npz and folders: what is read, how it is split, and what is said about files that are no images."""

import numpy as np
import pytest
import torch
from PIL import Image

from surefoot.data.images import DIGITS, Epochs, digits, read_images
from surefoot.errors import ConfigError, DataError


def picture(path, value, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value, 0, 255 - value)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of four pictures."""
    for i in range(4):
        picture(tmp_path / "pets" / "cat" / f"{i}.png", 10 * i)
        picture(tmp_path / "pets" / "dog" / f"{i}.jpg", 200 + 10 * i, size=(8, 8))
    return tmp_path / "pets"


def saved(path, x, **more):
    np.savez(path, x=x, **more)
    return str(path)


def test_digits_are_split_by_class():
    train, rest = read_images(DIGITS, seed=3)
    again, _ = read_images(DIGITS, seed=3)
    other, _ = read_images(DIGITS, seed=4)
    assert (len(train), len(rest), train.shape) == (1257, 540, (8, 8)) and len(train.classes) == 10
    shares = torch.bincount(rest.y) / torch.bincount(torch.cat([train.y, rest.y]))
    assert (shares - 0.3).abs().max() < 0.01
    x = train.read()
    assert x.min() == 0.0 and x.max() == 1.0 and torch.equal(x[[5, 2]], train.read(torch.tensor([5, 2])))
    assert train.fingerprint == again.fingerprint != other.fingerprint
    every = {tuple(row) for row in digits().read().flatten(1).tolist()}
    assert {tuple(row) for row in torch.cat([x, rest.read()]).flatten(1).tolist()} == every


def test_a_folder_is_read_picture_by_picture(folder):
    train, rest = read_images(str(folder), held_out=0.5, size=4)
    assert train.classes == ("cat", "dog") and (len(train), len(rest)) == (4, 4) and train.shape == (3, 4, 4)
    for images in (train, rest):
        x = images.read()
        assert x.shape == (4, 3, 4, 4) and x.dtype == torch.float32
        for one, y, file in zip(x, images.y.tolist(), images.where, strict=True):
            i = int(file.stem)
            red = (10 * i if y == 0 else 200 + 10 * i) / 255
            assert file.parent.name == ("cat", "dog")[y] and abs(float(one[0].mean()) - red) < 0.02 and one[1].max() < 0.02
    assert not set(train.where) & set(rest.where)


def test_a_folder_with_train_and_val_has_its_own_split(tmp_path):
    for split, n in (("train", 3), ("val", 2)):
        for name in ("n01440764", "n01443537"):
            for i in range(n):
                picture(tmp_path / split / name / f"{i}.JPEG", 50 * i, size=(9, 5))
    train, rest = read_images(str(tmp_path), size=5)
    assert train.classes == rest.classes == ("n01440764", "n01443537") and (len(train), len(rest)) == (6, 4)
    assert rest.evenly(3).y.tolist() == [0, 1, 1] and len(rest.evenly(99)) == 4
    picture(tmp_path / "val" / "n02" / "0.png", 0)
    with pytest.raises(DataError, match="n02 is a class that the training images lack"):
        read_images(str(tmp_path))


def test_grey_and_transparent_pictures_become_colour(tmp_path):
    for name, mode in (("a", "L"), ("b", "RGBA")):
        for i in range(2):
            picture(tmp_path / name / f"{i}.png", 100 if mode == "L" else (100, 100, 100, 255), mode=mode)
    train, _ = read_images(str(tmp_path), held_out=0.5, size=4)
    torch.testing.assert_close(train.read(), torch.full((2, 3, 4, 4), 100 / 255))


def test_a_bad_file_is_named_when_it_is_read(folder):
    (folder / "cat" / "0.png").write_bytes(b"not a picture")
    cut = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(cut[: len(cut) // 2])
    train, rest = read_images(str(folder), held_out=0.5)
    bad = {"0.png", "1.png"}
    for images in (train, rest):
        for row, file in enumerate(images.where):
            if file.name in bad:
                with pytest.raises(DataError, match=rf"{file.name} cannot be read as a picture \(.*\): repair it, or remove it\.$"):
                    images.read(torch.tensor([row]))


def test_pictures_of_more_than_8_bits_are_refused_rather_than_cut_off(tmp_path):
    for name in ("a", "b"):
        for i in range(2):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    train, _ = read_images(str(tmp_path), held_out=0.5, size=4)
    with pytest.raises(DataError, match=r"it has more than 8 bits a channel, mode I;16\): repair it, or remove it"):
        train.read()


def test_images_of_many_sizes_in_an_npz_are_refused(tmp_path):
    many = np.empty(2, object)
    many[:] = [np.zeros((4, 4)), np.zeros((5, 5))]
    np.savez(tmp_path / "many.npz", x=many, y=np.arange(2))
    with pytest.raises(DataError, match=r"many\.npz"):
        read_images(str(tmp_path / "many.npz"))


def test_npz_files(tmp_path):
    x, y = np.random.default_rng(0).random((12, 3, 5, 5), np.float32), np.arange(12) % 3
    train, rest = read_images(saved(tmp_path / "a.npz", x, y=y), held_out=0.25)
    assert (len(train), len(rest)) == (9, 3) and train.shape == (3, 5, 5) and train.classes == ("0", "1", "2")
    for one, label in zip(train.read(), train.y, strict=True):
        assert any(torch.equal(one, torch.from_numpy(own)) for own in x[y == label])
    vectors, _ = read_images(saved(tmp_path / "b.npz", x.reshape(12, -1), y=y), held_out=0.25)
    assert vectors.shape == (75,)


GOOD = np.zeros((6, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": GOOD}, "field 'y' is missing"),
        ({"x": GOOD + 16, "y": np.arange(6) % 2}, r"lies between 16 and 16: scale it to \[0, 1\]"),
        ({"x": GOOD - 1, "y": np.arange(6) % 2}, "lies between -1 and -1"),
        ({"x": np.zeros((6, 8, 8, 3)), "y": np.arange(6) % 2}, "its axes must be image, channel, height, width"),
        ({"x": np.zeros((6, 1, 1, 8, 8)), "y": np.arange(6) % 2}, "images have at most the axes"),
        ({"x": GOOD, "y": np.zeros(6, int)}, "holds the one class 0"),
        ({"x": GOOD, "y": np.arange(5)}, r"field 'y' has shape \(5,\)"),
        ({"x": np.full((6, 4), np.nan), "y": np.arange(6) % 2}, "not finite in row 0"),
        ({"x": GOOD, "y": np.array([0, 0, 0, 0, 0, 1])}, "class '1' has 1 images"),
        ({"x": GOOD, "y": np.array([0, 0, 0, 2, 2, 2])}, "class '1' has 0 images"),
    ],
)
def test_npz_files_that_cannot_be_learned_from(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=match):
        read_images(str(tmp_path / "a.npz"))


def test_sources_that_are_no_images(tmp_path, folder):
    with pytest.raises(DataError, match="neither 'digits', nor a folder"):
        read_images(str(tmp_path / "none"))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"cut\.npz"):
        read_images(str(tmp_path / "cut.npz"))
    with pytest.raises(DataError, match="has 1 sub-folders: a classifier needs 2 or more"):
        read_images(str(tmp_path))
    (folder / "bird").mkdir()
    with pytest.raises(DataError, match="bird holds no pictures"):
        read_images(str(folder))
    for settings, match in (({"held_out": 1.0}, "held_out is 1.0"), ({"size": 0}, "size is 0")):
        with pytest.raises(ConfigError, match=match):
            read_images(DIGITS, **settings)


def test_epochs_show_every_image_once_and_resume_anywhere():
    images = digits().rows(torch.arange(10))
    source = Epochs(images, 4, seed=1)
    sizes = [len(next(source).y) for _ in range(6)]
    assert sizes == [4, 4, 2] * 2 and source.batches == 3
    assert [len(next(whole).y) for whole in [Epochs(images, 4, whole=True)] for _ in range(4)] == [4] * 4
    for stop in range(7):
        source, resumed = Epochs(images, 4, seed=1), Epochs(images, 4, seed=99)
        for _ in range(stop):
            next(source)
        resumed.load_state_dict(source.state_dict())
        for _ in range(5):
            ours, theirs = next(source), next(resumed)
            assert torch.equal(ours.x, theirs.x) and torch.equal(ours.y, theirs.y)
    with pytest.raises(ConfigError, match="a batch of 0 images"):
        Epochs(images, 0)
    with pytest.raises(ConfigError, match="0 images were asked for"):
        images.evenly(0)


def test_an_epoch_is_a_permutation():
    images = digits().rows(torch.arange(10))
    seen = torch.cat([batch.x for batch in (next(source) for source in [Epochs(images, 4)] for _ in range(3))])
    assert {tuple(row) for row in seen.flatten(1).tolist()} == {tuple(row) for row in images.read().flatten(1).tolist()}
