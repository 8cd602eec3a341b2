"""The names of ImageNet's classes, against the file names of real photos."""

from tfdeit.labels import imagenet_classes, imagenet_id2label
from tfdeit.zoo import find


def test_classes():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert list(classes) == sorted(classes)  # the indices are in the order of the synsets
    names = imagenet_id2label()
    assert [names[0], names[639]] == ["tench, Tinca tinca", "maillot, tank suit"]


def test_names_of_real_photos(shared_images):
    photos = [path for path in shared_images if path.parent.name == "imagenet"]
    assert photos
    for path in photos:
        synset, name = path.stem.split("_", 1)
        assert name.replace("_", " ") in imagenet_classes()[synset].split(", ")


def test_the_zoo_knows_them():
    assert find("deit3_huge_patch14_224").config().id2label == imagenet_id2label()
    assert find("vit_huge_patch14_224_in21k").config().num_labels == 0
