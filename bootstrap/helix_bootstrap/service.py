"""`helix-bootstrap run`: the node, the lines that others paste, and its end.

Always: the invites are printed once the node can be reached, not before; the card that `invite`
needs is on disk by then.
"""

import ipaddress
import time

from helix_bootstrap.invites import SwarmCard, new_invite, write_card
from helix_p2p.cli.control import serving_status
from helix_p2p.cli.events import EventPrinter
from helix_p2p.cli.ports import check_port_is_free
from helix_p2p.cli.running import StopRequest, run_service
from helix_p2p.membership.credentials import Role
from helix_p2p.node.bootstrap import BootstrapNode
from helix_p2p.node.config import BootstrapConfig
from helix_p2p.node.events import NodeEvent
from helix_p2p.node.status import encode_status


def serve(config: BootstrapConfig, *, as_json: bool) -> None:
    """Run a bootstrap node until it is asked to stop.

    Raises:
        HelixError: It cannot start, or its daemon died; one line says why.
    """
    check_port_is_free(config.network.host, config.network.port)
    printer = EventPrinter(as_json=as_json)
    printer.show(NodeEvent("starting", "reading the model and opening the way in"))

    async def service(stop: StopRequest) -> None:
        async with (
            BootstrapNode.running(config, printer.show) as node,
            serving_status(config.state_dir, lambda: encode_status(node.status())),
        ):
            _welcome(node, config, printer)
            stop.begun()
            await stop.wait()
            printer.show(NodeEvent("leaving", "leaving; members go on without this node"))

    run_service(service)


def _welcome(node: BootstrapNode, config: BootstrapConfig, printer: EventPrinter) -> None:
    card = SwarmCard(
        swarm=node.belonging.swarm,
        open_swarm=config.open_swarm,
        addresses=useful_addresses(node.addresses),
        model_name=node.manifest.name,
        manifest_hash=node.manifest.manifest_hash,
    )
    write_card(config.state_dir, card)
    invite = new_invite(config.state_dir, card, days=config.invite_days, now_unix_s=time.time())
    guest = invite
    if not card.open_swarm:
        guest = new_invite(
            config.state_dir,
            card,
            [Role.CLIENT],
            days=config.invite_days,
            now_unix_s=time.time(),
        )
    join = f"helix-peer join {invite.to_text()}"
    chat = f"helix-p2p chat {guest.to_text()}"
    kind, until = (
        "invite-only",
        (
            f"Both lines hold for {config.invite_days:g} days; hand them over like passwords. "
            "`helix-bootstrap invite` makes others."
        ),
    )
    if card.open_swarm:
        kind, until = "open and untrusted: nobody vouches for anybody", "Anybody may have them."
    data = {
        "swarm": card.swarm,
        "model": card.model_name,
        "manifest_hash": card.manifest_hash,
        "addresses": card.addresses,
        "invite": invite.to_text(),
        "guest_invite": guest.to_text(),
        "join": join,
        "chat": chat,
    }
    printer.say(
        f"\nThe swarm {card.swarm} is {kind}. It serves {card.model_name}, "
        f"{node.manifest.layers} layers.\n\n"
        f"  To lend a machine:   {join}\n\n"
        f"  To talk with it:     {chat}\n\n"
        f"{until}\n"
    )
    printer.show(NodeEvent("ready", f"reached at {', '.join(card.addresses)}", data))


def useful_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Those that lead here from elsewhere; all of them where none does."""
    from_elsewhere = tuple(it for it in addresses if not _is_loopback(it))
    return from_elsewhere or addresses


def _is_loopback(address: str) -> bool:
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return False
    try:
        return ipaddress.ip_address(parts[2]).is_loopback
    except ValueError:
        return False
