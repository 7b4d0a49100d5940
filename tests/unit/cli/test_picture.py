import re
from xml.etree import ElementTree

import pytest

from helix_p2p.cli.picture import picture_html, picture_svg
from helix_p2p.cluster.reference import reference_snapshot
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.planner import PlanOptions

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("planner", ["petals", "swarm"])
def test_every_peer_and_every_flow_is_drawn(planner: str) -> None:
    snapshot = reference_snapshot("geo24", "70b")
    placement = BASELINES[planner](snapshot, PlanOptions(), None, None)
    drawn = ElementTree.fromstring(picture_svg(snapshot, placement, "geo24 <70b> & more"))
    tips = [title.text or "" for title in drawn.iter(f"{SVG}title")]
    for assignment in placement.assignments:
        assert any(tip.startswith(f"{assignment.peer} (") for tip in tips)
    assert sum(" → " in tip for tip in tips) == len(placement.flows)
    reds = [node for node in drawn.iter() if node.get("class") == "cut"]
    cut = placement.min_cut
    # The legend, the line of the flow, and each part of the cut.
    assert len(reds) == 2 + len(cut.peers) + len(cut.links) + (cut.layer is not None)


def test_names_are_escaped_and_nothing_is_fetched() -> None:
    snapshot = reference_snapshot("single24", "70b")
    placement = BASELINES["petals"](snapshot, PlanOptions(), None, None)
    page = picture_html(snapshot, placement, "<script>alert(1)</script>")
    assert "<script" not in page
    links = re.findall(r"https?://[^\"' ]+", page)
    assert set(links) == {"http://www.w3.org/2000/svg"}
    assert page.count("<tr") == 25
