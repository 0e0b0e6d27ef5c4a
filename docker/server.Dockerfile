# The server. Build from the root of the repository:
#   docker build -f docker/server.Dockerfile -t stingy .
# Every installed file is checked by its hash. PyTorch comes from the package index, built for CUDA.
# For the CPU only, which should save several GB, add --build-arg TORCH_INDEX=ADDRESS with the address
# on PyTorch's install page. torch and torchvision then have the same versions, but no hash. This
# argument is untried.
FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=""
COPY requirements.lock /source/requirements.lock
COPY docker/build.lock /source/docker/build.lock
COPY docker/install.py /source/docker/install.py
RUN ["python", "/source/docker/install.py", "requirements.lock"]
COPY . /source
RUN ["python", "/source/docker/install.py"]

FROM python:3.12-slim-bookworm AS root
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin stingy \
    && install -d -o stingy -g stingy -m 700 /state
COPY --from=build /opt/stingy /opt/stingy
COPY docker/strip.py /strip.py
# Remove shells, package managers, set-uid programs and pip. Python and `stingy` are left.
RUN ["/usr/local/bin/python", "/strip.py", "/usr/local/bin/python", "/opt/stingy/bin/stingy"]

FROM scratch
# One layer with the whole root, so that no layer contains the removed files.
# hadolint ignore=DL3067
COPY --from=root / /
ENV PATH=/opt/stingy/bin:/usr/local/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    STINGY_HOST=0.0.0.0 \
    STINGY_STATE=/state \
    STINGY_METRICS_HOST=0.0.0.0 \
    STINGY_METRICS_PORT=9100
USER 10001:10001
WORKDIR /state
# 8080: the API, for clients. 9100: the metrics, for Prometheus only.
EXPOSE 8080 9100
VOLUME /state
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=5)"]
ENTRYPOINT ["stingy"]
CMD ["serve"]
