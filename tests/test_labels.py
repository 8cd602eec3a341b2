"""The names of ImageNet's classes, against the file names of real photos; and those of data sets among a model's."""

import pytest

from tfdeit.labels import imagenet_classes, imagenet_id2label, match_classes
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


CIFAR = dict(enumerate(["airplane", "automobile", "bird", "cat"]))


def test_classes_are_matched_by_name():
    assert match_classes(["cat", "Bird", "AIRPLANE"], CIFAR) == ([3, 2, 0], None)
    assert match_classes(["2", "0"], CIFAR) == ([2, 0], None)
    assert match_classes(["1", "0"], {0: "1", 1: "0"}) == ([0, 1], None)  # a label, not a number


def test_classes_of_imagenet():
    id2label, synsets = imagenet_id2label(), list(imagenet_classes())
    assert match_classes(synsets, id2label) == (list(range(1000)), None)
    names = ["n15075141", "n01440764", "great_white_shark", "toilet tissue", "tench, Tinca tinca", "cardigan"]
    assert match_classes(names, id2label) == ([999, 0, 2, 999, 0, 474], None)
    assert id2label[474] == "cardigan"
    unnamed = {i: f"LABEL_{i}" for i in range(1000)}
    assert match_classes(["n01440764", "LABEL_7"], unnamed) == ([0, 7], None)
    with pytest.raises(ValueError, match="1 unknown class out of 1: 'crane'"):  # two classes
        match_classes(["crane"], id2label)
    with pytest.raises(ValueError, match="out of 1: 'n01440764'"):
        match_classes(["n01440764"], CIFAR)


def test_other_names_are_taken_in_order_where_all_agrees():
    found, note = match_classes(["aeroplane", "automobile", "bird", "cats"], CIFAR)
    assert found == [0, 1, 2, 3]
    assert "2 classes of the data matched by position" in note
    assert "aeroplane = airplane, cats = cat" in note
    assert match_classes(["w", "x", "y", "z"], CIFAR)[0] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "horse"], "1 unknown class out of 2: 'horse'."),
        (["a", "b", "c", "d", "e"], "5 unknown classes out of 5: 'a', 'b', 'c', 'd', 'e'."),
        (["automobile", "plane", "bird", "cat"], "1 unknown class out of 4: 'plane'."),  # not in order
        ([f"x{i}" for i in range(30)], "'x19' and 10 more."),
    ],
)
def test_unknown_classes_are_listed(names, message):
    with pytest.raises(ValueError, match="Expected classes of the model: 'airplane', 'automobile'") as error:
        match_classes(names, CIFAR)
    assert message in str(error.value)
