# A Ray node that serves models: docker build -f docker/ray.Dockerfile -t stingy-ray .
# KubeRay starts Ray through a shell and runs its probes with wget, so the image has both.
# Ray runs any code that is sent to it, so the cluster's network is the boundary.
# TORCH_INDEX: see server.Dockerfile.
FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=""
COPY requirements.lock /source/requirements.lock
COPY docker/build.lock /source/docker/build.lock
COPY docker/ray.lock /source/docker/ray.lock
COPY docker/install.py /source/docker/install.py
RUN ["python", "/source/docker/install.py", "requirements.lock", "docker/ray.lock"]
COPY . /source
RUN ["python", "/source/docker/install.py"]

FROM python:3.12-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin stingy
COPY --from=build /opt/stingy /opt/stingy
ENV PATH=/opt/stingy/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
