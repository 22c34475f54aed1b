# The controller: `nanofleet` in a container, its fleet (CA, store, artifacts) in a volume.
#
#   docker build --file docker/controller.Dockerfile --tag nanofleet-controller .
#   docker run --rm -it --volume fleet:/var/lib/nanofleet nanofleet-controller device list
#
# No secret is in any layer: the fleet's key is made in the volume by `nanofleet init`.

FROM ubuntu:noble-20251013 AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Versions of packages vanish from the archive; the dated base is what is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/nanofleet
COPY . /src
RUN /opt/nanofleet/bin/pip install --constraint /src/constraints.txt '/src[controller]'

FROM ubuntu:noble-20251013 AS controller
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 7401 --user-group --no-create-home --home-dir /var/lib/nanofleet nanofleet \
    && install --directory --owner nanofleet --group nanofleet --mode 0700 /var/lib/nanofleet /invitations
COPY --from=build /opt/nanofleet /opt/nanofleet
COPY docker/invite.sh /usr/local/bin/invite
ENV PATH=/opt/nanofleet/bin:$PATH NANOFLEET_HOME=/var/lib/nanofleet/fleet
USER 7401:7401
VOLUME /var/lib/nanofleet
# While `nanofleet device token` waits for a device, and for one that renews.
EXPOSE 7402 7403
# It serves nobody between two commands, so there is nothing to ask.
HEALTHCHECK NONE
ENTRYPOINT ["nanofleet"]
CMD ["--help"]
