"""hivemind's libp2p and DHT without the rest of it.

`import hivemind` brings torch, optimizers and averagers: 3.9 s and some 300 MB, of which a swarm's
network needs nothing. Its packages' `__init__` files are what pulls them in; the modules behind
`hivemind.p2p` and `hivemind.dht.node` import each other only. So the three packages are set up here
as bare namespaces over the installed folders, and the modules are imported one by one: 0.15 s and
38 MB for the whole process (2-core machine, hivemind 1.1.12).

Always: hivemind's marks on the process are wiped off: its log handler, and its renaming of the
WARNING level. It sets no signal handler and starts no process this way (measured). When a hivemind
is installed that no longer fits, the plain import is the way back: slower, otherwise equal.
"""

import importlib
import importlib.util
import logging
import sys
import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from helix_p2p.errors import ConfigError

_PACKAGES = ("hivemind", "hivemind.utils", "hivemind.dht")
_UTILS = {
    "logging": ("get_logger",),
    "serializer": ("MSGPackSerializer", "SerializerBase"),
    "timed_storage": (
        "DHTExpiration",
        "MAX_DHT_TIME_DISCREPANCY_SECONDS",
        "TimedStorage",
        "ValueWithExpiration",
        "get_dht_time",
    ),
}


@dataclass(frozen=True, slots=True)
class Hivemind:
    """What net uses of hivemind; it has no type hints, so these are Any.

    Attributes:
        daemon: The go-libp2p daemon's executable.
        p2p_class: `hivemind.p2p.P2P`.
        peer_id_class: `hivemind.p2p.PeerID`.
        multiaddr_class: Parses and prints multiaddrs.
        node_class: `hivemind.dht.node.DHTNode`.
        key_class: `hivemind.dht.routing.DHTID`.
        dictionary_class: What the DHT keeps under a key that has subkeys.
        item_class: A value with its expiry.
        record_class: What a validator judges.
        serializer_class: Packs keys and values.
        messages: The daemon's control messages.
    """

    daemon: Path
    p2p_class: Any
    peer_id_class: Any
    multiaddr_class: Any
    node_class: Any
    key_class: Any
    dictionary_class: Any
    item_class: Any
    record_class: Any
    serializer_class: Any
    messages: Any


@cache
def load() -> Hivemind:
    """Import what is needed of hivemind.

    Raises:
        ConfigError: It is not installed.
    """
    spec = importlib.util.find_spec("hivemind") if "hivemind" not in sys.modules else None
    if "hivemind" not in sys.modules and (spec is None or not spec.submodule_search_locations):
        raise ConfigError(
            "hivemind is not installed", hint='install with: pip install "helix-p2p[swarm]"'
        )
    before = set(sys.modules)
    try:
        if spec is not None and spec.submodule_search_locations:
            _lay_bare_packages(Path(spec.submodule_search_locations[0]))
        library = _collect()
    except (ImportError, AttributeError):
        for name in [n for n in sys.modules if n.split(".")[0] == "hivemind" and n not in before]:
            del sys.modules[name]
        library = _collect()
    _wipe_logging()
    return library


def _lay_bare_packages(root: Path) -> None:
    for name in _PACKAGES:
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)
    utils = sys.modules["hivemind.utils"]
    for module_name, attributes in _UTILS.items():
        module = importlib.import_module(f"hivemind.utils.{module_name}")
        for attribute in attributes:
            setattr(utils, attribute, getattr(module, attribute))


def _collect() -> Hivemind:
    p2p = importlib.import_module("hivemind.p2p")
    node = importlib.import_module("hivemind.dht.node")
    folder = importlib.import_module("hivemind.hivemind_cli").__path__[0]
    return Hivemind(
        daemon=Path(folder) / "p2pd",
        p2p_class=p2p.P2P,
        peer_id_class=p2p.PeerID,
        multiaddr_class=importlib.import_module("hivemind.utils.multiaddr").Multiaddr,
        node_class=node.DHTNode,
        key_class=importlib.import_module("hivemind.dht.routing").DHTID,
        dictionary_class=importlib.import_module("hivemind.dht.storage").DictionaryDHTValue,
        item_class=importlib.import_module("hivemind.utils.timed_storage").ValueWithExpiration,
        record_class=importlib.import_module("hivemind.dht.validation").DHTRecord,
        serializer_class=importlib.import_module("hivemind.utils.serializer").MSGPackSerializer,
        messages=importlib.import_module("hivemind.proto.p2pd_pb2"),
    )


def _wipe_logging() -> None:
    """Let the application decide: hivemind's records go up the tree like anyone's."""
    importlib.import_module("hivemind.utils.logging").use_hivemind_log_handler("nowhere")
    logging.addLevelName(logging.WARNING, "WARNING")
