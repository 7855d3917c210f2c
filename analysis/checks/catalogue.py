"""The findings of `probe check`: what the objects say before any packet. A code is never used again.

70x policy · 71x health checks of the balancer · 72x spread of the pods · 73x PROXY protocol · 74x whom the ingress
believes · 75x whom the application believes · 76x datapaths · 77x how pods begin and end · 78x the balancer's own.
"""

from __future__ import annotations

from analysis.catalogue.definition import Definition
from analysis.report import Severity

DEFINITIONS = (
    Definition(
        "SIP701", Severity.ERROR, "Policy Local stands on the application's Service, not on the ingress controller's",
        "externalTrafficPolicy decides at the Service by which traffic enters the cluster. Behind an ingress "
        "that is the "
        "controller's Service. On the application's Service the policy changes nothing for clients that come "
        "through the "
        "ingress, and the controller's Service, with policy Cluster, has their addresses replaced by kube-proxy.",
        "Set externalTrafficPolicy: Local on the ingress controller's Service, and take it from the application's.",
    ),
    Definition(
        "SIP702", Severity.ERROR, "kube-proxy will replace the client's address (externalTrafficPolicy: Cluster)",
        "With policy Cluster kube-proxy masquerades every connection from outside, also where the endpoint runs on the "
        "node that was asked. The endpoint sees an address of the node. No PROXY header names the client either.",
        "Set externalTrafficPolicy: Local on this Service; run endpoints on every node that the balancer uses, and let "
        "it check the health check node port.",
    ),
    Definition(
        "SIP703", Severity.WARNING, "The application's Service is reached from outside, past the ingress",
        "A Service behind an ingress is of a type that opens ports to the outside. Who asks those does not pass the "
        "ingress: what it says of clients, checks and limits does not hold for him.",
        "Make the application's Service a ClusterIP, unless it is meant to be asked directly.",
    ),
    Definition(
        "SIP704", Severity.ERROR, "externalTrafficPolicy stands on a Service that has no traffic from outside",
        "The API server refuses externalTrafficPolicy on a Service of type ClusterIP without external IPs, so the "
        "object cannot be applied as it is written.",
        "Take the field away here, and set it on the Service by which traffic enters the cluster.",
    ),
    Definition(
        "SIP705", Severity.WARNING, "internalTrafficPolicy: Local drops requests of the ingress",
        "With internalTrafficPolicy: Local a client inside the cluster, such as the ingress, reaches endpoints of its "
        "own node only. On a node without one its connections are dropped. It has nothing to do with the client's "
        "address, which it is often mistaken for.",
        "Take internalTrafficPolicy away, unless every node with a client of the Service has an endpoint of it.",
    ),
    Definition(
        "SIP706", Severity.WARNING, "Nothing outside the cluster reaches the Service",
        "The Service has no node port, no balancer and no external IP, its pods use no port of their nodes, and no "
        "Ingress that leads to it is known.",
        "Check the Service by which traffic enters the cluster: the ingress controller's.",
    ),
    Definition(
        "SIP711", Severity.ERROR, "Policy Local, and no health check node port is allocated",
        "kube-proxy answers on the healthCheckNodePort whether its node has a ready endpoint. Without it a balancer "
        "cannot know which nodes drop what it sends them.",
        "Let the API server allocate one: set the policy to Cluster and back to Local, or give "
        "spec.healthCheckNodePort.",
    ),
    Definition(
        "SIP712", Severity.WARNING, "Policy Local on a NodePort Service has no health check node port",
        "A healthCheckNodePort is allocated for Services of type LoadBalancer only. A balancer in front of the node "
        "ports has nothing to ask that tells a node without endpoint from others but the node port itself.",
        "Make the Service a LoadBalancer (also without a controller that serves it, a port is allocated), or let the "
        "balancer check the node port with a request of its own.",
    ),
    Definition(
        "SIP713", Severity.ERROR, "The balancer's health check does not ask the health check node port",
        "Under policy Local only the healthCheckNodePort, asked by plain HTTP, tells whether a node has an endpoint. "
        "Another port, such as kube-proxy's own 10256, or a check that reads no answer, keeps nodes in use that drop "
        "what they are sent.",
        "Take the annotations about port, path and protocol of the check away, or point them at the "
        "healthCheckNodePort.",
    ),
    Definition(
        "SIP714", Severity.WARNING, "The balancer's health check opens connections to the traffic port",
        "Under policy Local a connection to the node port of a node without endpoint is dropped, so such a check fails "
        "in the end; but it fails by waiting, and it succeeds while the last pod of a node is already ending, so that "
        "clients are sent to it. The healthCheckNodePort says 503 at once.",
        "Let the balancer ask the healthCheckNodePort by HTTP, path /healthz.",
    ),
    Definition(
        "SIP715", Severity.ERROR, "The balancer makes no health checks, and policy Local needs them",
        "Nodes without a ready endpoint drop connections under policy Local. A balancer that does not check sends them "
        "there all the same.",
        "Turn the balancer's health checks on.",
    ),
    Definition(
        "SIP721", Severity.WARNING, "One replica alone answers under policy Local",
        "Only the node with the pod takes connections; while the pod moves, none does.",
        "Run at least two replicas, spread over nodes, or a DaemonSet.",
    ),
    Definition(
        "SIP722", Severity.WARNING, "Nothing spreads the pods over nodes",
        "There is no topologySpreadConstraint and no anti-affinity by kubernetes.io/hostname, and it is no DaemonSet. "
        "The scheduler may put all replicas on one node; under policy Local all others then drop connections, and each "
        "pod's share of the traffic depends on chance.",
        "Add a topologySpreadConstraint by kubernetes.io/hostname, or run a DaemonSet.",
    ),
    Definition(
        "SIP723", Severity.ERROR, "All pods are on one node",
        "Under policy Local this node alone takes connections: all others drop them, and when it fails nothing "
        "answers.",
        "Spread the pods: a topologySpreadConstraint by kubernetes.io/hostname, and a rollout that applies it.",
    ),
    Definition(
        "SIP724", Severity.WARNING, "A zone has nodes and no pod",
        "Under policy Local a balancer that keeps traffic in its zone finds no node there that answers, and a "
        "zone that "
        "fails may be the one with all pods.",
        "Add a topologySpreadConstraint by topology.kubernetes.io/zone.",
    ),
    Definition(
        "SIP725", Severity.WARNING, "Pods get uneven shares of the traffic",
        "Under policy Local a balancer gives each node with an endpoint the same share, however many pods share it "
        "there. Pods that are alone on their node get more than those that are several.",
        "Run the same number of pods on each node: replicas as a multiple of the nodes with a "
        "topologySpreadConstraint, "
        "or a DaemonSet.",
    ),
    Definition(
        "SIP726", Severity.WARNING, "No PodDisruptionBudget keeps a pod running while nodes are drained",
        "Nothing stops the drain of several nodes from evicting all pods at once.",
        "Add a PodDisruptionBudget with maxUnavailable: 1.",
    ),
    Definition(
        "SIP727", Severity.WARNING, "A PodDisruptionBudget allows no eviction",
        "As many pods must stay as there are, so a drain of their nodes never ends by itself; what is then done by "
        "force ends pods without waiting for the balancer.",
        "Use maxUnavailable: 1, or fewer in minAvailable than there are replicas.",
    ),
    Definition(
        "SIP728", Severity.WARNING, "There are more replicas than nodes that may hold one",
        "A required anti-affinity or a hard spread by node lets one pod run on each node. The others stay pending, and "
        "a rollout that starts a new pod first waits for ever.",
        "Run as many replicas as nodes, or let the rule be preferred (ScheduleAnyway).",
    ),
    Definition(
        "SIP731", Severity.ERROR, "The balancer sends PROXY headers, and the ingress expects none",
        "The annotation turns the PROXY protocol on at the balancer. A server that does not expect the header takes it "
        "for an invalid request: every request is answered by 400, or TLS fails.",
        "Turn the PROXY protocol on at the ingress too, at the same time; or take the annotation away.",
    ),
    Definition(
        "SIP732", Severity.ERROR, "The ingress expects PROXY headers, and the balancer sends none",
        "A server that expects the header closes every connection that begins with something else, without a byte.",
        "Turn the PROXY protocol on at the balancer, at the same time; or take the setting from the ingress.",
    ),
    Definition(
        "SIP733", Severity.ERROR, "The value of the PROXY protocol's annotation is not one that is taken",
        "The cloud's controller reads another value than was meant, or refuses to set up the balancer.",
        "Write the value as the controller's documentation has it.",
    ),
    Definition(
        "SIP734", Severity.WARNING, "Clients inside the cluster pass by the balancer that sends PROXY headers",
        "kube-proxy sends connections to the balancer's address from inside the cluster straight to the endpoints. "
        "No balancer adds a header to them, and the ingress, which expects one, closes them.",
        "Let the balancer's controller set ipMode: Proxy, or give the balancer a host name by its annotation, so that "
        "the status holds no address.",
    ),
    Definition(
        "SIP736", Severity.ERROR, "The balancer's IP targets do not keep the client's address",
        "An NLB whose targets are pods opens the connection with its own address unless client IP preservation is "
        "turned on for the target group, whatever externalTrafficPolicy says.",
        "Set preserve_client_ip.enabled=true in the target group's attributes, or use the PROXY protocol on "
        "both sides.",
    ),
    Definition(
        "SIP741", Severity.ERROR, "The ingress does not believe the balancer: its real-IP list does not hold it",
        "The ingress reads the client's address only from peers in its list. The balancer's address is not there, so "
        "the ingress takes the balancer for the client.",
        "Put the balancer's addresses, and no wider range than needed, into the list.",
    ),
    Definition(
        "SIP742", Severity.WARNING, "The ingress believes whoever connects",
        "The list of those who may name the client admits everybody. Whoever reaches the ingress without passing the "
        "balancer, by a node port or from a pod, can choose the address that the application sees.",
        "List the balancer's addresses only. Where the product has no list of whose PROXY headers it takes, let only "
        "the balancer reach its port: by a firewall of the nodes, or a NetworkPolicy.",
    ),
    Definition(
        "SIP743", Severity.ERROR, "The ingress's settings hold what it would refuse",
        "A value cannot be what it should be, so the ingress does not start with it, or passes over it.",
        "Correct the value.",
    ),
    Definition(
        "SIP744", Severity.ERROR, "The balancer names the client in X-Forwarded-For, and the ingress does not read it",
        "A balancer that reads HTTP opens connections of its own; the client stands in X-Forwarded-For alone. The "
        "ingress is told to set that field aside, and takes the balancer for the client.",
        "Let the ingress read the field (ingress-nginx: use-forwarded-headers), and believe the balancer's addresses.",
    ),
    Definition(
        "SIP745", Severity.ERROR, "Clients connect to the ingress themselves, and it believes what they say they are",
        "Policy Local and a balancer that passes packets on let clients reach the ingress with their own address, and "
        "the ingress is told to believe the forwarded field of everybody: each client chooses who it is.",
        "Turn the reading of forwarded fields off (use-forwarded-headers: \"false\"), or list the proxies that "
        "are in front.",
    ),
    Definition(
        "SIP751", Severity.ERROR, "The application's server does not believe the ingress",
        "The server reads X-Forwarded-For only from peers in its list, and the ingress's pods are not there. Every "
        "request seems to come from the ingress.",
        "Start the server with the ingress pods' network in --forwarded-allow-ips.",
    ),
    Definition(
        "SIP752", Severity.ERROR, "The trust list of the application's server holds literal quotes",
        "A list of arguments in a pod passes no shell, so quotes inside a value stay. The server looks for a "
        "peer whose "
        "name has quotes in it and finds none.",
        "Write the argument without the inner quotes.",
    ),
    Definition(
        "SIP753", Severity.WARNING, "The application's server believes whoever connects",
        "With * the first entry of X-Forwarded-For is the client, whoever sent it. Every pod that reaches the "
        "application can choose an address, and so can every client whose own field the ingress appends to.",
        "List the ingress pods' network only.",
    ),
    Definition(
        "SIP754", Severity.ERROR, "The application's server is told to read no forwarded header",
        "With --no-proxy-headers the client is always the peer: the ingress.",
        "Take the flag away, and list the ingress in --forwarded-allow-ips.",
    ),
    Definition(
        "SIP755", Severity.WARNING, "A WSGI application sees the ingress, whatever gunicorn is told",
        "gunicorn's forwarded_allow_ips decides about the scheme only. REMOTE_ADDR stays the peer, so the application "
        "has to read X-Forwarded-For itself, or a middleware does.",
        "Use a middleware such as werkzeug's ProxyFix with the number of proxies in front, or uvicorn's workers.",
    ),
    Definition(
        "SIP756", Severity.ERROR, "The application believes everybody and is reached from outside",
        "Its server believes every peer (*) and its Service opens a port to the outside: anybody can choose the "
        "address "
        "that the application sees.",
        "Make the Service a ClusterIP and list the ingress pods' network in --forwarded-allow-ips.",
    ),
    Definition(
        "SIP761", Severity.INFO, "This datapath keeps the client's address without policy Local",
        "Cilium's ingress, and an eBPF datapath with direct server return, show endpoints the client's address "
        "whatever "
        "externalTrafficPolicy says. Local only takes nodes without endpoint out of use.",
        "Nothing has to be done. Policy Cluster would let every node take connections.",
    ),
    Definition(
        "SIP771", Severity.WARNING, "A pod ends before the balancer leaves its node alone",
        "When the last pod of a node begins to end, the health check node port says 503 at once, but the "
        "balancer takes "
        "some checks until it sends nothing more. Connections of that time are lost unless the pod serves on.",
        "Let the pod serve on for longer than the balancer's interval times its threshold: a preStop hook that sleeps, "
        "and terminationGracePeriodSeconds above it.",
    ),
    Definition(
        "SIP772", Severity.WARNING, "The grace period ends before the preStop hook does",
        "terminationGracePeriodSeconds counts from the beginning of the hook. The server is killed while it waits.",
        "Raise terminationGracePeriodSeconds above the hook's time and what open requests need.",
    ),
    Definition(
        "SIP773", Severity.WARNING, "No readiness probe: a pod counts as ready before it serves",
        "Without a readiness probe a pod is an endpoint as soon as its container runs. The health check node port "
        "says 200 for it, and connections are refused until the server listens.",
        "Add a readinessProbe that asks the server.",
    ),
    Definition(
        "SIP774", Severity.WARNING, "The balancer's targets are pods, and no readiness gate waits for it",
        "A rollout goes on as soon as new pods are ready in the cluster, which may be before the balancer knows them; "
        "the old ones may all be gone by then.",
        "Label the namespace elbv2.k8s.aws/pod-readiness-gate-inject=enabled.",
    ),
    Definition(
        "SIP781", Severity.ERROR, "loadBalancerSourceRanges holds what is no range",
        "An entry cannot be read as a range of addresses: the API server refuses it, or the ranges are not what "
        "was meant.",
        "Write each entry as ADDRESS/LENGTH.",
    ),
    Definition(
        "SIP782", Severity.WARNING, "loadBalancerSourceRanges has no effect here",
        "Ranges hold for the balancer's address of a Service of type LoadBalancer. On another type they are "
        "passed over.",
        "Use a NetworkPolicy or a firewall in front of the nodes.",
    ),
    Definition(
        "SIP783", Severity.WARNING, "Session affinity keeps by the balancer's address, not by the client's",
        "sessionAffinity: ClientIP keeps a source address at one endpoint. Here all connections come from the "
        "balancer's few addresses, so few endpoints get everything.",
        "Set sessionAffinity: None and let the balancer or the ingress keep sessions.",
    ),
)  # fmt: skip

BY_CODE: dict[str, Definition] = {definition.code: definition for definition in DEFINITIONS}
