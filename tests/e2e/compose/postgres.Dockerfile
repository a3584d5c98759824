# Stands in for the official image where no registry can be reached: Debian's PostgreSQL behind the same variables and folder.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql >/dev/null && rm -rf /var/lib/apt/lists/* && \
    ln -s /usr/lib/postgresql/*/bin /usr/lib/postgresql/bin
COPY postgres-entrypoint /usr/local/bin/
ENV PATH=/usr/lib/postgresql/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data LC_ALL=C.UTF-8
RUN install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
ENTRYPOINT ["postgres-entrypoint"]
