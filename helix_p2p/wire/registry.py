"""Which number on the wire means which message; numbers are for ever, never reused.

Ranges: 1–31 membership and control, 32–63 client and entry peer, 64–95 entry peer and stages.
"""

from helix_p2p.membership import messages as m
from helix_p2p.session import messages as s
from helix_p2p.session import recheck_messages as r

Message = (
    m.Hello
    | m.Ping
    | m.Pong
    | m.GetPlan
    | m.PlanReply
    | m.GetMembers
    | m.MembersReply
    | m.Beat
    | m.GetFile
    | m.FileReply
    | m.GetStatus
    | m.StatusReply
    | m.Probe
    | m.ProbeReply
    | m.ErrorReply
    | m.PeerGone
    | m.PushPlan
    | m.PushProof
    | m.PushRevocations
    | m.Heartbeat
    | m.GetRootWords
    | m.RootWords
    | s.Generate
    | s.Cancel
    | s.Delivered
    | s.Refused
    | s.Open
    | s.Opened
    | s.Close
    | s.Forward
    | s.Sampled
    | s.StageFailed
    | r.GetTrace
    | r.TraceReply
    | r.Rerun
    | r.RerunReply
)

TYPE_OF_NUMBER: dict[int, type[Message]] = {
    1: m.Hello,
    2: m.Ping,
    3: m.Pong,
    4: m.GetPlan,
    5: m.PlanReply,
    6: m.GetMembers,
    7: m.MembersReply,
    8: m.Beat,
    9: m.GetFile,
    10: m.FileReply,
    11: m.GetStatus,
    12: m.StatusReply,
    13: m.Probe,
    14: m.ProbeReply,
    15: m.ErrorReply,
    16: m.PeerGone,
    17: m.PushPlan,
    18: m.PushProof,
    19: m.PushRevocations,
    20: m.Heartbeat,
    21: m.GetRootWords,
    22: m.RootWords,
    32: s.Generate,
    33: s.Cancel,
    34: s.Delivered,
    35: s.Refused,
    64: s.Open,
    65: s.Opened,
    66: s.Close,
    67: s.Forward,
    68: s.Sampled,
    69: s.StageFailed,
    70: r.GetTrace,
    71: r.TraceReply,
    72: r.Rerun,
    73: r.RerunReply,
}

NUMBER_OF_TYPE: dict[type[Message], int] = {cls: n for n, cls in TYPE_OF_NUMBER.items()}
