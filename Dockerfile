# One image for migrate, api, relay, worker and flower: `docker build -t veltrix .`
FROM python:3.11-slim AS build
WORKDIR /veltrix
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# What runs, and what builds the wheel, locked with its hashes; nothing of tests or tools.
COPY requirements-run.txt ./
RUN pip wheel --require-hashes --requirement requirements-run.txt --wheel-dir /wheels
COPY pyproject.toml README.md LICENSE ./
COPY alembic/ alembic/
COPY app/ app/
RUN pip wheel --no-deps --no-index --find-links /wheels --wheel-dir /wheels . \
    && python -m venv /venv \
    && /venv/bin/pip install --no-index --find-links /wheels veltrix

FROM python:3.11-slim
# Modules with workflows are looked for here; put your own beside the samples, or mount them.
WORKDIR /veltrix
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --system --no-create-home --uid 10001 veltrix
COPY --from=build /venv /venv
COPY LICENSE ./
COPY workflows/ workflows/
RUN python -m compileall -q /venv/lib workflows
USER 10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["veltrix"]
CMD ["--help"]
