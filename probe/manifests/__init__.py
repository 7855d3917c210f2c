"""What an installation places on a cluster: objects, and a Helm chart and kustomize base made of them."""
