"""The path of a case, as text: for each finding that is about the way of a connection, where it goes wrong on that way.

A picture has a line for each place, in the order in which a packet or a word passes: the place; who stands as the
source and where it goes; what happens there. × marks what the finding is about, ✓ what saves the day. Findings that are
about no way (`PATHLESS`) have none.
"""

from __future__ import annotations

#: Findings that are not about a way: about objects (7xx), about what a capture saw, about configurations.
PATHLESS = frozenset({
    "SIP423", "SIP425", "SIP507", "SIP508", "SIP618", "SIP901", "SIP902", "SIP903", "SIP904", "SIP905",
})  # fmt: skip

_TOLD = {
    "SIP101": """
client | client → node1:30080
node1 | node1 → pod | × kube-proxy masquerades, as policy Cluster asks
pod, on any node | node1 → pod | the client is gone""",
    "SIP102": """
client | client → node1:30080
node1, kube-proxy | client → pod | policy Local keeps the source
node1, CNI | node1 → pod | × a masquerade rule of the network plugin
pod | node1 → pod | the client is gone""",
    "SIP103": """
client | client → LB:80
LB | LB → node1:30080 | × the balancer translates the source
node1 | LB → pod | nothing here can bring it back""",
    "SIP104": """
client | client → LB:80
LB | LB → node1:30080 | × a connection of its own, without a PROXY header
pod | LB → pod | the client is gone""",
    "SIP105": """
client | client → node1:80
svclb pod on node1 | svclb → Service | × the pod masquerades what it forwards
ingress | svclb → ingress | the client is gone""",
    "SIP106": """
client | client → Service
node1 | node1 → pod | × kube-proxy masquerades everything
pod | node1 → pod | the client is gone""",
    "SIP107": """
pod outside clusterCIDR | pod → cluster IP
node1 | node1 → endpoint | × taken for a client from outside
endpoint | node1 → endpoint | the pod is gone""",
    "SIP108": """
client | client → external IP
node1, IPVS | node1 → pod | × marked for masquerade even under policy Local
pod | node1 → pod | the client is gone""",
    "SIP109": """
pod | pod → cluster IP
node, kube-proxy | bridge → the same pod | masqueraded, or it would drop its own packet""",
    "SIP110": """
process on node1 | node1 → Service
node1, kube-proxy | node1 → pod | the source is made one that the pod can answer""",
    "SIP111": """
client | client → …
somewhere | ? → pod | × replaced by a rule that nothing names
pod | ? → pod | the client is gone""",
    "SIP201": """
client | client → node1:30080
node1 | client → … | × no endpoint here, and policy Local: dropped
client | | waits, and asks again""",
    "SIP202": """
client | client → node1:30080
node1 | client → … | × no endpoint anywhere: rejected""",
    "SIP203": """
client | client → node1:30080
node1 | client → … | × nothing goes on, and nothing calls for that
client | | waits, and asks again""",
    "SIP204": """
client | client → node1:30080
pod | … → pod | × RST: nothing listens on that port""",
    "SIP205": """
client | client → LB address
node1 | client → … | × not in loadBalancerSourceRanges: dropped""",
    "SIP206": """
client | client → node1:30080
node1 | client → … | × answered with RST or ICMP before it is forwarded""",
    "SIP301": """
client | client → LB:80
LB | LB → node1:30080 | ✓ first bytes: PROXY … client …
ingress | LB → ingress | reads the client from the header""",
    "SIP302": """
LB | LB → ingress | first bytes: PROXY … client …
ingress | ingress → LB | × 400, or closed: it expects none""",
    "SIP303": """
LB | LB → ingress | × first bytes: PROXY, and then against the specification
ingress | | refuses, or takes nobody""",
    "SIP304": """
? | ? → ingress | × first bytes: PROXY … client …, and nobody knows the sender""",
    "SIP305": """
client | client → ingress | × first bytes: PROXY … somebody else …
ingress | | takes somebody else for the client""",
    "SIP306": """
LB | LB → ingress | first bytes: PROXY … client …
ingress | | × the peer is not one that it trusts
app | ingress → app | told: LB, or the node""",
    "SIP307": """
client or LB | … → ingress | first bytes: GET /
ingress | ingress → … | × closed without a byte: it waits for a header""",
    "SIP308": """
LB | LB → ingress:443 | first bytes: PROXY … client …, then TLS
ingress | ingress → LB | × alert, 400, or closed: it expects TLS at once""",
    "SIP309": """
LB | LB → ingress | first bytes: a PROXY header of one version
ingress | ingress → LB | × refused; it takes the other version""",
    "SIP310": """
LB | LB → ingress | segment 1: PROXY TCP4 203.0
LB | LB → ingress | × segment 2: .113.9 …
ingress | | many servers refuse that""",
    "SIP311": """
LB 1 | LB 1 → LB 2 | PROXY … client …
LB 2 | LB 2 → ingress | × PROXY … LB 1 … PROXY … client …
ingress | | takes LB 1 for the client, and the rest for a broken request""",
    "SIP312": """
LB | LB → ingress | first bytes: PROXY … UDP, UNIX or UNSPEC …
ingress | ingress → LB | × refused: of a family that it does not take""",
    "SIP313": """
client | client → LB:80
LB | LB → ingress | × first bytes: PROXY … somebody else …
ingress | | takes somebody else for the client""",
    "SIP314": """
LB | LB → ingress | first bytes: PROXY UNKNOWN, or LOCAL
ingress | | takes LB for the client""",
    "SIP315": """
client | client → LB:80
LB | LB → node1:30080 | first bytes: PROXY … client …
node1 | node1 → ingress | policy Cluster masquerades LB's address
ingress | | ✓ reads the client from the header""",
    "SIP316": """
client | client → edge | no word about itself
edge | edge → LB | X-Forwarded-For: client
LB | LB → ingress | × first bytes: PROXY … edge …, then the request
ingress | | takes edge for the client, and reads no field""",
    "SIP401": """
client | client → node1:30080
node1 | … → pod | no endpoint chosen here
node2 | … → pod | one hop more""",
    "SIP402": """
pod | pod → LB address
node1, kube-proxy | pod → endpoint | led there at once
LB | | never sees it, and adds no PROXY header""",
    "SIP403": """
client | client → node1:30080
node1 | client → pod | ✓ the datapath keeps the source, policy Cluster or not
pod | client → pod""",
    "SIP404": """
client | client → node1:30080
node1 | client → pod | no ready endpoint is left
terminating pod | client → pod | ✓ it still serves; the health check says 503""",
    "SIP421": """
client | client → node1:30080
node1, own firewall | node1 → pod | × the kernel names the rule: it is the host's
pod | node1 → pod | the client is gone""",
    "SIP422": """
client | client → node1:30080
node1, packet filter | client → … | × the kernel names the rule that drops or rejects""",
    "SIP424": """
client | client → node1:30080
node1 | node1 → pod | × a rule of policy Cluster; the Service says Local
pod | node1 → pod | the client is gone""",
    "SIP426": """
client | client → node1:30080
node1 | client → … | × no room in the table of connections: dropped, without an answer""",
    "SIP427": """
client | client → node1:30080
node1 | node1 → pod | × its record is evicted before the connection is established
node1 | pod → … | the answer meets no record, and is not translated back""",
    "SIP431": """
client | client → LB:80
LB | LB → node1:30080 | X-Forwarded-For: client
node1 | node1 → ingress | × policy Cluster masquerades LB's address
ingress | node1 → ingress | believes LB alone, and takes node1 for the client""",
    "SIP432": """
client | client → node1:30080
node1 | … → pod on node2 | × no endpoint here, policy Local, and yet forwarded""",
    "SIP501": """
ingress | ingress → app | X-Forwarded-For: client
app | | × does not believe it: takes ingress for the client""",
    "SIP502": """
LB | LB → ingress | X-Forwarded-For: client
ingress | | × does not believe LB
app | ingress → app | told: LB""",
    "SIP503": """
LB | LB → ingress | X-Forwarded-For: client
ingress | ingress → app | × X-Forwarded-For: LB""",
    "SIP504": """
client | client → ingress | X-Forwarded-For: somebody else
ingress | ingress → app | × X-Forwarded-For: somebody else
app | | takes somebody else for the client""",
    "SIP505": """
client | client → LB:80
LB | LB → ingress | X-Forwarded-For: client
ingress | | ✓ believes LB, and LB alone""",
    "SIP506": """
client | client → ingress | X-Forwarded-For: somebody else
ingress | ingress → app | ✓ told: client""",
    "SIP509": """
anybody | anybody → ingress | X-Forwarded-For: whoever
ingress | | × its list holds every address""",
    "SIP601": """
LB | LB → node1:healthCheckNodePort
node1 | node1 → LB | × 200, without an endpoint
client, by LB | LB → node1:30080 | dropped""",
    "SIP602": """
LB | LB → node1:healthCheckNodePort
node1 | node1 → LB | × refused, or nothing""",
    "SIP603": """
LB | LB → node1:healthCheckNodePort
node1 | node1 → LB | × 503, with ready endpoints
client, by LB | | never sent there""",
    "SIP604": """
LB | LB → node1:10256/healthz | × not the healthCheckNodePort
node1 | node1 → LB | 200: kube-proxy is well
client, by LB | LB → node1:30080 | dropped where no endpoint is""",
    "SIP605": """
LB | LB → node1:healthCheckNodePort | × first bytes: PROXY …
node1 | node1 → LB | 400, or closed""",
    "SIP606": """
LB | LB → node1:healthCheckNodePort
node1 | node1 → LB | 503, again and again
client, by LB | LB → node1:30080 | × sent there nevertheless""",
    "SIP607": """
node1 | | its last endpoint goes
LB | LB → node1:healthCheckNodePort | 503, once, twice, …
client, by LB | LB → node1:30080 | × sent there until enough checks have failed""",
    "SIP608": """
LB | LB → node1:healthCheckNodePort
node1 | node1 → LB | × 200, and localEndpoints: 0 in its body
client, by LB | LB → node1:30080 | dropped""",
    "SIP609": """
LB | LB → node1:healthCheckNodePort
node1 | node1 → LB | 503: no endpoint
client, by LB | LB → node2:30080 | ✓ sent to others""",
    "SIP610": """
node1 | | its last ready endpoint goes
client, by LB | LB → node1:30080 | still sent there
terminating pod | … → pod | ✓ serves until the balancer has noticed""",
    "SIP611": """
node1 | node1 → node1:healthCheckNodePort | 200
node2 | node2 → node1:healthCheckNodePort | × nothing comes back
LB | LB → node1:healthCheckNodePort | nor to the balancer, perhaps""",
    "SIP612": """
LB | LB → node1:healthCheckNodePort
node1 | node1 → LB | × localEndpoints: 4; the EndpointSlices show another number""",
    "SIP613": """
LB | LB → node1:10256/healthz
node1 | node1 → LB | × 503: kube-proxy's rules are out of date""",
    "SIP614": """
LB | LB → node1, which is being deleted
node1 | node1 → LB | × 200
client, by LB | LB → node1:30080 | sent there until it is gone""",
    "SIP615": """
LB | LB → node1:10256/healthz
node1 | node1 → LB | × refused, or nothing""",
    "SIP616": """
LB | LB → node1:healthCheckNodePort
something on node1 | node1 → LB | × 404, another Service, or no HTTP""",
    "SIP617": """
LB | LB → node1, which is being deleted
node1 | node1 → LB | 503
client, by LB | LB → node2:30080 | ✓ sent to others""",
}


def rows(code: str) -> list[tuple[str, str, str]]:
    """The picture of a finding: for each place, who goes where, and what happens; none where it is about no way."""
    lines = [[part.strip() for part in line.split("|")] for line in _TOLD.get(code, "").split("\n") if line]
    return [(*line, "", "")[:3] for line in lines]  # type: ignore[misc]  # three, whatever was left out


def picture(code: str) -> str:
    """The same as lines of columns."""
    told = rows(code)
    place, way = (max((len(row[column]) for row in told), default=0) for column in (0, 1))
    return "\n".join(f"{row[0]:<{place}}  {row[1]:<{way}}  {row[2]}".rstrip() for row in told)
