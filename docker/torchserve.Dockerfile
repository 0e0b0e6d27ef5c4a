# TorchServe with the gate in its worker. Build from the root of the repository:
#   docker build -f docker/torchserve.Dockerfile -t stingy-torchserve .
# Mount the archives of `stingy torchserve archive` at /models. TORCH_INDEX: see server.Dockerfile.
# Never publish TorchServe's ports, because it has had no security patches since 2025.
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
COPY docker/strip.py /strip.py
# As in server.Dockerfile. Java starts the workers by its jspawnhelper.
RUN ["/usr/local/bin/python", "/strip.py", "/usr/local/bin/python", "/opt/stingy/bin/stingy", "/opt/stingy/bin/torchserve", "/opt/java/bin/java", "/opt/java/lib/jspawnhelper"]

FROM scratch
# One layer with the whole root, so that no layer contains the removed files.
# hadolint ignore=DL3067
COPY --from=root / /
ENV PATH=/opt/stingy/bin:/usr/local/bin \
    JAVA_HOME=/opt/java \
    LOG_LOCATION=/tmp/logs \
    METRICS_LOCATION=/tmp/logs \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# TorchServe writes the edge's key here.
WORKDIR /key
# 9080: predictions. Management and metrics listen only on the container's loopback.
EXPOSE 9080
VOLUME /key
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --start-period=120s CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 9080), 5)"]
ENTRYPOINT ["python", "/opt/stingy/torchserve_start.py"]
