# A stock agent's binary where its image cannot be had; as there, no shell is needed and the binary is the entry point.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
COPY cloudflared /usr/local/bin/cloudflared
USER 65532:65532
ENTRYPOINT ["cloudflared"]
