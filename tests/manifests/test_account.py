"""Numbers as people read them."""

from manifests.account import Counts, numbered


def test_one_is_singular() -> None:
    assert [numbered(n, "photo") for n in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]
    assert [numbered(n, "person", "people") for n in (1, 2)] == ["1 person", "2 people"]
    assert [numbered(n, "photo", form=",") for n in (1, 2000)] == ["1 photo", "2,000 photos"]
    assert str(Counts(1, 1)) == "1 kept + 0 rejected + 0 failed = 1 input"
