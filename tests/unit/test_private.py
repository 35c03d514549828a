"""deploy/private.py: what is shown of settings that may hold a password."""

from __future__ import annotations

import pytest

from deploy.private import without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@redis/0", "redis://:***@redis/0"),
        ("redis://:p@ss/w0rd@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://token@redis/0", "redis://***@redis/0"),
        ("redis://redis:6379/0?password=hunter2", "redis://redis:6379/0?***"),
        ("redis://redis:6379/0?password=hunter@2", "redis://***"),
        ("redis://:hunter?2@redis/0", "redis://***"),
        ("sentinel://:hunter2@a:26379;sentinel://:hunter2@b:26379", "sentinel://:***@b:26379"),
        ("db+postgresql://shop:s3cret/x@db/shop", "db+postgresql://shop:***@db/shop"),
        ("mongodb://shop:s3cret@db/results?authSource=admin", "mongodb://shop:***@db/results?***"),
        (
            "azureblockblob://DefaultEndpointsProtocol=https;AccountName=a;AccountKey=S3cret==;EndpointSuffix=x",
            "azureblockblob://***",
        ),
        (
            "azureblockblob://BlobEndpoint=https://a.example/;SharedAccessSignature=sv=1&sig=s3cret",
            "azureblockblob://***",
        ),
        ("azureblockblob://AccountKey=s3cret;BlobEndpoint=https://me@a.example", "azureblockblob://***"),
        ("shop.results?token=s3cret", "shop.results?***"),
        ("shop.results:token=s3cret", "***"),
    ],
)
def test_of_a_result_backend_no_password_is_shown(url: str, shown: str) -> None:
    assert without_secrets("CELERY_RESULT_BACKEND", url) == shown


@pytest.mark.parametrize(
    "url",
    ["rpc://", "redis://redis:6379/0", "db+sqlite:///results.sqlite", "cache+memcached://a:11211;b:11211/", "disabled"],
)
def test_an_address_without_one_is_shown_as_it_is(url: str) -> None:
    assert without_secrets("CELERY_RESULT_BACKEND", url) == url


def test_of_other_addresses_all_up_to_the_last_at_may_be_a_password() -> None:
    command = "curl https://me:p@ss/w0rd@hooks.example/x"
    assert without_secrets("MONITOR_COMMAND", command) == "curl https://me:***@hooks.example/x"
    assert without_secrets("FLOWER_AUTH", ".*@example.org") == ".*@example.org"
