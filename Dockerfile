# One image for every role: `docker run tierstream:local worker classify`. See docs/deployment.md.
#
# Packages come from the locks, checked by their hashes. Nothing is compiled: where a package has no wheel for a machine
# (faust-streaming on arm64), it is built without its C parts, which are optional.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.build.lock requirements.runtime.lock ./
# The environment has no pip of its own: the image's pip fills it, and stays behind in this stage.
RUN pip install --require-hashes -r requirements.build.lock \
 && python -m venv --without-pip /opt/tierstream \
 && pip --python /opt/tierstream/bin/python install --require-hashes -r requirements.runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas/ schemas/
COPY agents/ agents/
COPY streams/ streams/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/tierstream/bin/python install --no-deps dist/*.whl

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="tierstream" \
      org.opencontainers.image.description="Billing webhooks and onboarding events in; exact tier transitions out, as audit rows and lifecycle mail." \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/tierstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/tierstream /opt/tierstream
COPY examples/plans.toml /etc/tierstream/examples/plans.toml
RUN chmod 644 /etc/tierstream/examples/plans.toml \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tierstream
# A number, so that an orchestrator can see that it is not root. It needs no directory of its own: nothing is kept on disk.
USER 10001:10001
EXPOSE 8080 9464
ENTRYPOINT ["tierstream"]
CMD ["--help"]
