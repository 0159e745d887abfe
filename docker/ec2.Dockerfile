# The double of AWS from the tests, whose nodes really run: it needs a privileged container.
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates curl e2fsprogs gzip iproute2 make mount python3 python3-venv util-linux \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rankvol
COPY . .
# As on any new machine; then what nodes are given, so that nothing is fetched when the container starts.
RUN make venv \
    && .venv/bin/python -c "from tests.clouds.nodes.packages import *; raise SystemExit(why_no_aws_cli() or why_no_flights())"
ENTRYPOINT [".venv/bin/python", "-m", "demo.serve_aws"]
