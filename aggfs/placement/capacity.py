"""How much fits: the largest T that can be spread k-of-n with at most q fragments a provider.

T bytes of data become n*T/k bytes of fragments, and no provider may hold more than q*T/k of them.
So T fits if a flow of n*T/k exists through this network (everything multiplied by k, to stay with
whole numbers):

    source --q*T--> provider --k*(sum of its accounts there)--> pool --k*(its space)--> sink

An account that shares its space with nobody is a pool of its own; then the flow is simply
sum over providers of min(capacity, q*T/k). The largest flow is the smallest cut, a cut is a line
A + B*T, and n*T must stay below all of them: starting from the sum of all capacities, each cut
that is too low gives a lower T, until none is (Dinkelbach's method; a handful of rounds).
"""

from collections import deque
from collections.abc import Hashable, Mapping

Node = Hashable
Network = dict[Node, dict[Node, int]]

SOURCE = "source"
SINK = "sink"


def largest_volume(
    accounts: Mapping[tuple[str, str], int],
    pools: Mapping[str, int],
    *,
    n: int,
    k: int,
    q: int,
) -> int:
    """The largest T in bytes. `accounts`: (provider, pool) -> bytes; `pools`: pool -> bytes."""
    providers = {provider for provider, _ in accounts}
    total = min(sum(accounts.values()), sum(pools.values()))
    volume = total * k // n
    while volume > 0:
        network = _network(accounts, pools, providers, capped=q * volume, k=k)
        flow = _saturate(network)
        if flow >= n * volume:
            break
        reached = _reachable(network)
        crossing = sum(("provider", provider) not in reached for provider in providers)
        constant = flow - crossing * q * volume  # the cut is: constant + crossing * q * T
        volume = min(volume - 1, constant // (n - crossing * q))
    return max(0, volume)


def _network(
    accounts: Mapping[tuple[str, str], int],
    pools: Mapping[str, int],
    providers: set[str],
    *,
    capped: int,
    k: int,
) -> Network:
    """Residual capacities of the network above, edges and their reverses."""
    network: Network = {SOURCE: {}, SINK: {}}
    for provider in providers:
        network[SOURCE]["provider", provider] = capped
        network["provider", provider] = {SOURCE: 0}
    for pool, space in pools.items():
        network["pool", pool] = {SINK: k * space}
        network[SINK]["pool", pool] = 0
    for (provider, pool), space in accounts.items():
        network["provider", provider]["pool", pool] = k * space
        network["pool", pool]["provider", provider] = 0
    return network


def _saturate(network: Network) -> int:
    """Push all that fits from source to sink (Edmonds and Karp); how much that was."""
    flow = 0
    while path := _shortest_path(network):
        room = min(network[a][b] for a, b in path)
        for a, b in path:
            network[a][b] -= room
            network[b][a] += room
        flow += room
    return flow


def _shortest_path(network: Network) -> list[tuple[Node, Node]]:
    """Edges from source to sink that still have room; empty if there is no way."""
    came_from = _search(network)
    path = []
    node: Node = SINK
    while node in came_from and node != SOURCE:
        path.append((came_from[node], node))
        node = came_from[node]
    return path


def _reachable(network: Network) -> set[Node]:
    return set(_search(network))


def _search(network: Network) -> dict[Node, Node]:
    """Every node that the source still reaches, with the node before it."""
    came_from: dict[Node, Node] = {SOURCE: SOURCE}
    queue: deque[Node] = deque([SOURCE])
    while queue:
        node = queue.popleft()
        for neighbour, room in network[node].items():
            if room > 0 and neighbour not in came_from:
                came_from[neighbour] = node
                queue.append(neighbour)
    return came_from
