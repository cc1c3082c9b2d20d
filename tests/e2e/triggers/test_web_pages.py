"""APIs that web pages call, from a real browser: those of the API's origin read the answers, and no other page does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import chromium
from tests.e2e.triggers.callers import api_url, rest_api_url, shop_key, token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from cdk_inference.local import LocalCloud

pytestmark = pytest.mark.e2e

SHOP, OTHER = "http://localhost:8000", "http://localhost:8001"
# The pages are made up, so that the browser does not know that they are on this machine too.
LOOPBACK = "--disable-features=LocalNetworkAccessChecks"
PAGE = """
<!doctype html><title>Shop</title>
<script>
async function ask(method, url, headers, body) {
  try {
    const answer = await fetch(url, {method, headers, body});
    return [answer.status, await answer.json()];
  } catch (error) {
    return [0, String(error)];
  }
}
</script>
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(LOOPBACK) as browser:
        yield browser


@pytest.fixture
def shop(browser: Browser) -> Iterator[Page]:
    with browser.new_page() as page:
        yield opened(page, SHOP)


def opened(page: Page, origin: str) -> Page:
    page.route(f"{origin}/", lambda route: route.fulfill(content_type="text/html", body=PAGE))
    page.goto(f"{origin}/")
    return page


def asked(page: Page, method: str, url: str, headers: dict[str, str], body: str | None = None) -> tuple[int, Any]:
    """Return status and answer as the page reads them; status 0 if the browser does not let it."""
    status, answer = page.evaluate("given => ask(...given)", [method, url, headers, body])
    return status, answer


def test_a_page_sends_an_item_and_reads_its_result(shop: Page, cloud: LocalCloud) -> None:
    url, key = rest_api_url(cloud, "Triggers/Records"), {"x-api-key": shop_key(cloud)}
    item = {**key, "content-type": "application/json", "idempotency-key": "from a page"}
    status, answer = asked(shop, "POST", f"{url}/predict", item, '{"a": 1, "b": 2, "c": 30, "d": 40}')
    assert (status, answer["prediction"]["sums"]) == (200, [3, 70])
    status, answer = asked(shop, "GET", f"{url}/results/from%20a%20page", key)
    assert (status, answer["prediction"]["sums"]) == (200, [3, 70])
    assert asked(shop, "POST", f"{url}/items", item, "{}")[0] == 202


def test_a_page_reads_why_it_is_refused(shop: Page, cloud: LocalCloud) -> None:
    url = rest_api_url(cloud, "Triggers/Records")
    json, key = {"content-type": "application/json"}, {"x-api-key": shop_key(cloud)}
    assert asked(shop, "POST", f"{url}/predict", json, "{}") == (403, {"message": "Forbidden"})
    status, answer = asked(shop, "POST", f"{url}/predict", {**json, **key}, '{"a": 1}')
    assert (status, answer) == (422, {"message": "field 'b' is missing"})


def test_a_page_with_a_token_calls_an_http_api(shop: Page, cloud: LocalCloud) -> None:
    headers = {"authorization": f"Bearer {token(cloud)}", "content-type": "text/plain"}
    url = f"{api_url(cloud, 'Triggers/Texts')}/predict"
    status, answer = asked(shop, "POST", url, headers, "return [1, 2, 30, 40]")
    assert (status, answer["prediction"]["sums"]) == (200, [3, 70])


def test_a_page_of_another_origin_reads_nothing(browser: Browser, cloud: LocalCloud) -> None:
    rest, http = rest_api_url(cloud, "Triggers/Records"), api_url(cloud, "Triggers/Texts")
    key, bearer = {"x-api-key": shop_key(cloud)}, {"authorization": f"Bearer {token(cloud)}"}
    with browser.new_page() as page:
        opened(page, OTHER)
        for url, headers in ((rest, key), (http, bearer), (rest_api_url(cloud, "Triggers/Staged"), {})):
            assert asked(page, "POST", f"{url}/predict", {**headers, "content-type": "text/plain"}, "x")[0] == 0
        assert asked(page, "GET", f"{cloud.endpoint}/_aws/execute-api/none/prod", {})[0] == 0
