# Airflow with this package, and with what the nodes of the example DAGs import: they are processes of these containers.
ARG AIRFLOW_VERSION=3.3.2
FROM apache/airflow:${AIRFLOW_VERSION}
ARG AIRFLOW_VERSION

# The places of docker-compose.yaml's volumes: a new volume takes over the owner of the directory that it covers.
USER root
RUN install -d -o airflow -g root /opt/airflow/auth /opt/airflow/flights /opt/airflow/rankvol
USER airflow

COPY --chown=airflow:root pyproject.toml README.md LICENSE /opt/src/
COPY --chown=airflow:root airflow_rankvol /opt/src/airflow_rankvol
# Airflow is named so that nothing replaces the image's own.
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" "/opt/src[amazon]" --group /opt/src/pyproject.toml:demo
