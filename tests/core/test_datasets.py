"""What files are called as datasets: the same whoever reads or writes them, without connections or signatures."""

from __future__ import annotations

import pytest

from airflow_provider_llmbatch.core.datasets import DatasetName, asset_uri, dataset_name


@pytest.mark.parametrize(
    ("location", "name", "uri"),
    [
        ("s3://warehouse/a/b.jsonl", ("s3://warehouse", "a/b.jsonl"), "s3://warehouse/a/b.jsonl"),
        ("s3://my_conn@warehouse/a/dt=1/", ("s3://warehouse", "a/dt=1"), "s3://warehouse/a/dt=1"),
        ("gs://bucket", ("gs://bucket", "/"), "gs://bucket/"),
        ("gs://bucket/what?#1.csv", ("gs://bucket", "what?#1.csv"), "gs://bucket/what%3F%231.csv"),
        ("abfs://azure@container/é.csv", ("abfss://container", "é.csv"), "abfs://container/%C3%A9.csv"),
        ("file:///data/in%20put", ("file", "/data/in put"), "file:///data/in%20put"),
        ("/data/in put/", ("file", "/data/in put"), "file:///data/in%20put"),
        ("file://nas/data", ("file://nas", "/data"), "file://nas/data"),
        ("https://me:pw@host:8443/x?sig=secret", ("https://host:8443", "x"), "https://host:8443/x"),
    ],
)
def test_a_file_has_one_name_and_one_uri(location: str, name: tuple[str, str], uri: str) -> None:
    assert (dataset_name(location), asset_uri(location)) == (DatasetName(*name), uri)


def test_a_relative_path_is_named_by_its_whole_path(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert dataset_name("out/x") == DatasetName("file", f"{tmp_path}/out/x")
