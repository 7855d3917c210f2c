# The agents' image: an interpreter, four packages and the ground floor. No shell, no package manager, no compiler,
# no Kubernetes client. Nor nft or iptables: the agent asks the kernel for its rules over netlink.
#
#   docker build -t REGISTRY/client-ip-probe:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 --sbom=true --provenance=true \
#       --output type=image,name=REGISTRY/client-ip-probe:0.1.0,push=true,rewrite-timestamp=true .
#
# The base serves to build only: of it, the interpreter and the libraries that it loads reach the image. Its tag
# names a release; to pin the very bytes, name the digest too, which `docker buildx imagetools inspect` prints:
#   --build-arg BASE=python:3.11.14-slim-bookworm@sha256:…
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ARG SOURCE_DATE_EPOCH=1767225600
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PYTHONHASHSEED=0 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Only what the agent imports, each as a wheel whose hash is locked: nothing is compiled, and no code of a package
# runs. None of the four needs another.
COPY requirements.lock ./
RUN sed -n '/^\(msgspec\|numpy\|pyroute2\|scapy\)==/,/[^\\]$/p' requirements.lock > agent.lock
RUN python3 -m pip install --no-deps --only-binary=:all: --require-hashes --no-compile --target packages -r agent.lock

COPY daemonset ./daemonset
RUN python3 daemonset/image/collect.py --packages packages --agent daemonset /image

# What was left out is not missed, on this architecture neither.
RUN PYTHONPATH=/agent chroot /image /usr/local/bin/python3 -B -c "import daemonset.agent, daemonset.capture, daemonset.idle, daemonset.once, pyroute2"

FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="client-ip-probe" \
      org.opencontainers.image.description="Agent that watches where a connection's source address changes on a node" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT AND GPL-2.0-only AND (GPL-2.0-or-later OR Apache-2.0) AND BSD-3-Clause AND PSF-2.0"
COPY --from=build /image /
ENV PATH=/usr/local/bin PYTHONPATH=/agent PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1 OPENBLAS_NUM_THREADS=1 HOME=/
WORKDIR /
# Whoever just runs it is nobody. The DaemonSet asks for user 0 with four capabilities: see docs/install.md.
USER 65532:65532
ENTRYPOINT ["python3", "-m"]
CMD ["daemonset.idle"]
