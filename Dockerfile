# docker build -t lossatlas . && docker run --rm lossatlas
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /lossatlas
COPY . .
# the environment is part of the image, the data set is fetched at the first run
RUN make .venv/.lossatlas-ready
CMD ["make", "run"]
