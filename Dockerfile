# docker build --target cpu  -t phf:cpu  .     the embedded model, small models, diagnose and compare
# docker build --target cuda -t phf:cuda .     training and evaluation on GPUs, with vLLM
#
# docker run --rm --gpus all -v "$HOME/.cache/huggingface:/cache" -v "$PWD/runs:/work/runs" phf:cuda train --config qwen3-4b

FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache
RUN useradd --create-home --uid 1000 phf \
    && mkdir -p /cache /work/runs \
    && chown -R phf:phf /cache /work
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY phfcli ./phfcli
COPY data ./data
COPY recipes ./recipes

FROM base AS cpu
RUN pip install "torch==2.13.0" --index-url https://download.pytorch.org/whl/cpu \
    && pip install --constraint constraints.txt .
USER 1000
WORKDIR /work
VOLUME ["/cache", "/work/runs"]
ENTRYPOINT ["phf"]
CMD ["--help"]

FROM base AS cuda
# vLLM brings the torch build it was compiled against, and may need newer releases than the tested CPU ones
# hadolint ignore=DL3008,DL3013
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ \
    && rm -rf /var/lib/apt/lists/* \
    && pip install ".[vllm]"
USER 1000
WORKDIR /work
VOLUME ["/cache", "/work/runs"]
ENTRYPOINT ["phf"]
CMD ["--help"]
