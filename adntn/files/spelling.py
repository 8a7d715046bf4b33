"""How a generator is spelled out in plain values of JSON, and read back: every core, leg, level and activation.

Nothing is left to the code of topologies, so that a file means the same when they change. What is read is checked in
full; activations are looked up by name, nothing is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping

from adntn.activations import ACTIVATIONS, Activation
from adntn.files.values import FormatError, Json, fields, integer, integers, items, named, product, shown, text, texts
from adntn.generator import Generator
from adntn.network import Core, Leg, Level, Network, Node
from adntn.program.lower import choose_paths
from adntn.shapes import LARGEST_RANK, Layout


def spelled(generator: Generator) -> Json:
    """Return a generator in plain values.

    >>> import adntn
    >>> spelled(adntn.LowRank((6, 4), rank=2))["levels"]
    [{'nodes': [['left', ['s0.0', 'rank']], ['right', ['rank', 's0.1']]], 'output': ['s0.0', 's0.1']}]

    Raises:
        ValueError: if an activation is the user's own.
    """
    network = generator.network
    layout = network.layout
    made: dict[str, Json] = {
        "topology": network.topology,
        "shape": layout.shape,
        "factors": layout.factors,
        "order": layout.order,
        "cores": {core.name: _spelled_core(core) for core in network.cores},
        "levels": [_spelled_level(level) for level in network.levels],
    }
    if network.batch is not None:
        made["batch"] = network.batch
    if any(path is not None for path in generator.paths):
        made["paths"] = generator.paths
    return made


def _spelled_core(core: Core) -> Json:
    made: dict[str, Json] = {"shape": core.shape}
    if core.inputs:
        made["inputs"] = core.inputs
    if core.start != "isometry":
        made["start"] = core.start
    return made


def _spelled_level(level: Level) -> Json:
    made: dict[str, Json] = {
        "nodes": [[node.core, [leg.label for leg in node.legs]] for node in level.nodes],
        "output": [leg.label for leg in level.output],
    }
    if not level.activation.is_identity:
        made["activation"] = _name_of(level.activation)
    return made


def _name_of(activation: Activation) -> str:
    if ACTIVATIONS.get(activation.name) != activation:
        raise ValueError(
            f"activation {activation.name!r} is one of your own: a file holds no code, so that it cannot be written;"
            f" those that can are {', '.join(ACTIVATIONS)}"
        )
    return activation.name


def generator_from(spelling: Json, where: str = "the generator") -> Generator:
    """Return the generator that plain values spell out.

    >>> import adntn, json
    >>> generator = adntn.MERA((16, 12), bond=2)
    >>> generator_from(json.loads(json.dumps(spelled(generator)))) == generator
    True

    Args:
        spelling: values such as `json.loads` returns; anything may stand there.
        where: what is read, for errors.

    Raises:
        FormatError: if they spell no generator; the message says where.
    """
    required = ("topology", "shape", "factors", "order", "cores", "levels")
    given = fields(spelling, where, required, ("batch", "paths"))
    cores = tuple(
        _core(name, value, f"core {name!r} of {where}")
        for name, value in named(given["cores"], f"the cores of {where}").items()
    )
    batch = given.get("batch")
    if batch is not None:
        batch = integer(batch, f"batch of {where}")
    sizes = {core.name: core.shape for core in cores}
    try:
        levels = _levels(given["levels"], sizes, where)
        network = Network(text(given["topology"], f"topology of {where}"), _layout(given, where), cores, levels, batch)
        generator = Generator(network)
        for number, path in enumerate(_paths(given.get("paths"), len(levels), where)):
            if path is not None:
                generator = Generator(network, choose_paths(network, path, number, generator.paths))
    except FormatError:
        raise
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where} is none: {str(error)[:300]}") from error
    product((*network.layout.padded_shape, batch or 1), where)
    return generator


def _core(name: str, value: Json, where: str) -> Core:
    given = fields(value, where, ("shape",), ("inputs", "start"))
    shape = integers(given["shape"], f"the shape of {where}")
    product(shape, where)
    inputs = integers(given.get("inputs", []), f"the inputs of {where}", least=0)
    if any(axis >= len(shape) for axis in inputs) or len(set(inputs)) < len(inputs):
        raise FormatError(f"the inputs of {where} must be different ones of its {len(shape)} axes")
    start = given.get("start", "isometry")
    if start == "identity" and not (len(shape) == 4 and shape[:2] == shape[2:]):
        raise FormatError(f"{where} starts at the identity, for which its shape must be (p, q, p, q)")
    if start not in ("isometry", "identity"):
        raise FormatError(f"the start of {where} must be 'isometry' or 'identity', got {shown(start)}")
    return Core(name, shape, inputs, start)


def _layout(given: Mapping[str, Json], where: str) -> Layout:
    shape = integers(given["shape"], f"the shape of {where}")
    groups = items(given["factors"], f"the factors of {where}")
    factors = tuple(integers(group, f"the factors of {where}") for group in groups)
    order = tuple(integers(pair, f"the order of {where}", least=0) for pair in items(given["order"], f"order {where}"))
    if not 1 <= len(shape) <= LARGEST_RANK:
        raise FormatError(f"the shape of {where} must have 1 to {LARGEST_RANK} dimensions, got {len(shape)}")
    if len(factors) != len(shape):
        raise FormatError(f"{where} must have factors for each of its {len(shape)} dimensions, got {len(factors)}")
    for dimension, (size, group) in enumerate(zip(shape, factors, strict=True)):
        if product(group, where) < size:
            raise FormatError(f"the factors of {where} must reach its shape, those of dimension {dimension} do not")
    legs = [(dimension, place) for dimension, group in enumerate(factors) for place in range(len(group))]
    if sorted(order) != legs:
        raise FormatError(f"the order of {where} must name each leg of its factors once")
    return Layout(shape, factors, tuple((dimension, place) for dimension, place in order))


def _levels(value: Json, sizes: Mapping[str, tuple[int, ...]], where: str) -> tuple[Level, ...]:
    levels: list[Level] = []
    state: tuple[Leg, ...] = ()
    for number, each in enumerate(items(value, f"the levels of {where}")):
        place = f"level {number} of {where}"
        given = fields(each, place, ("nodes", "output"), ("activation",))
        nodes = tuple(_node(node, sizes, place) for node in items(given["nodes"], f"the nodes of {place}"))
        known = {leg.label: leg for legs in (state, *(node.legs for node in nodes)) for leg in legs}
        labels = texts(given["output"], f"the output of {place}")
        if unknown := [label for label in labels if label not in known]:
            raise FormatError(f"{place} puts out the leg {shown(unknown[0])}, which it does not have")
        name = given.get("activation", "identity")
        if not isinstance(name, str) or name not in ACTIVATIONS:
            raise FormatError(f"{place} has the activation {shown(name)}; known are {', '.join(ACTIVATIONS)}")
        levels.append(Level(nodes, tuple(known[label] for label in labels), ACTIVATIONS[name]))
        state = levels[-1].output
    if not levels:
        raise FormatError(f"{where} has no level")
    return tuple(levels)


def _node(value: Json, sizes: Mapping[str, tuple[int, ...]], where: str) -> Node:
    pair = items(value, f"each node of {where}")
    if len(pair) != 2 or not isinstance(pair[0], str) or pair[0] not in sizes:
        raise FormatError(f"each node of {where} must be the name of a core and its legs, got {shown(value)}")
    name, labels = pair[0], texts(pair[1], f"the legs of {pair[0]!r} in {where}")
    if len(labels) != len(sizes[name]):
        raise FormatError(f"core {name!r} in {where} must have {len(sizes[name])} legs, got {len(labels)}")
    return Node(name, tuple(Leg(label, size) for label, size in zip(labels, sizes[name], strict=True)))


def _paths(value: Json, count: int, where: str) -> list[Json]:
    if value is None:
        return []
    paths = items(value, f"the paths of {where}")
    if len(paths) != count:
        raise FormatError(f"{where} must have a path, or null, for each of its {count} levels, got {len(paths)}")
    return [
        path
        if path is None
        else [integers(step, f"a path of {where}", least=0) for step in items(path, f"a path of {where}")]
        for path in paths
    ]
