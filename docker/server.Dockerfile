# The server, from the root of the repository: docker build -f docker/server.Dockerfile -t stingy .
# Every file that is installed is known by its hash. It has PyTorch as the package index has it,
# which is the one for CUDA. For the CPU alone, several GB less: --build-arg TORCH_INDEX=ADDRESS, as
# PyTorch's own install page names it; those two files, of the same version, have no hash here.
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
# Shells, package managers, set-uid programs: no program is left but Python.
RUN ["/usr/local/bin/python", "-c", "import shutil; [shutil.rmtree(f'/usr/{name}') for name in ('bin', 'sbin')]"]

FROM scratch
# All of it, as one layer: what was removed above is in none.
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
# The API, for everybody; the metrics, for Prometheus alone.
EXPOSE 8080 9100
VOLUME /state
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=5)"]
ENTRYPOINT ["stingy"]
CMD ["serve"]
