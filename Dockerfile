# The service: docker build -t egeunet . && docker run --rm -p 127.0.0.1:8000:8000 egeunet
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
# hadolint ignore=DL3008 # the compiler of the base image's release, whichever it is
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve]'

FROM python:3.13-slim-bookworm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
USER 65534
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["egeunet", "serve", "--host", "0.0.0.0"]
