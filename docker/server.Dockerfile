# The server, from the root of the repository: docker build -f docker/server.Dockerfile -t stingy .
# Run: docker run -p 8080:8080 -v $PWD/bundles:/bundles:ro -v stingy-state:/state stingy /bundles/pets
FROM python:3.12-slim AS build
COPY . /source
RUN python -m venv /opt/stingy \
    && /opt/stingy/bin/pip install --no-cache-dir -c /source/constraints.txt '/source[server]'

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin stingy \
    && install -d -o stingy -g stingy -m 700 /state
COPY --from=build /opt/stingy /opt/stingy
USER 10001
EXPOSE 8080
VOLUME /state
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/stingy/bin/stingy", "serve", "--host", "0.0.0.0", "--state", "/state"]
