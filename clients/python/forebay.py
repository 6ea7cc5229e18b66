"""A client for forebay over HTTP. Needs only the standard library, Python 3.9 or newer.

    client = forebay.Client("http://127.0.0.1:7420", token="fbt_...")
    entry = client.enqueue("mail", {"to": "a@b.c"}, scope="tenant-a")
    print(client.result(entry, wait=30))
"""

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request

__all__ = ["Client", "EntryFailed", "Error", "NotFinished"]

ENVELOPE = "application/vnd.forebay.entry+json"
# Longest wait that the server accepts, in seconds.
WAIT_MAX = 300
# Errors after which nothing was done, or repeating the request is safe.
SAFE_TO_REPEAT = ("busy", "unknown", "backlog_full")


class Error(Exception):
    """The server refused a request. `code` is stable; `detail` is for users."""

    def __init__(self, status, problem):
        self.status = status
        self.code = problem.get("code", "")
        self.detail = problem.get("detail", "")
        self.retry_after = problem.get("retry_after")
        super().__init__(f"{self.code or status}: {self.detail}")


class EntryFailed(Exception):
    """An entry ended without success; `outcome` says how."""

    def __init__(self, entry, outcome, failure):
        self.entry = entry
        self.outcome = outcome
        self.failure = failure
        super().__init__(f"{entry} ended as {outcome}: {failure}")


class NotFinished(Exception):
    """An entry has not ended in the given time."""


def _duration(seconds):
    return f"{int(seconds * 1000)}ms"


def _content(content):
    """The value of a payload or a result: decoded JSON, text, or bytes."""
    if content is None or content["len"] == 0:
        return None
    if "base64" in content:
        return base64.b64decode(content["base64"])
    return content["json"] if "json" in content else content.get("text")


class Client:
    """A client of one server. Safe to use from several threads: it keeps no connection."""

    def __init__(self, url, token=None, timeout=30):
        self._url = url.rstrip("/")
        self._token = token
        self._timeout = timeout

    def request(self, method, path, query=None, body=None, media="application/json", headers=None,
                timeout=None):
        """Sends a request; returns the decoded answer. For what has no method here."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = self._url + path + ("?" + urllib.parse.urlencode(given) if given else "")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
        if body is not None:
            request.add_header("Content-Type", media)
        if self._token is not None:
            request.add_header("Authorization", "Bearer " + self._token)
        try:
            with urllib.request.urlopen(request, timeout=timeout or self._timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                try:
                    problem = json.load(error)
                except ValueError:
                    problem = {"detail": error.reason}
            raise Error(error.code, problem) from None

    def enqueue(self, service, payload=None, *, idempotency_key=None, attempts=1, **options):
        """Enqueues an entry; returns its id. It is durable then.

        `payload` is bytes or anything that JSON has. Options are `scope`, `limit_key`, `key`,
        `run_at` (ISO 8601), `delay` and `retention` (like "1m30s"), `retry` (a dict). With
        `attempts` more than 1, a refusal that may pass is repeated; without an idempotency key an
        entry may then be stored twice, if an answer was lost.
        """
        envelope = self._envelope(payload, options)
        if idempotency_key is not None:
            envelope["idempotency_key"] = idempotency_key
        path = f"/v1/services/{urllib.parse.quote(service, safe='')}/entries"
        for attempt in range(1, attempts + 1):
            try:
                return self.request("POST", path, body=envelope, media=ENVELOPE)["id"]
            except Error as error:
                if attempt == attempts or error.code not in SAFE_TO_REPEAT:
                    raise
                time.sleep(error.retry_after or 1)
        raise ValueError("attempts is at least 1")

    def enqueue_batch(self, service, entries):
        """Enqueues many entries: dicts with `payload` and the options of `enqueue`.

        Returns one dict for each, in order: with `id` and `existing`, or with `code` and `detail`.
        Entries for the same partition are stored together or not at all.
        """
        envelopes = []
        for entry in entries:
            options = dict(entry)
            envelopes.append(self._envelope(options.pop("payload", None), options))
        path = f"/v1/services/{urllib.parse.quote(service, safe='')}/entries"
        return self.request("POST", path, body=envelopes, media=ENVELOPE)

    @staticmethod
    def _envelope(payload, options):
        envelope = {name: value for name, value in options.items() if value is not None}
        if isinstance(payload, (bytes, bytearray)):
            envelope["payload_base64"] = base64.b64encode(payload).decode()
        elif payload is not None:
            envelope["payload"] = payload
        return envelope

    def result(self, entry, wait=30):
        """Waits for the result of an entry, `wait` seconds at most.

        Raises `EntryFailed` if it failed, `NotFinished` if it has not ended.
        """
        until = time.monotonic() + wait
        while True:
            left = min(max(until - time.monotonic(), 0), WAIT_MAX)
            query = {"wait": _duration(left)}
            path = f"/v1/entries/{entry}/result"
            answer = self.request("GET", path, query, timeout=left + self._timeout)
            if answer["outcome"] == "success":
                return _content(answer.get("result"))
            if answer["outcome"] is not None:
                raise EntryFailed(entry, answer["outcome"], answer.get("failure"))
            if time.monotonic() >= until:
                raise NotFinished(f"{entry} has not ended within {wait} s")

    def entry(self, entry):
        """Everything known about an entry."""
        return self.request("GET", f"/v1/entries/{entry}")

    def explain(self, entry):
        """Why an entry waits."""
        return self.request("GET", f"/v1/entries/{entry}/explain")

    def entries(self, *, page=1000, **conditions):
        """Yields all entries that match, in the order of their ids.

        Conditions are `stage`, `service`, `scope`, `limit_key`, `outcome`, `created_until`.
        """
        cursor = None
        while True:
            query = {**conditions, "limit": page, "cursor": cursor}
            answer = self.request("GET", "/v1/entries", query)
            yield from answer["entries"]
            cursor = answer["next"]
            if cursor is None:
                return

    def count(self, **conditions):
        """The number of entries that match; for many, at least that number."""
        return self.request("GET", "/v1/entries/count", conditions)["count"]

    def act(self, entry, action, **body):
        """Applies an action to an entry: cancel, kill, pause, resume, redrive, purge, restart,
        reschedule (with `run_at` or `delay`) or resolve (with `name`, and `value` or `reject`)."""
        return self.request("POST", f"/v1/entries/{entry}/{action}", body=body or None)

    def act_on_all(self, action, *, all=False, dry_run=False, wait="30s", **conditions):
        """Applies an action to all entries that match; returns its state.

        It continues on the server if it takes longer than `wait`: see `bulk`.
        """
        body = {"action": action, "all": all, "dry_run": dry_run, "wait": wait}
        for option in ("run_at", "delay"):
            if option in conditions:
                body[option] = conditions.pop(option)
        body["filter"] = conditions
        return self.request("POST", "/v1/bulk", body=body, timeout=WAIT_MAX + self._timeout)

    def bulk(self, number):
        """The state of an action on many entries."""
        return self.request("GET", f"/v1/bulk/{number}")
