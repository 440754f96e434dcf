# One image for every role: `docker run tierstream:local worker classify`. See docs/deployment.md.
#
# Packages come from the locks, checked by their hashes. Nothing is compiled: where a package has no wheel for a machine
# (faust-streaming on arm64), it is built without its C parts, which are optional.
#
# Two builds of one commit on one base have the same files, with the same times: SOURCE_DATE_EPOCH, which a build may set.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.build.lock requirements.runtime.lock ./
# The environment has no pip of its own: the image's pip fills it, and stays behind in this stage.
RUN pip install --require-hashes -r requirements.build.lock \
 && python -m venv --without-pip /opt/tierstream \
 && pip --python /opt/tierstream/bin/python install --no-compile --require-hashes -r requirements.runtime.lock
# What no role needs: debug symbols (a third of the image), other commands, sources in C and Cython, and notes of the installation that
# are not true any more. The libraries in *.libs stay as their wheels have them.
RUN cd /opt/tierstream \
 && find lib -name '*.so' -exec strip --strip-debug {} + \
 && find bin -type f -delete \
 && find lib -type f -regextype posix-extended -regex '.*\.(pyx|pxd|pxi|pyi|c|h)' -delete \
 && find lib -type d -name tests -prune -exec rm -r {} + \
 && find lib -path '*.dist-info/*' '(' -name INSTALLER -o -name RECORD -o -name REQUESTED ')' -delete
ARG SOURCE_DATE_EPOCH=315532800
COPY pyproject.toml README.md LICENSE ./
COPY schemas/ schemas/
COPY agents/ agents/
COPY streams/ streams/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/tierstream/bin/python install --no-compile --no-deps dist/*.whl \
 && cd /opt/tierstream/lib/python*/site-packages/tierstream-*.dist-info && rm direct_url.json INSTALLER RECORD REQUESTED
# Bytecode of what roles import, of Python's own modules, too: nothing is compiled when a container starts, and nothing is written.
# It fits its source by a hash and not by a time.
COPY deploy/image/imports.py ./
RUN export PYTHONHASHSEED=0 PYTHONPYCACHEPREFIX=/opt/tierstream/bytecode \
 && /opt/tierstream/bin/python -P imports.py > imported \
 && /opt/tierstream/bin/python -m compileall -q --invalidation-mode checked-hash -i imported
COPY examples/plans.toml /etc/tierstream/examples/plans.toml
# Everyone may read it, whoever made the checkout and whatever user the container runs as.
RUN chmod -R u=rwX,go=rX /opt/tierstream /etc/tierstream \
 && find /opt/tierstream /etc/tierstream -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="tierstream" \
      org.opencontainers.image.description="Billing webhooks and onboarding events in; exact tier transitions out, as audit rows and lifecycle mail." \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/tierstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/tierstream/bytecode
COPY --from=build /opt/tierstream /opt/tierstream
COPY --from=build /etc/tierstream /etc/tierstream
ARG SOURCE_DATE_EPOCH=315532800
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tierstream \
 && touch --date=@$SOURCE_DATE_EPOCH /opt /opt/tierstream /etc /etc/tierstream /etc/.pwd.lock \
    /etc/passwd* /etc/group* /etc/shadow* /etc/gshadow* /etc/subuid* /etc/subgid*
# A number, so that an orchestrator can see that it is not root. It needs no directory of its own: nothing is kept on disk.
USER 10001:10001
EXPOSE 8080 9464
ENTRYPOINT ["tierstream"]
CMD ["--help"]
