# One image for migrate, api, relay, worker and flower: `docker build -t veltrix .`
FROM python:3.11-slim AS build
WORKDIR /veltrix
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Everything that is locked, with its hashes; of it only what the platform needs at run time.
COPY requirements.txt ./
RUN pip wheel --require-hashes --requirement requirements.txt --wheel-dir /wheels
COPY pyproject.toml README.md LICENSE ./
COPY app/ app/
COPY workflows/ workflows/
RUN python -m venv /venv \
    && /venv/bin/pip install --no-index --find-links /wheels --editable .

FROM python:3.11-slim
# The migrations are found beside app/, so the project is run from where it was copied to.
WORKDIR /veltrix
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --system --no-create-home --uid 10001 veltrix
COPY --from=build /venv /venv
COPY pyproject.toml alembic.ini LICENSE ./
COPY alembic/ alembic/
COPY app/ app/
COPY workflows/ workflows/
RUN python -m compileall -q app workflows
USER 10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["veltrix"]
CMD ["--help"]
