"""The catalogue of findings. A code is never used again for something else; a retired one stays, marked.

1xx who replaced the source address · 2xx connections that reach nobody · 3xx PROXY protocol · 4xx how a
connection went, worth knowing · 5xx forwarded headers, proxies' and applications' trust · 6xx health checks · 7xx what
objects say before any packet (`analysis.checks.catalogue`) · 9xx what the capture could not see.
"""

from __future__ import annotations

from analysis.catalogue.definition import Definition
from analysis.checks.catalogue import DEFINITIONS as CHECKS
from analysis.report import Severity

__all__ = ["CATALOGUE", "Definition"]


_ALL = (
    Definition(
        "SIP101", Severity.ERROR, "kube-proxy replaced the client's address (externalTrafficPolicy: Cluster)",
        "With policy Cluster a node may forward a connection to an endpoint on any node. So that the answer comes "
        "back through the same node, kube-proxy marks every connection from outside (0x4000) and masquerades it: "
        "the endpoint sees an address of the node instead of the client's. This happens even when the endpoint is "
        "on the node that was asked.",
        "Set spec.externalTrafficPolicy: Local on this Service (the ingress controller's, not the application's). "
        "Nodes without a ready endpoint then drop such connections, so the load balancer must health-check the "
        "Service's healthCheckNodePort, and endpoints should run on every node that it uses.",
    ),
    Definition(
        "SIP102", Severity.ERROR, "The CNI replaced the client's address",
        "The source address was replaced although kube-proxy had no reason to. A masquerade rule of the network "
        "plugin or of the host catches this traffic, usually one meant for pods that leave the cluster.",
        "Exclude traffic towards the pod network from the masquerade: flannel --ip-masq / iptables-forward-rules, "
        "Calico natOutgoing, the ip-masq-agent's nonMasqueradeCIDRs, or the bridge plugin's ipMasq.",
    ),
    Definition(
        "SIP103", Severity.ERROR, "A load balancer replaced the client's address before the cluster",
        "Packets reach the nodes with an address of the load balancer as their source. Nothing inside the cluster "
        "can bring the client's address back.",
        "Let the balancer keep the source address (for example client IP preservation, direct server return), or "
        "let it send the PROXY protocol and make the ingress expect it.",
    ),
    Definition(
        "SIP104", Severity.ERROR, "The load balancer's address stands for the client, and no PROXY header names it",
        "The connection reaches the cluster with the load balancer's own address: the balancer opened a connection of "
        "its own, or translated the source, and nothing in this connection names the client.",
        "Turn the PROXY protocol on at the balancer and at the ingress at the same time, or use a balancer mode "
        "that passes packets through with their source address.",
    ),
    Definition(
        "SIP105", Severity.ERROR, "An in-cluster load balancer pod replaced the client's address",
        "The pods that implement the load balancer inside the cluster (klipper-lb, svclb) masquerade what they "
        "forward, so the endpoint sees the pod.",
        "Use a balancer that works without masquerade (MetalLB, kube-vip), or run the ingress with hostNetwork.",
    ),
    Definition(
        "SIP106", Severity.ERROR, "kube-proxy masquerades everything (--masquerade-all)",
        "kube-proxy runs with masqueradeAll, which replaces the source of connections to a Service whatever its "
        "traffic policy says.",
        "Set masqueradeAll: false in kube-proxy's configuration and restart it.",
    ),
    Definition(
        "SIP107", Severity.WARNING, "kube-proxy took the client for one from outside the cluster (clusterCIDR)",
        "A connection to a cluster IP whose source is outside kube-proxy's clusterCIDR is masqueraded.",
        "Make clusterCIDR cover the pod network, or reach the Service through its external address under policy "
        "Local.",
    ),
    Definition(
        "SIP108", Severity.ERROR, "kube-proxy replaced the client's address (external IP in IPVS mode)",
        "In IPVS mode kube-proxy marks connections to external IPs for masquerade even under policy Local "
        "(kubernetes#62537).",
        "Publish the address through status.loadBalancer instead of spec.externalIPs, or use the iptables or "
        "nftables mode.",
    ),
    Definition(
        "SIP109", Severity.INFO, "A pod reached itself through the Service",
        "The endpoint that was chosen is the client itself. Its source is masqueraded, or it would see packets "
        "from its own address and drop them.",
        "Nothing is wrong. Let the pod talk to itself directly if the address matters.",
    ),
    Definition(
        "SIP110", Severity.INFO, "A client on the node itself was masqueraded",
        "kube-proxy replaces the source of connections that begin on a node, since the address that a process "
        "there happened to use need not be reachable from the endpoint.",
        "Nothing is wrong with traffic from outside; test from outside the cluster.",
    ),
    Definition(
        "SIP111", Severity.ERROR, "Something replaced the client's address",
        "The source address changed on the way, and neither the cluster's objects nor the addresses tell which "
        "rule did it.",
        "Give the cluster's objects (--objects) so that the rule can be named, and look at the NAT rules of the "
        "node that is named here.",
    ),
    Definition(
        "SIP201", Severity.ERROR, "A node without a local endpoint drops the connection",
        "Under policy Local a node forwards only to endpoints of its own. This one has none, so it drops the "
        "connection in silence, and clients wait until they time out.",
        "Let the load balancer health-check the Service's healthCheckNodePort (it answers 503 on such nodes), or "
        "run an endpoint on every node that receives traffic (a DaemonSet, or topology spread constraints).",
    ),
    Definition(
        "SIP202", Severity.ERROR, "The Service has no endpoint",
        "No pod stands ready behind the Service, so the node rejects connections.",
        "Look at the Service's selector and at the readiness of its pods: kubectl get endpointslices.",
    ),
    Definition(
        "SIP203", Severity.WARNING, "A connection got no answer",
        "The client repeated itself and nobody answered, and nothing in the Service's configuration calls for that.",
        "Look for a firewall, a NetworkPolicy, reverse-path filtering, a full table of connections (SIP426) or "
        "asymmetric routing after the last point that is shown.",
    ),
    Definition(
        "SIP204", Severity.WARNING, "The endpoint refused the connection",
        "The packet reached its endpoint, and the endpoint answered with a reset: nothing listens on that port.",
        "Compare the Service's targetPort with the port that the pod listens on.",
    ),
    Definition(
        "SIP205", Severity.ERROR, "The client is outside loadBalancerSourceRanges",
        "kube-proxy drops connections to the load balancer's address whose source is not in the Service's "
        "spec.loadBalancerSourceRanges.",
        "Add the client's range, or remove the restriction. If the source shown is a balancer's, the range can never "
        "match clients.",
    ),
    Definition(
        "SIP206", Severity.ERROR, "The node rejected the connection",
        "The connection was answered with a reset or an ICMP error before anything was forwarded.",
        "Look at the node's filter rules and at the Service's endpoints.",
    ),
    Definition(
        "SIP301", Severity.INFO, "A PROXY header carries the client's address",
        "The packets come from the load balancer, and the client is named in the PROXY header in front of the data.",
        "Nothing to do for the address. Take care that only the balancer can reach this port: whoever can, can "
        "claim any address.",
    ),
    Definition(
        "SIP302", Severity.ERROR, "The server refuses connections that begin with a PROXY header",
        "A PROXY header arrived, and the server answered HTTP 400 or closed the connection without a byte: consistent "
        "with a listener that does not expect the PROXY protocol.",
        "Turn the PROXY protocol on at this listener, or off at the load balancer.",
    ),
    Definition(
        "SIP303", Severity.WARNING, "A PROXY header arrived that is not valid",
        "The connection begins like a PROXY header, but it breaks the specification.",
        "Look at what sends it; `probe decode` names the rule and the byte.",
    ),
    Definition(
        "SIP304", Severity.WARNING, "The sender of the PROXY header is not known to be a load balancer",
        "A PROXY header names a client, and it was sent by an address that neither the cluster's objects nor any "
        "capture shows to be a load balancer. A client that can reach this port can claim any address.",
        "If the sender is your balancer, say so (--balancer ADDRESS), or capture there too (--tap lb:…). If not, "
        "restrict who can reach the port.",
    ),
    Definition(
        "SIP305", Severity.ERROR, "A client sent a PROXY header of its own",
        "The connection comes from a client, straight or through a load balancer that passes bytes on as they come, "
        "and begins with a PROXY header that names another address. The server took it.",
        "Restrict the port to the load balancer, or the header's trust to its address. A load balancer has to send a "
        "header of its own.",
    ),
    Definition(
        "SIP306", Severity.ERROR, "The server took the PROXY header and does not use it",
        "The header names the client, and the server went on with the request, but to the application behind it the "
        "server named another address: its list of trusted peers does not hold the one that the packets come from.",
        "Add the peer's addresses to the list (nginx set_real_ip_from, proxy-real-ip-cidr). Under policy Cluster the "
        "peer is a node, not the balancer: better set externalTrafficPolicy: Local than trust every node.",
    ),
    Definition(
        "SIP307", Severity.ERROR, "The server closed the connection without a byte: a PROXY header may be missing",
        "The client's request arrived without a PROXY header, and the server ended the connection before it had sent "
        "anything: consistent with a listener that waits for a PROXY header. A server that crashes or refuses the "
        "client for another reason looks the same.",
        "Turn the PROXY protocol on at the load balancer, or off at this listener. nginx says 'broken header' in its "
        "log where this is the cause (--ingress-log). Connections that never pass the load balancer (from inside the "
        "cluster) never get a header.",
    ),
    Definition(
        "SIP308", Severity.ERROR, "A TLS listener refuses connections that begin with a PROXY header",
        "A PROXY header arrived in front of a TLS handshake, and the server answered HTTP 400 in the clear, a TLS "
        "alert, or nothing: consistent with a TLS listener that does not expect the PROXY protocol.",
        "Turn the PROXY protocol on at this listener (nginx: listen … ssl proxy_protocol), or off at the balancer.",
    ),
    Definition(
        "SIP309", Severity.ERROR, "The server refuses this version of the PROXY protocol",
        "The server refused a valid header of one version, and takes the other version from others.",
        "Let the load balancer send the version that the server takes, or update the server.",
    ),
    Definition(
        "SIP310", Severity.WARNING, "A PROXY header is split over segments",
        "The first segment ends inside the header. The specification has senders write it at once; nginx, HAProxy and "
        "lighttpd refuse a header that comes in parts.",
        "Let the sender write the header in one piece; look for a proxy in between that cuts the stream anew. "
        "`probe decode --receivers` tells who takes it.",
    ),
    Definition(
        "SIP311", Severity.ERROR, "Two PROXY headers stand one after the other",
        "Two load balancers in a row each put a header in front of the data, or a client puts one of its own behind "
        "the balancer's. Servers take the first, and read the second as a broken request.",
        "Let the second balancer accept the first one's header (HAProxy: accept-proxy) and send one of its own, or "
        "let only one of them send.",
    ),
    Definition(
        "SIP312", Severity.ERROR, "The server refuses the address family of the PROXY header",
        "The header is valid, but of a family or transport (UDP, UNIX, UNSPEC) that servers do not all take.",
        "Let the sender name TCP over IPv4 or IPv6; `probe decode --receivers` tells who takes what.",
    ),
    Definition(
        "SIP313", Severity.WARNING, "The PROXY header names another source than the connection that it carries on",
        "The connection in front of the load balancer is known by its TLS handshake, token or request id, and its "
        "source is not what the header says.",
        "Look at what translates addresses in front of the load balancer, or writes the header anew behind it.",
    ),
    Definition(
        "SIP314", Severity.INFO, "A PROXY header in front of a request names nobody (LOCAL or UNKNOWN)",
        "Such headers are meant for connections of the balancer itself, as its health checks are. The server takes "
        "the balancer for the client.",
        "Nothing to do for health checks. For clients' requests let the balancer send the PROXY command.",
    ),
    Definition(
        "SIP315", Severity.INFO, "The PROXY header carries the client; policy Local is not needed for the address",
        "The packets' source was replaced on the way to the endpoint, and the header in front of the data still names "
        "the client.",
        "Nothing to do. Local would save the extra hop, and the trust list could then hold the balancer alone.",
    ),
    Definition(
        "SIP316", Severity.ERROR, "The PROXY header names the proxy before the load balancer",
        "Two proxies stand in a row. The first names the client in a field of the request, and the load balancer "
        "behind it names its own peer, the first proxy, in the PROXY header. The server takes the header's word, so "
        "that the field is not read.",
        "Let the first proxy send a PROXY header that the load balancer accepts (HAProxy: accept-proxy), or let the "
        "server read the field instead: nginx real_ip_header X-Forwarded-For, with both proxies in its trust list.",
    ),
    Definition(
        "SIP401", Severity.INFO, "The connection was forwarded to another node",
        "The node that was asked forwarded the connection to an endpoint on another node.",
        "Policy Local avoids the extra hop.",
    ),
    Definition(
        "SIP402", Severity.INFO, "A client inside the cluster was short-circuited",
        "kube-proxy answers for the load balancer's address on every node, so this connection never left the "
        "cluster and the load balancer never saw it, nor could it add a PROXY header.",
        "If the ingress expects PROXY headers, let the Service's status say ipMode: Proxy (KEP-1860), or use the "
        "cluster-internal name.",
    ),
    Definition(
        "SIP403", Severity.INFO, "The source survived although the policy is Cluster",
        "Policy Cluster usually means masquerade. Here the datapath keeps the source (direct server return, or an "
        "eBPF datapath), so policy Local is not needed for the address.",
        "Nothing to do.",
    ),
    Definition(
        "SIP404", Severity.INFO, "A terminating endpoint served the connection",
        "The node has no ready endpoint left, only one that is shutting down and still serves (KEP-1669). Its health "
        "check already answers 503, so the load balancer is expected to stop sending.",
        "Nothing to do during a rollout. If it lasts, the load balancer ignores the health check.",
    ),
    Definition(
        "SIP431", Severity.ERROR, "kube-proxy replaced the balancer's address, by which the ingress knows the balancer",
        "The balancer names the client in a header, and the ingress believes that of the balancer's address alone. "
        "With policy Cluster kube-proxy masquerades the balancer's connections too: the ingress meets an address of "
        "the node, does not believe it, and takes the node for the client.",
        "Set spec.externalTrafficPolicy: Local on the ingress controller's Service. Believing the nodes' addresses "
        "instead would let every pod and node name clients.",
    ),
    Definition(
        "SIP432", Severity.WARNING, "A node forwarded a connection that it was expected to drop",
        "Policy Local calls for a drop at a node without a ready endpoint, and the node forwarded the connection. "
        "Either the objects are not those of the time of the packets, or something else than kube-proxy forwards here.",
        "Compare the Service's EndpointSlices with the time of the capture; name the datapath's own configuration "
        "with the objects.",
    ),
    Definition(
        "SIP421", Severity.ERROR, "A rule of the host's own replaced the client's address",
        "The kernel named the rule that replaced the source address. It is neither kube-proxy's nor one of a network "
        "plugin that is known by its names: a firewall or an administrator's own rule masquerades this traffic.",
        "Look at the rule that is named here (nft -a list ruleset, or iptables-save) and exclude traffic to the "
        "Service's ports and to the pod network from it.",
    ),
    Definition(
        "SIP422", Severity.ERROR, "A rule of the node's packet filter stops the connection",
        "The kernel named the rule that dropped or rejected the packet. It is a firewall's or a network policy's, not "
        "one by which kube-proxy refuses what has no endpoint.",
        "Allow the connection in the firewall or the NetworkPolicy that the rule belongs to; its chain and its comment "
        "name it.",
    ),
    Definition(
        "SIP423", Severity.INFO, "Rules were not traced everywhere",
        "The kernel was to name the rules that packets meet (--trace-rules). Where it could not, or where more "
        "connections began than are traced, who replaced an address is concluded from facts and addresses, as without "
        "it.",
        "Do what is said of the node: end another trace, or allow more packets with --trace-limit.",
    ),
    Definition(
        "SIP424", Severity.WARNING, "kube-proxy's rules are not those that the Service calls for",
        "The kernel named a rule of kube-proxy's that marks the Service's external traffic for masquerade, as policy "
        "Cluster asks for, while the Service's object says policy Local. Either kube-proxy on this node has not heard "
        "of the change, or the objects are older than the packets.",
        "Look whether kube-proxy on this node runs and reaches the API server, and fetch the objects anew.",
    ),
    Definition(
        "SIP425", Severity.INFO, "Rules of iptables-legacy and of nftables stand side by side on a node",
        "Packets on this node pass the rules of both, those of iptables-nft among the latter. Who looks with one of "
        "the tools does not see what the other has, and rules that an earlier kube-proxy or network plugin left in "
        "one of them go on translating and dropping.",
        "List both (iptables-legacy-save, nft list ruleset), and let kube-proxy and the network plugin use the same. "
        "What nobody writes any more goes with a restart of the node.",
    ),
    Definition(
        "SIP426", Severity.ERROR, "A node's table of connections is full, and its kernel drops packets",
        "The kernel keeps a record of each connection that passes a node (conntrack), at most nf_conntrack_max of "
        "them. While there is no room for one more, it drops packets that would begin a connection, without an answer: "
        "clients wait until they time out, and others get through, as records come and go. Connections that have a "
        "record are not touched. The kernel counts what it drops and does not say which packets they were.",
        "Raise net.netfilter.nf_conntrack_max on the node; kube-proxy sets it, to conntrack.maxPerCore for each core "
        "and at least to conntrack.min. Look for what fills the table (conntrack -L, by source, destination and "
        "state): scans, DNS over UDP, connections that nobody ends. For the last, shorten the timeouts (kube-proxy's "
        "conntrack.tcpEstablishedTimeout and tcpCloseWaitTimeout).",
    ),
    Definition(
        "SIP427", Severity.WARNING, "A node's table of connections was full, and its kernel evicted records",
        "The table of connections (conntrack) was full at times, and for new connections the kernel evicted records of "
        "others that it did not take for established yet. What follows of an evicted connection is taken for a new "
        "one: its NAT may be another then, or none, so that answers do not find their client. Where no such record is "
        "left to evict, packets are dropped (SIP426).",
        "As of SIP426: raise net.netfilter.nf_conntrack_max (kube-proxy's conntrack.maxPerCore and conntrack.min), and "
        "look for what fills the table (conntrack -L).",
    ),
    Definition(
        "SIP501", Severity.ERROR, "The application does not believe the ingress, and takes it for the client",
        "The ingress named the client in a forwarded header. The application's server ignores such headers from this "
        "peer and shows the ingress's address.",
        "Let the server trust exactly the ingress: uvicorn --proxy-headers with --forwarded-allow-ips set to the "
        "ingress pods' addresses or network (without quotes around it), gunicorn --forwarded-allow-ips, hypercorn's "
        "ProxyFix.",
    ),
    Definition(
        "SIP502", Severity.ERROR, "The ingress does not believe the load balancer's forwarded header",
        "X-Forwarded-For names the client when it reaches the ingress. The ingress passes it on, but takes its peer, "
        "the load balancer, for the client: its trust list does not hold that peer.",
        "Add the balancer's addresses to the list: nginx set_real_ip_from with real_ip_header X-Forwarded-For, "
        "ingress-nginx use-forwarded-headers with proxy-real-ip-cidr, Traefik forwardedHeaders.trustedIPs, Envoy "
        "xff_num_trusted_hops.",
    ),
    Definition(
        "SIP503", Severity.ERROR, "The ingress overwrote the forwarded header with its peer's address",
        "X-Forwarded-For named the client when it reached the ingress, and no longer does behind it: the ingress wrote "
        "its peer, the load balancer, in its place.",
        "Trust the balancer at the ingress (see SIP502), or let the ingress append ($proxy_add_x_forwarded_for, "
        "compute-full-forwarded-for).",
    ),
    Definition(
        "SIP504", Severity.ERROR, "A forged forwarded header reaches the application as truth",
        "The client wrote another address into a header of its own request, and a server behind it took that address "
        "for the client's. Allowlists, rate limits and audit logs can be evaded so.",
        "Trust forwarded headers from known proxies only: never 0.0.0.0/0 or '*', and let nobody else reach the "
        "port of the server that trusts them.",
    ),
    Definition(
        "SIP505", Severity.INFO, "A field of the request carries the client's address",
        "The packets come from a proxy or were translated; X-Forwarded-For or a field like it names the client, and "
        "the server behind believes it.",
        "Nothing to do for the address. Take care that only the proxy can reach this port.",
    ),
    Definition(
        "SIP506", Severity.INFO, "The client named another address for itself, and nobody believed it",
        "The client sent a forwarded header or a PROXY header of its own. The servers behind it took the right address "
        "nevertheless, or refused the connection.",
        "Nothing to do.",
    ),
    Definition(
        "SIP507", Severity.WARNING, "The configuration says otherwise than what was seen",
        "By the configuration that was given, the ingress or the application would have taken another address for its "
        "client's than it did.",
        "Look whether this is the configuration that runs (a reload that failed, another pod, another listener).",
    ),
    Definition(
        "SIP508", Severity.INFO, "What the connection carries cannot be read",
        "The requests are inside TLS or HTTP/2, so fields that name the client could not be looked at.",
        "Capture behind the server that ends TLS too, give its log (--ingress-log), or send requests of your own "
        "(--send), which are followed by the application's answer.",
    ),
    Definition(
        "SIP509", Severity.WARNING, "A trust list admits everybody",
        "The configuration believes forwarded headers or PROXY headers from any address. Whoever reaches the port can "
        "claim to be anybody.",
        "Narrow the list down to the proxies in front.",
    ),
    Definition(
        "SIP601", Severity.ERROR, "A node without an endpoint says that it is healthy",
        "Under externalTrafficPolicy: Local a node without a ready endpoint drops connections from outside, and its "
        "health check must answer 503 so that load balancers leave it alone. This one answers 200.",
        "Look which datapath serves the health-check node port on this node, and whether it is up to date: "
        "`curl http://NODE:PORT/`. Some versions of eBPF datapaths answer 200 everywhere; update, or use kube-proxy.",
    ),
    Definition(
        "SIP602", Severity.ERROR, "The health-check node port is not served",
        "The Service has a healthCheckNodePort, but the node refuses connections to it, or never answers. A load "
        "balancer that asks there finds no healthy node, or takes the wrong ones.",
        "Look whether kube-proxy, or what stands in its place, runs on the node and supports the port, and whether a "
        "firewall or network policy of the host drops it.",
    ),
    Definition(
        "SIP603", Severity.ERROR, "A node with ready endpoints says that it is unhealthy",
        "The health check answers 503 although the objects show ready endpoints on the node, so no client is sent to "
        "them.",
        "Compare localEndpoints in its body with the EndpointSlices (nodeName of each endpoint); look whether "
        "kube-proxy keeps up with the API server.",
    ),
    Definition(
        "SIP604", Severity.ERROR, "The load balancer checks something else than the Service's health-check node port",
        "Under externalTrafficPolicy: Local only the healthCheckNodePort says whether a node has an endpoint. Another "
        "port or path tells something else: kube-proxy's own health is good on nodes without any endpoint, and the "
        "application's answer to a request of the balancer may be a refusal.",
        "Let the balancer ask for / at the Service's healthCheckNodePort, over plain HTTP (annotations of the cloud's "
        "controller may have overridden that).",
    ),
    Definition(
        "SIP605", Severity.ERROR, "A PROXY header breaks the health check",
        "The load balancer sends its PROXY header in health checks as well, and the health-check port speaks plain "
        "HTTP: it answers 400 or nothing.",
        "Let the balancer check without the header (HAProxy: no check-send-proxy on this port; clouds: a separate "
        "health-check port and protocol).",
    ),
    Definition(
        "SIP606", Severity.ERROR, "The load balancer sends to a node that says it is unhealthy",
        "The node's health check refused many times in a row while other nodes were healthy, and clients were still "
        "sent there.",
        "Look whether the balancer asks this port at all, and what it does with the answer: health checks may be off, "
        "or its target group contains the node for another reason.",
    ),
    Definition(
        "SIP607", Severity.WARNING, "The load balancer was slow to leave a node alone",
        "Clients were sent to a node after its last endpoint had gone, until enough health checks had failed. The "
        "lag is the check interval times the number of failures that it takes, and what comes before: kube-proxy has "
        "to notice first.",
        "Let endpoints go on serving while they terminate for longer than that (a preStop sleep, and a readiness "
        "probe or endpoint that ends first), and check more often.",
    ),
    Definition(
        "SIP608", Severity.ERROR, "A health check answers 200 although it counts no local endpoint",
        "Status and body contradict each other. A load balancer looks at the status and sends clients to a node that "
        "drops them.",
        "Look what serves the port; where it cannot be mended, let the balancer match the body.",
    ),
    Definition(
        "SIP609", Severity.INFO, "Nodes without an endpoint are left alone",
        "Nodes said by their health checks that they must not be sent to, and no client was; others were healthy and "
        "served.",
        "Nothing to do.",
    ),
    Definition(
        "SIP610", Severity.INFO, "Terminating endpoints saved connections",
        "While nodes had no ready endpoint left, endpoints that were shutting down still served (KEP-1669), and so "
        "bridged the load balancer's lag.",
        "Nothing to do.",
    ),
    Definition(
        "SIP611", Severity.WARNING, "A node answers health checks of its own and none of its neighbours'",
        "The port answers the node itself at its own address, and nothing came back when another node asked. A load "
        "balancer asks from outside too: a firewall of the host, a network policy for it or a security group may drop "
        "what it asks.",
        "Allow the health-check node port (and kube-proxy's 10256) from the balancer's addresses on the host's "
        "firewall and in security groups; kube-proxy --nodeport-addresses says on which addresses it is served.",
    ),
    Definition(
        "SIP612", Severity.WARNING, "A health check counts other endpoints than the EndpointSlices show",
        "Its status is right, but the number of endpoints is not that of the EndpointSlices, or its body and its "
        "weight header differ. Balancers that weight nodes by it send too much or too little there, and whoever "
        "serves the port may be behind the API server.",
        "Look whether kube-proxy, or what stands in its place, keeps up with the API server on this node: its log, and "
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds.",
    ),
    Definition(
        "SIP613", Severity.ERROR, "kube-proxy says that it is not healthy",
        "kube-proxy answers 503 at port 10256, or serviceProxyHealthy is false: it has not brought its rules up to "
        "date for two minutes. What the node forwards is out of date, and load balancers that ask there turn away.",
        "Look into kube-proxy's log on this node: it cannot reach the API server, or its rules cannot be written.",
    ),
    Definition(
        "SIP614", Severity.WARNING, "A node that is about to go says that it is healthy",
        "The node is being deleted or is marked for it by the cluster autoscaler, and its health check still answers "
        "200. So load balancers send new connections there until it is gone. kube-proxy answers 503 for such nodes "
        "since Kubernetes 1.28 (KEP-3836).",
        "Use a kube-proxy of 1.28 or newer; others who serve the port may not do that yet.",
    ),
    Definition(
        "SIP615", Severity.WARNING, "Nothing answers at kube-proxy's health port",
        "Under externalTrafficPolicy: Cluster load balancers should ask for the health of the node: /healthz at port "
        "10256. Nothing is served there, as by some replacements of kube-proxy, or where it listens elsewhere.",
        "Let whatever forwards Services serve it (kube-proxy --healthz-bind-address; Cilium "
        "kubeProxyReplacementHealthzBindAddr), or let the balancer check another port.",
    ),
    Definition(
        "SIP616", Severity.ERROR, "Something else answers at a health-check port",
        "The answer is neither 200 nor 503, names another Service, or is no HTTP. A load balancer takes it for what it "
        "looks like, and that has nothing to do with this Service's endpoints.",
        "Look who listens there: `ss -ltnp` on the node; a hostPort, a host-network pod or another controller may have "
        "taken the port.",
    ),
    Definition(
        "SIP617", Severity.INFO, "A node that is about to go says so",
        "The node is being deleted or is marked for it by the cluster autoscaler, and kube-proxy answers 503, so that "
        "load balancers send no new connections there (KEP-3836).",
        "Nothing to do.",
    ),
    Definition(
        "SIP618", Severity.INFO, "Health checks answer as the cluster demands",
        "Every node was asked, and answers what its endpoints, or under policy Cluster its own health, call for.",
        "Nothing to do.",
    ),
    Definition(
        "SIP901", Severity.WARNING, "The kernel dropped packets before they were read",
        "A capture socket overflowed. Connections whose packets were dropped are judged only as far as they were "
        "seen.",
        "Capture with a smaller port set, or a larger buffer.",
    ),
    Definition(
        "SIP902", Severity.WARNING, "A part of the cluster was not watched",
        "A node has no tap, or its agent sent nothing.",
        "Look at why the agent is missing there; results for connections through it can only be inconclusive.",
    ),
    Definition(
        "SIP903", Severity.WARNING, "A stream of observations was cut off",
        "An agent or a file ended without its end mark.",
        "Capture again; what was read until then is used.",
    ),
    Definition(
        "SIP904", Severity.WARNING, "The kernel's NAT record and the packets disagree",
        "conntrack says one translation and the packets show another.",
        "Look at both in the journey; a datapath that bypasses conntrack, or a port used twice, can do this.",
    ),
    Definition(
        "SIP905", Severity.WARNING, "Connections could not be told apart",
        "Two connections carry the same initial sequence number and no timestamps.",
        "Capture conntrack too, which tells them apart.",
    ),
)  # fmt: skip

CATALOGUE: dict[str, Definition] = {
    definition.code: definition for definition in sorted((*_ALL, *CHECKS), key=lambda each: each.code)
}
