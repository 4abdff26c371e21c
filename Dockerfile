# The board in a container: one stage, one user who is not root, the workspace outside.
#
#   docker build -t tuneboard .
#   docker run --init -p 7860:7860 -e TUNEBOARD_PASSWORD=... -v tuneboard:/tuneboard/workspace tuneboard
#
# BASE needs Python 3.11 or newer with venv, and make. TORCH_INDEX is a further index for pip, TORCH what to install
# beside the dependencies; the README has the values for NVIDIA, AMD and Ascend.
ARG BASE=python:3.11-bookworm
FROM ${BASE}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=""

# Before WORKDIR, which would make the folder as root.
COPY --chown=10001:10001 . /tuneboard
WORKDIR /tuneboard
USER 10001:10001

# The user has no entry in /etc/passwd: some libraries ask for a name and a home. What hubs send stays in the volume.
ENV HOME=/tuneboard USER=tuneboard \
    HF_HOME=/tuneboard/workspace/cache/huggingface \
    PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL=${TORCH_INDEX}

RUN make setup model TORCH="${TORCH}"

VOLUME /tuneboard/workspace
EXPOSE 7860
# The first process of a container gets no default for SIGTERM; Python ends cleanly on SIGINT.
STOPSIGNAL SIGINT
HEALTHCHECK --start-period=60s --timeout=10s \
    CMD [".venv/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=5)"]

# It can be reached from outside, so it refuses to start without TUNEBOARD_PASSWORD.
CMD [".venv/bin/python", "-m", "app", "--host", "0.0.0.0", "--port", "7860", "--workspace", "/tuneboard/workspace"]
