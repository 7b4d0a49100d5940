"""The protocol ids that streams are opened with; one number per protocol, raised when it breaks."""

CONTROL_PROTOCOL = "/helix-p2p/control/1"
"""Questions and answers: plan, members, the model's small files, status, probes."""

MEMBER_PROTOCOL = "/helix-p2p/member/1"
"""Membership among members: pings, beats, plans, rumours."""

CLIENT_PROTOCOL = "/helix-p2p/client/1"
"""Client and entry peer: generations, many on one stream."""

PEER_PROTOCOL = "/helix-p2p/peer/1"
"""Entry peer and stages: reservations, activations, tokens."""
