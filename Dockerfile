# weakloc answering requests. On the CPU:
#     docker build -t weakloc .
#     docker run --rm -p 127.0.0.1:9090:9090 -e WEAKLOC_TOKEN=SECRET -v $PWD/run:/run/weakloc:ro -v $PWD/PHOTOS:/images:ro weakloc
# With CUDA, and `--gpus all` in docker run:
#     docker build -t weakloc:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/weakloc
ENV PATH=/opt/weakloc/bin:$PATH
RUN pip install --no-cache-dir --index-url ${TORCH_INDEX} torch torchvision
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir "/src[label-studio,onnx]"
RUN useradd --create-home weakloc
USER weakloc
WORKDIR /home/weakloc
EXPOSE 9090
# What is served comes last: a run folder, an ONNX file, or whatever `weakloc serve` takes.
ENTRYPOINT ["weakloc", "serve", "--host", "0.0.0.0", "--root", "/images"]
CMD ["/run/weakloc"]
