# TorchServe with the gate in its worker: docker build -f docker/torchserve.Dockerfile -t stingy-torchserve .
# Models are archives of `stingy torchserve archive`, mounted at /models. TORCH_INDEX: as in
# server.Dockerfile. TorchServe has had no security patches since 2025: never publish its ports.
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=""
COPY requirements.lock /source/requirements.lock
COPY docker/build.lock /source/docker/build.lock
COPY docker/torchserve.lock /source/docker/torchserve.lock
COPY docker/install.py /source/docker/install.py
RUN ["python", "/source/docker/install.py", "requirements.lock", "docker/torchserve.lock"]
COPY . /source
RUN ["python", "/source/docker/install.py"]

FROM python:3.11-slim-bookworm AS root
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin stingy \
    && install -d -o stingy -g stingy -m 700 /key \
    && ln -s /usr/lib/jvm/java-17-openjdk-* /opt/java
COPY --from=build /opt/stingy /opt/stingy
COPY docker/torchserve_start.py /opt/stingy/torchserve_start.py
# As in server.Dockerfile; Java is not in /usr/bin but for a link.
RUN ["/usr/local/bin/python", "-c", "import shutil; [shutil.rmtree(f'/usr/{name}') for name in ('bin', 'sbin')]"]

FROM scratch
# All of it, as one layer: what was removed above is in none.
# hadolint ignore=DL3067
COPY --from=root / /
ENV PATH=/opt/stingy/bin:/usr/local/bin \
    JAVA_HOME=/opt/java \
    LOG_LOCATION=/tmp/logs \
    METRICS_LOCATION=/tmp/logs \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# Where TorchServe writes the key that the edge asks with.
WORKDIR /key
# Predictions; management and metrics stay on the container's own loopback.
EXPOSE 9080
VOLUME /key
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 9080), 5)"]
ENTRYPOINT ["python", "/opt/stingy/torchserve_start.py"]
