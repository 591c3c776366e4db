# docker build --target cpu  -t phf:cpu  .     the embedded model, small models, diagnose and compare
# docker build --target cuda -t phf:cuda .     training and evaluation on GPUs, with vLLM
#
# docker run --rm --gpus all -v "$HOME/.cache/huggingface:/cache" -v "$PWD/runs:/work/runs" phf:cuda train --config qwen3-4b
#
# It runs with a read-only root as well: docker run --read-only --tmpfs /tmp ... . Without docker: docs/guides/gpus.md.

# any Debian or Ubuntu with Python 3.11 or later and its venv module
ARG BASE=docker.io/library/python:3.11-slim

FROM ${BASE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/phf/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/cache \
    MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --uid 1000 --home-dir /work phf \
    && mkdir -p /cache /work/runs \
    && chown -R phf:phf /cache /work

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/phf
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY phfcli ./phfcli
COPY data ./data
COPY recipes ./recipes

FROM build AS build-cpu
# where PyTorch keeps its builds for the CPU; an empty value takes torch from where pip finds everything else
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==2.13.0" \
    && pip install --constraint constraints.txt .

FROM build AS build-cuda
# vLLM brings the torch build it was compiled against
RUN pip install --constraint constraints.txt ".[vllm]"

FROM base AS cpu
COPY --from=build-cpu /opt/phf /opt/phf
USER 1000
WORKDIR /work
VOLUME ["/cache", "/work/runs"]
HEALTHCHECK --interval=5m --timeout=30s CMD ["phf", "--version"]
ENTRYPOINT ["phf"]
CMD ["--help"]

FROM base AS cuda
# vLLM and Triton compile kernels at their first start
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-cuda /opt/phf /opt/phf
USER 1000
WORKDIR /work
VOLUME ["/cache", "/work/runs"]
HEALTHCHECK --interval=5m --timeout=30s CMD ["phf", "--version"]
ENTRYPOINT ["phf"]
CMD ["--help"]
