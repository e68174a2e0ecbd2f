# anchorbench on the CPU. Tried by .ci/docker.
#
#     docker build -t anchorbench .
#     docker run --rm -v "$PWD/anchorbench-out:/work/anchorbench-out" anchorbench run
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c /src/constraints.txt /src && rm -rf /src
WORKDIR /work
ENTRYPOINT ["anchorbench"]
CMD ["--help"]
