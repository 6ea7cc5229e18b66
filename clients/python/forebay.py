"""A client for forebay over HTTP. Needs only the standard library, Python 3.9 or newer.

    client = forebay.Client("http://127.0.0.1:7420", token="fbt_...")
    entry = client.enqueue("mail", {"to": "a@b.c"}, scope="tenant-a")
    print(client.result(entry, wait=30))

A worker runs entries:

    forebay.Worker(client, {"mail": lambda job: send(job.payload)}).run()
"""

import base64
import http.client
import json
import logging
import os
import signal
import socket
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
import uuid

__all__ = ["Canceled", "Client", "EntryFailed", "Error", "Failed", "Job", "LeaseLost",
           "NotFinished", "Snooze", "Worker"]

log = logging.getLogger("forebay")

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


class Failed(Exception):
    """Raised by a handler: the entry failed, and a retry is useless."""


class Snooze(Exception):
    """Raised by a handler: run the entry again after `delay` seconds. It does not count as an
    attempt."""

    def __init__(self, delay):
        self.delay = delay
        super().__init__(f"snoozed for {delay} s")


class Canceled(Exception):
    """Raised by `Job.check`: the entry was canceled, and the handler should stop."""


class LeaseLost(Exception):
    """Raised by `Job.check`: the lease has ended, and the handler must stop. The entry runs
    elsewhere, or will."""


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


# Errors of a connection, or of an answer that was cut off.
NOT_ANSWERED = (OSError, http.client.HTTPException, ValueError)
# Seconds between two tries after an answer was lost: at first, and at most.
AGAIN_FIRST, AGAIN_MAX = 0.05, 2.0
# Exit code of a worker that ended itself because a handler overran its lease.
EXIT_OVERRUN = 70
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "ns": 1e-9}


def _seconds(text):
    """A duration like "1m30s" in seconds."""
    total, number, unit = 0.0, "", ""
    for char in text + "0":
        if (char.isdigit() or char == ".") and unit:
            total += float(number) * UNITS[unit]
            number, unit = char, ""
        elif char.isdigit() or char == ".":
            number += char
        else:
            unit += char
    return total


class Job:
    """An entry that a worker runs."""

    def __init__(self, body, until, margin):
        self.lease = body["lease"]
        self.entry = body["entry"]
        # Fences effects elsewhere: a later attempt of the same entry has a greater token.
        self.token = tuple(int(part) for part in body["token"].split("."))
        self.service = body["service"]
        self.scope = body.get("scope")
        self.limit_key = body.get("limit_key")
        self.key = body.get("key")
        self.attempt = body["attempt"]
        self.attempts_max = body["attempts_max"]
        self.last_failure = body.get("last_failure", "")
        self.payload = _content(body["payload"])
        self._until = until
        self._margin = margin
        self._stop = False
        self._is_lost = False
        self._has_ended = False

    def left(self):
        """Seconds until the handler must stop, unless a heartbeat extends the lease before: a tenth
        of the lease is kept as a reserve for handlers that notice late."""
        return self._until - self._margin - time.monotonic()

    def check(self):
        """Raises `LeaseLost` or `Canceled` if the handler must or should stop. Handlers that take
        long call it often, and before each effect elsewhere."""
        if self._is_lost or self.left() <= 0:
            raise LeaseLost(self.entry)
        if self._stop:
            raise Canceled(self.entry)


