"""Whether load balancers stop sending where health checks say so; `watching.watched_of` is the entrance."""
