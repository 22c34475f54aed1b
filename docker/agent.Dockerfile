# The agent, for each generation of JetPack, and for any other machine:
#
#   docker build --file docker/agent.Dockerfile --target jetpack6 --tag nanofleet-agent:jetpack6 .
#
#   target     for                                   userland                     trains on
#   jetpack4   Nano, TX2 (JetPack 4)                 Ubuntu 22.04, Python 3.10    the processor
#   jetpack5   Xavier, Orin (JetPack 5)              Ubuntu 22.04, Python 3.10    the processor
#   jetpack6   Orin (JetPack 6; --runtime nvidia)    the vendor's torch with CUDA the GPU
#   jetpack7   Orin, Thor (JetPack 7; the same)      Ubuntu 24.04, Python 3.12    the GPU
#   machine    the processor that it is built on     Ubuntu 22.04, Python 3.10    the processor
#
# On JetPack 4 and 5 the vendor's torch with CUDA is for Pythons that are older than the agent takes.
# Serving is the processor's business everywhere: the agent asks llama.cpp for no GPU layers. The
# flags are those of jetson/profiles.toml (a test holds them together), so an image can be built on
# any 64-bit Arm machine. An old Docker on JetPack 4 needs `--security-opt seccomp=unconfined`, else
# apt fails on clone3.
#
# No secret is in any layer: identity and state are in the volume, made when the device joins.

FROM ubuntu:jammy-20251013 AS builder-jammy
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Versions of packages vanish from the archive; the dated base is what is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential cmake git ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/nanofleet
COPY . /src

FROM builder-jammy AS build-jetpack4
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8-a+crc -DLLAVA_BUILD=OFF"
RUN /opt/nanofleet/bin/pip install --constraint /src/docker/constraints-3.10.txt '/src[agent,train,infer]'

FROM builder-jammy AS build-jetpack5
# Of Xavier; Orin has more (armv8.2-a+dotprod+fp16), and takes --build-arg ARCH.
ARG ARCH=armv8.2-a+fp16
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=${ARCH} -DLLAVA_BUILD=OFF"
RUN /opt/nanofleet/bin/pip install --constraint /src/docker/constraints-3.10.txt '/src[agent,train,infer]'

FROM builder-jammy AS build-machine
ENV CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"
RUN /opt/nanofleet/bin/pip install --constraint /src/docker/constraints-3.10.txt '/src[agent,train,infer]'

FROM ubuntu:noble-20251013 AS build-jetpack7
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Of Orin, which JetPack 7.2 runs on, too; Thor has more (armv9-a+i8mm+bf16).
ARG ARCH=armv8.2-a+dotprod+fp16
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=${ARCH} -DLLAVA_BUILD=OFF"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential cmake git ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/nanofleet
COPY . /src
# torch 2.13 brings CUDA 13, which is the one of this JetPack.
RUN sed '/^torch==/d' /src/constraints.txt > /tmp/constraints.txt \
    && /opt/nanofleet/bin/pip install --constraint /tmp/constraints.txt 'torch==2.13.0' '/src[agent,train-cuda,infer]'

# 6.3 GB: CUDA 12.6, cuDNN and torch 2.5 for sm_87, with Python 3.10 of Ubuntu 22.04.
FROM dustynv/l4t-pytorch:r36.4.0 AS jetpack6
# It is root's until here, and again below.
USER 0:0
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16 -DLLAVA_BUILD=OFF" \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential cmake git ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
# The image's own torch stays: it is the one with code for the board's GPU. `--isolated` leaves the
# image's choice of another package index out.
RUN python3 -m venv --system-site-packages /opt/nanofleet \
    && sed '/^torch==/d; /^numpy==/d' /src/docker/constraints-3.10.txt > /tmp/constraints.txt \
    && /opt/nanofleet/bin/pip --isolated install --constraint /tmp/constraints.txt '/src[agent,train-cuda,infer]' \
    && rm -rf /src \
    && useradd --system --uid 7401 --user-group --no-create-home --home-dir /var/lib/nanofleet nanofleet \
    && usermod --append --groups video nanofleet \
    && install --directory --owner nanofleet --group nanofleet --mode 0700 /var/lib/nanofleet
ENV PATH=/opt/nanofleet/bin:$PATH NANOFLEET_STATE=/var/lib/nanofleet
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
USER 7401:7401
VOLUME /var/lib/nanofleet
EXPOSE 7401
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s CMD ["nanofleet-agent", "health"]
ENTRYPOINT ["nanofleet-agent"]
CMD ["run"]

FROM ubuntu:noble-20251013 AS jetpack7
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 7401 --user-group --no-create-home --home-dir /var/lib/nanofleet nanofleet \
    && usermod --append --groups video nanofleet \
    && install --directory --owner nanofleet --group nanofleet --mode 0700 /var/lib/nanofleet
COPY --from=build-jetpack7 /opt/nanofleet /opt/nanofleet
ENV PATH=/opt/nanofleet/bin:$PATH NANOFLEET_STATE=/var/lib/nanofleet
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
USER 7401:7401
VOLUME /var/lib/nanofleet
EXPOSE 7401
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s CMD ["nanofleet-agent", "health"]
ENTRYPOINT ["nanofleet-agent"]
CMD ["run"]

FROM ubuntu:jammy-20251013 AS runtime-jammy
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 7401 --user-group --no-create-home --home-dir /var/lib/nanofleet nanofleet \
    && install --directory --owner nanofleet --group nanofleet --mode 0700 /var/lib/nanofleet /invitations
COPY docker/join-and-run.sh /usr/local/bin/join-and-run
ENV PATH=/opt/nanofleet/bin:$PATH NANOFLEET_STATE=/var/lib/nanofleet
USER 7401:7401
VOLUME /var/lib/nanofleet
EXPOSE 7401
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s CMD ["nanofleet-agent", "health"]
ENTRYPOINT ["nanofleet-agent"]
CMD ["run"]

FROM runtime-jammy AS jetpack4
COPY --from=build-jetpack4 /opt/nanofleet /opt/nanofleet
# numpy's OpenBLAS takes the Nano's Cortex-A57 for a newer core.
ENV OPENBLAS_CORETYPE=ARMV8

FROM runtime-jammy AS jetpack5
COPY --from=build-jetpack5 /opt/nanofleet /opt/nanofleet

FROM runtime-jammy AS machine
COPY --from=build-machine /opt/nanofleet /opt/nanofleet