class Worker:
    """Leases entries and runs handlers for them in threads.

    `handlers` maps services to functions: each gets a `Job`, and returns the result (bytes, or
    anything that JSON has). An exception is a failed attempt, which is retried by the entry's
    policy; `Failed`, `Snooze` and `Canceled` mean what their names say.

    No handler runs longer than its lease. Heartbeats extend leases in the background; if the
    server cannot be reached for a whole lease, handlers have to stop: `Job.check` raises
    `LeaseLost`, and if a handler has not returned at the end of its lease the process ends itself
    (exit code 70), so that entries of one key never overlap. With `overrun="continue"` it does
    not: then they may.
    """

    def __init__(self, client, handlers, *, slots=4, name=None, wait=10, overrun="exit"):
        if overrun not in ("exit", "continue"):
            raise ValueError('overrun is "exit" or "continue"')
        self._client = client
        self._handlers = dict(handlers)
        self._slots = slots
        self._name = name or f"{socket.gethostname()[:60]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._wait = wait
        self._overrun = overrun
        self._changed = threading.Condition()
        self._jobs = {}
        self._stopping = threading.Event()
        self._done = threading.Event()
        # The longest lease that was seen, in seconds.
        self._lease = 30.0

    def run(self, signals=True):
        """Runs until `stop` is called, then until the handlers that run have returned. With
        `signals`, and in the main thread, SIGTERM and SIGINT call `stop`."""
        if signals and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
        self._done.clear()
        beats = threading.Thread(target=self._beat, name="forebay-heartbeat", daemon=True)
        beats.start()
        try:
            while not self._stopping.is_set():
                with self._changed:
                    free = self._slots - len(self._jobs)
                    if free == 0:
                        self._changed.wait(0.5)
                        continue
                for job in self._lease_jobs(free):
                    self._start(job)
            with self._changed:
                while self._jobs:
                    self._changed.wait(0.5)
        finally:
            self._done.set()
            beats.join()

    def stop(self):
        """Leases nothing more; `run` returns when what runs has ended."""
        self._stopping.set()

    def _again(self, send, until=None):
        """Repeats a request until it is answered; the answer, and when it was sent. `until` gives
        the time at which it is pointless."""
        pause = AGAIN_FIRST
        while True:
            sent = time.monotonic()
            try:
                return send(), sent
            except Error as error:
                if error.code not in (*SAFE_TO_REPEAT, "stopped") and error.status < 500:
                    raise
                problem = error
            except NOT_ANSWERED as error:
                problem = error
            if time.monotonic() + pause >= (until() if until else float("inf")):
                raise LeaseLost(str(problem))
            log.warning("the server does not answer, trying again: %s", problem)
            time.sleep(pause)
            pause = min(pause * 2, AGAIN_MAX)

    def _lease_jobs(self, free):
        # A repetition with the same name gets the same leases.
        body = {"worker": self._name, "request": uuid.uuid4().hex, "max": min(free, 100),
                "services": list(self._handlers), "wait": _duration(self._wait)}

        def send():
            return self._client.request("POST", "/v1/workers/lease", body=body,
                                        timeout=self._wait + 10)

        # Not repeated when stopping: leases that were granted run out.
        give_up = lambda: 0 if self._stopping.is_set() else float("inf")
        try:
            answer, sent = self._again(send, give_up)
        except LeaseLost:
            return []
        granted = sent + _seconds(answer["waited"])
        jobs = []
        for lease in answer["leases"]:
            left = _seconds(lease["expires_in"])
            self._lease = max(left, 0.01)
            jobs.append(Job(lease, granted + left, self._lease / 10))
        return jobs

    def _start(self, job):
        with self._changed:
            self._jobs[job.lease] = job
        if self._stopping.is_set():
            # Not begun: others run it now.
            run = lambda: self._report(job, "snooze", {"delay": "0ms"})
        else:
            run = lambda: self._run(job)
        threading.Thread(target=run, name=job.entry, daemon=True).start()

    def _run(self, job):
        try:
            job.check()
            result = self._handlers[job.service](job)
            if isinstance(result, (bytes, bytearray)):
                ended = "complete", {"result_base64": base64.b64encode(result).decode()}
            else:
                ended = "complete", {} if result is None else {"result": result}
                json.dumps(ended)
        except Snooze as snooze:
            ended = "snooze", {"delay": _duration(snooze.delay)}
        except Failed as failed:
            ended = "fail", {"message": str(failed), "kind": "terminal"}
        except Canceled as canceled:
            ended = "fail", {"message": f"stopped: {canceled}", "kind": "canceled"}
        except LeaseLost:
            ended = None
        except BaseException as error:  # pylint: disable=broad-except
            text = "".join(traceback.format_exception_only(type(error), error)).strip()
            log.info("%s failed: %s", job.entry, text)
            ended = "fail", {"message": text}
        if ended is None:
            self._forget(job)
        else:
            self._report(job, *ended)

    def _report(self, job, what, body):
        # The handler has returned: it cannot overrun its lease any more.
        job._has_ended = True
        send = lambda: self._client.request("POST", f"/v1/workers/{what}",
                                            body={"lease": job.lease, **body})
        try:
            self._again(send, lambda: job._until)
        except LeaseLost as lost:
            log.warning("the end of %s was not reported in time: it runs again: %s", job.entry, lost)
        except Error as error:
            log.warning("the end of %s was refused: %s", job.entry, error)
        finally:
            self._forget(job)

    def _forget(self, job):
        with self._changed:
            self._jobs.pop(job.lease, None)
            self._changed.notify_all()

    def _beat(self):
        """Extends the leases, three times in the time of a lease, and watches their ends."""
        next_at = 0.0
        while not self._done.wait(min(self._lease / 40, 0.5)):
            with self._changed:
                jobs = list(self._jobs.values())
            for job in jobs:
                # Half of the reserve is for this watch, which may be late too.
                left = job.left() + job._margin / 2
                if left <= 0 and not job._has_ended and self._overrun == "exit":
                    log.error("%s overran its lease: this process ends", job.entry)
                    os._exit(EXIT_OVERRUN)
            if not jobs or time.monotonic() < next_at:
                continue
            next_at = time.monotonic() + self._lease / 3
            # In its own thread: an answer that does not come must not hide the end of a lease.
            threading.Thread(target=self._beat_once, args=(jobs,), daemon=True).start()

    def _beat_once(self, jobs):
        sent = time.monotonic()
        body = {"leases": [job.lease for job in jobs[:1000]]}
        try:
            answer = self._client.request("POST", "/v1/workers/heartbeat", body=body,
                                          timeout=max(self._lease / 3, 0.5))
        except (Error, *NOT_ANSWERED) as error:
            log.warning("a heartbeat was not answered: %s", error)
            return
        for job, state in zip(jobs, answer["leases"]):
            if state["state"] == "lost":
                # Its key stays free of others until the end that this worker knows of.
                job._is_lost = True
                continue
            job._until = max(job._until, sent + _seconds(state["expires_in"]))
            job._stop = job._stop or state["state"] == "stop"
