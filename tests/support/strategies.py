"""What Hypothesis draws: generators of small weights, of every topology with every option."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

import adntn

bonds, layouts = st.integers(1, 3), st.sampled_from(["split", "interleaved"])
shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def generators(
    draw: st.DrawFn, activations: Sequence[str], shapes: st.SearchStrategy[tuple[int, ...]] = shapes
) -> adntn.Generator:
    """Any generator of a small weight."""
    f, last = draw(st.sampled_from(activations)), draw(st.sampled_from(activations))
    batch = draw(st.sampled_from([None, None, 1, 2]))
    bond, shape = draw(bonds), draw(shapes)
    common = {"activation": f, "last_activation": last, "batch": batch}
    tree = {**common, "bond": bond, "leg": draw(st.integers(1, 4)), "layout": draw(layouts)}
    mixing = {"mixing_activation": draw(st.sampled_from(activations))}
    share = {"share": draw(st.sampled_from([None, "level", "all"]))}
    border = {"border": draw(st.sampled_from(["open", "periodic"]))}
    deep = {**common, "depth": draw(st.integers(1, 3)), "layout": tree["layout"]}
    choices = [
        adntn.TTN.options(**tree, **share, arity=draw(st.integers(2, 3))),
        adntn.AugmentedTTN.options(**tree, **share, **mixing),
        adntn.MERA.options(**tree, **share, **mixing, **border),
        adntn.Brickwall.options(**deep, **share),
        adntn.TensorTrain.options(**deep, bond=bond),
        adntn.Tucker.options(**common, rank=bond),
    ]
    if len(shape) > 1:
        choices.append(adntn.LowRank.options(rank=bond, last_activation=last, batch=batch))
    return draw(st.sampled_from(choices))(shape)
