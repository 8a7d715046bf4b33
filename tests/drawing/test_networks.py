"""Pictures of networks: everything is there once, joined as in the network, and nothing covers anything else."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, pairwise

import pytest
from matrix import SHAPE, TOPOLOGIES

import adntn
from adntn.drawing.levels import Box, Line, NetworkPicture, Words, network_picture
from adntn.network import Network


def random_network(seed: int) -> Network:
    """A network that nobody would draw by hand: cores that meet any legs, end several and make several."""
    chance = random.Random(seed)
    sizes: dict[str, int] = {}
    state: list[str] = []
    blocks = []
    for block in range(chance.randint(1, 4)):
        cores = {}
        for number in range(chance.randint(1, 4)):
            ended = chance.sample(state, chance.randint(0, min(3, len(state))))
            made = [f"{block}{number}{letter}" for letter in "abc"[: chance.randint(0 if len(state) > 3 else 1, 3)]]
            sizes |= {label: chance.randint(1, 3) for label in made}
            legs = [*ended, *made]
            chance.shuffle(legs)
            if legs:
                cores[f"core{block}.{number}".replace(".", "-")] = " ".join(legs)
            state = [label for label in state if label not in ended] + made
        blocks.append(adntn.Block(cores, activation=chance.choice(["identity", "tanh"])))
    chance.shuffle(state)
    cut = chance.randint(0, len(state))
    rows, columns = state[:cut], state[cut:]
    shape = [1, 1]
    for dimension, labels in enumerate((rows, columns)):
        for label in labels:
            shape[dimension] *= sizes[label]
    output = f"{' '.join(rows)} | {' '.join(columns)}"
    return adntn.Custom(shape, blocks=blocks, sizes=sizes, output=output).network


NETWORKS: dict[str, Network] = {
    **{name: row("tanh")(SHAPE).network for name, row in TOPOLOGIES.items()},
    "TTN, 24 legs": adntn.TTN((4096, 4096), bond=2, leg=2).network,
    "MERA, 24 legs": adntn.MERA((4096, 4096), bond=2, leg=2).network,
    "MERA, 24 legs, ternary, periodic": adntn.MERA((4096, 4096), bond=4, leg=2, arity=3, border="periodic").network,
    "Brickwall, 24 legs": adntn.Brickwall((4096, 4096), depth=2).network,
    "TensorTrain, 24 legs": adntn.TensorTrain((4096, 4096), bond=4, depth=2).network,
    "a convolution": adntn.AugmentedTTN((512, 256, 3, 3), bond=4).network,
    "a vector, cropped": adntn.TTN((30522,), bond=4).network,
    "one number": adntn.TTN((1, 1)).network,
    "one core": adntn.TTN((2, 2), leg=2).network,
    "large dimensions": adntn.LowRank((65536, 4096)).network,
    **{f"random {seed}": random_network(seed) for seed in range(40)},
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys())
def network(request: pytest.FixtureRequest) -> Network:
    row: Network = request.param
    return row


@pytest.fixture
def picture(network: Network) -> NetworkPicture:
    return network_picture(network)


def test_every_core_is_there_once_for_each_of_its_places(network: Network, picture: NetworkPicture) -> None:
    places = Counter(node.core for level in network.levels for node in level.nodes)
    assert Counter(box.core for box in picture.boxes) == places


def test_no_two_cores_overlap(picture: NetworkPicture) -> None:
    for one, other in combinations(picture.boxes, 2):
        beside = one.right <= other.left or other.right <= one.left
        assert beside or one.top <= other.bottom or other.top <= one.bottom, (one, other)


def is_on(point: tuple[float, float], box: Box) -> bool:
    """Whether a point lies on the border of a box."""
    x, y = point
    inside = box.left <= x <= box.right and box.bottom <= y <= box.top
    return inside and (x in (box.left, box.right) or y in (box.bottom, box.top))


def test_every_leg_joins_what_it_joins_in_the_network(network: Network, picture: NetworkPicture) -> None:
    nodes = [node for level in network.levels for node in level.nodes]
    ends = Counter((node.core, leg.label) for node in nodes for leg in node.legs)
    drawn: Counter[tuple[str, str]] = Counter()
    for line in picture.lines:
        assert is_on(line.points[0], picture.boxes[line.start])
        drawn[picture.boxes[line.start].core, line.label] += 1
        if line.end is not None:
            assert is_on(line.points[-1], picture.boxes[line.end])
            drawn[picture.boxes[line.end].core, line.label] += 1
    assert drawn == ends


def test_the_weights_legs_end_in_their_dimensions_in_order(network: Network, picture: NetworkPicture) -> None:
    ended = [line for line in picture.lines if line.end is None]
    assert [line.label for line in ended] == [leg.label for leg in network.levels[-1].output]
    assert [group.dimension for group in picture.groups] == list(range(len(network.layout.shape)))
    for one, other in pairwise(picture.groups):
        assert one.right < other.left
    in_order = sorted(zip(network.layout.order, ended, strict=True), key=lambda pair: pair[0])
    assert all(one[1].points[-1][0] < other[1].points[-1][0] for one, other in pairwise(in_order))
    for (dimension, _), line in zip(network.layout.order, ended, strict=True):
        x, y = line.points[-1]
        assert line.dimension == dimension
        assert picture.groups[dimension].left < x < picture.groups[dimension].right
        assert y == picture.groups[dimension].y < min(box.bottom for box in picture.boxes)


def uprights(line: Line) -> list[tuple[float, float, float]]:
    """The upright parts of a leg: where, from below, to above."""
    return [(x, min(y, to_y), max(y, to_y)) for (x, y), (to_x, to_y) in pairwise(line.points) if x == to_x]


def test_no_leg_passes_behind_a_core(picture: NetworkPicture) -> None:
    for line in picture.lines:
        for x, low, high in uprights(line):
            for box in picture.boxes:
                crosses = box.left < x < box.right and low < box.bottom and box.top < high
                assert not crosses or box.is_bridge, (line, box)


def test_no_leg_lies_on_another(picture: NetworkPicture) -> None:
    parts = [part for line in picture.lines for part in uprights(line)]
    for (x, low, high), (other_x, other_low, other_high) in combinations(parts, 2):
        assert abs(x - other_x) > 0.1 or high <= other_low or other_high <= low


def test_bridges_are_only_where_legs_must_pass() -> None:
    bridges = {
        name: [box.core for box in network_picture(one).boxes if box.is_bridge] for name, one in NETWORKS.items()
    }
    periodic = bridges["MERA, periodic, mixing"]
    assert periodic
    assert all("disentangler" in core for core in periodic)
    assert not any(
        bridges[name] for name in ("TTN", "AugmentedTTN", "MERA", "Brickwall, depth 3", "TensorTrain", "Tucker")
    )


def box_of(words: Words) -> tuple[float, float, float, float]:
    """About where a text stands: left, right, bottom, top; letters of 0.17, lines of 0.37."""
    width, height = 0.17 * max(map(len, words.lines)), 0.37 * len(words.lines)
    left = words.x - {"left": 0, "center": width / 2, "right": width}[words.align]
    return left, left + width, words.y - height / 2, words.y + height / 2


def test_no_text_covers_another_or_a_core_and_all_is_inside(picture: NetworkPicture) -> None:
    texts = [box_of(words) for words in picture.words]
    boxes = [(box.left, box.right, box.bottom, box.top) for box in picture.boxes]
    for left, right, bottom, top in [*texts, *boxes]:
        assert picture.left <= left < right <= picture.right
        assert picture.bottom <= bottom < top <= picture.top
    for number, (left, right, bottom, top) in enumerate(texts):
        for other in [*texts[:number], *boxes]:
            assert right <= other[0] or other[1] <= left or top <= other[2] or other[3] <= bottom


def test_the_numbers_beside_the_levels_are_all_parameters(network: Network, picture: NetworkPicture) -> None:
    counts = [words.lines[1] for words in picture.words if words.role == "level"]
    stored = [int(text.split()[0].replace(",", "")) for text in counts if text != "shared"]
    assert sum(stored) == network.parameters
    assert len(counts) == len(network.levels) + 1


def test_activations_stand_where_they_are(network: Network, picture: NetworkPicture) -> None:
    named = [words for words in picture.words if words.role == "activation"]
    expected = [str(level.activation) for level in network.levels if not level.activation.is_identity]
    assert [words.lines[0] for words in named] == expected
    assert [words.y for words in named] == list(picture.activations)
    for y in picture.activations:
        assert not any(box.bottom <= y <= box.top for box in picture.boxes)


KINDS = {
    "TTN": {"top", "isometry"},
    "MERA": {"top", "isometry", "disentangler"},
    "Brickwall, 24 legs": {"top", "gate"},
    "TensorTrain, depth 2": {"core"},
    "LowRank": {"core"},
    "Tucker": {"top", "isometry"},
}


@pytest.mark.parametrize(("name", "kinds"), KINDS.items(), ids=KINDS)
def test_cores_are_named_by_what_they_do(name: str, kinds: set[str]) -> None:
    assert {*network_picture(NETWORKS[name]).kinds} == kinds


def test_a_chain_stands_side_by_side() -> None:
    picture = network_picture(adntn.TensorTrain((8, 8), bond=2).network)
    assert len({box.top for box in picture.boxes}) == 1
    joined = [line for line in picture.lines if line.end is not None]
    assert [(line.start, line.end) for line in joined] == [(n, n + 1) for n in range(5)]


def test_a_tree_grows_downwards_and_parents_stand_above_the_middle_of_their_children() -> None:
    picture = network_picture(adntn.TTN((16, 16), bond=2, leg=2).network)
    boxes = {box.core: box for box in picture.boxes}
    for line in picture.lines:
        if line.end is not None:
            assert picture.boxes[line.start].bottom > picture.boxes[line.end].top
    for box in boxes.values():
        if box.kind == "isometry":
            assert box.entering == (sum(box.leaving) / len(box.leaving),)
