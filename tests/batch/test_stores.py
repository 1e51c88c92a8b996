"""Archives in an object store: a real S3-compatible server on this machine (moto's)."""

import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("moto", reason="no moto: pip install 'egeunet[dev]'")
s3fs = pytest.importorskip("s3fs", reason="no s3fs: pip install s3fs")

from egeunet.batch.images import read_images  # noqa: E402
from egeunet.batch.parts import write_part  # noqa: E402
from egeunet.batch.plan import plan_shards  # noqa: E402
from egeunet.batch.storage import Folder, StoreError  # noqa: E402
from egeunet.errors import EgeunetError  # noqa: E402


@pytest.fixture(scope="module")
def server():
    """The environment of clients of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        for _ in range(300):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield variables
        process.terminate()


@pytest.fixture(scope="module")
def bucket(server, images, tmp_path_factory):
    """A bucket with the same images as files, in a tar and in a Parquet file."""
    store = s3fs.S3FileSystem()
    store.mkdir("archive")
    root = images[0].parents[1]
    for image in images:
        store.put_file(str(image), f"archive/images/{image.relative_to(root)}")
    local = tmp_path_factory.mktemp("local")
    with tarfile.open(local / "x.tar", "w") as tar:
        for image in images:
            tar.add(image, image.name)
    uris = [f"s3://archive/images/{image.relative_to(root)}" for image in images]
    pq.write_table(pa.table({"uri": uris}), local / "x.parquet")
    for name in ("x.tar", "x.parquet"):
        store.put_file(str(local / name), f"archive/{name}")
    return store


@pytest.mark.parametrize("name", ["images", "images/*/*.jpg", "x.tar", "x.parquet"])
def test_every_kind_is_read_from_a_store(bucket, images, name):
    shards = plan_shards([f"s3://archive/{name}"], 4, "out")
    found = [image for shard in shards for image in read_images(shard)]
    assert all(name.startswith("s3://archive/") for name, _ in found)
    assert [data for _, data in found] == [image.read_bytes() for image in images]


def test_a_missing_photo_is_an_error_and_an_unreachable_store_ends_the_shard(bucket):
    ((_, error),) = read_images({"images": ["s3://archive/gone.jpg"]})
    assert str(error) == "There is no file s3://archive/gone.jpg."
    with pytest.raises(EgeunetError, match="There is no file or folder s3://archive/gone"):
        list(plan_shards(["s3://archive/gone"], 4, "out"))
    with pytest.raises(StoreError, match="cannot be opened"):
        list(read_images({"tar": "s3://a bucket with no such name/x.tar"}))


def test_a_part_in_a_store_has_the_bytes_of_one_on_disk(bucket, segmenter, tmp_path):
    (shard,) = plan_shards(["s3://archive/images"], 100, "out")
    for output in ("s3://archive/parts", str(tmp_path)):
        assert write_part(segmenter, Folder(output), 0, shard, masks=True) == (9, 0)
    names = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(names) == 10
    for name in names:
        assert bucket.cat_file(f"archive/parts/{name}") == (tmp_path / name).read_bytes()


@pytest.mark.slow
def test_a_job_from_bucket_to_bucket(bucket, server, program):
    pytest.importorskip("ray", reason="no ray: pip install 'egeunet[batch]'")
    words = ("s3://archive/images", "-o", "s3://archive/out/", "--shard-size", 4)
    assert program.run(*words, **server)[0].startswith("s3://archive/out/: 9 segmented (")
    names = {Path(name).name for name in bucket.find("archive/out", refresh=True)}
    assert names == {"plan.jsonl", "summary.json", *(f"part-0000{n}.parquet" for n in range(3))}
    out, _ = program.run(*words, **server)
    assert out == "s3://archive/out/: 9 segmented, 0 failed, 9 done before\n"
