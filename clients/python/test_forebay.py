"""Tests of the client against the server at FOREBAY_URL. `tests/process/serve.rs` runs them."""

import os
import threading
import time
import unittest

import forebay


class ClientTest(unittest.TestCase):
    def setUp(self):
        url, token = os.environ["FOREBAY_URL"], os.environ["FOREBAY_TOKEN"]
        self.client = forebay.Client(url, token)
        self.stranger = forebay.Client(url, "fbt_wrong")

    def test_an_entry_is_enqueued_and_looked_at(self):
        entry = self.client.enqueue("mail", {"to": "a"}, scope="look", delay="1h")
        found = self.client.entry(entry)
        self.assertEqual((found["stage"], found["payload"]["json"]), ("inbox", {"to": "a"}))
        reasons = [block["reason"] for block in self.client.explain(entry)["blocked_by"]]
        self.assertIn("run_at", reasons)

    def test_a_result_is_waited_for(self):
        entry = self.client.enqueue("mail", b"\xff", scope="wait", delay="1h")
        with self.assertRaises(forebay.NotFinished):
            self.client.result(entry, wait=0.1)
        self.client.act(entry, "kill")
        with self.assertRaises(forebay.EntryFailed) as failed:
            self.client.result(entry)
        self.assertEqual(failed.exception.outcome, "killed")

    def test_a_batch_reports_each_entry(self):
        entries = [{"payload": 1, "scope": "batch"}, {"payload": 2, "limit_key": "x"}]
        stored, refused = self.client.enqueue_batch("mail", entries)
        self.assertFalse(stored["existing"])
        self.assertEqual(refused["code"], "bad_input")

    def test_an_idempotency_key_adds_nothing_twice(self):
        options = {"scope": "once", "idempotency_key": "order-7", "attempts": 3}
        first = self.client.enqueue("mail", 1, **options)
        self.assertEqual(self.client.enqueue("mail", 1, **options), first)

    def test_lists_have_all_pages_and_actions_reach_all(self):
        made = {self.client.enqueue("mail", number, scope="list") for number in range(5)}
        found = {entry["id"] for entry in self.client.entries(page=2, scope="list")}
        self.assertEqual(found, made)
        tried = self.client.act_on_all("cancel", scope="list", dry_run=True)
        self.assertEqual(tried["report"]["changed"], 5)
        done = self.client.act_on_all("cancel", scope="list")
        self.assertEqual(self.client.bulk(done["id"])["state"], "done")
        self.assertEqual(self.client.count(scope="list", outcome="canceled"), 5)

    def test_errors_have_codes(self):
        with self.assertRaises(forebay.Error) as refused:
            self.client.enqueue("mail", 1, color="red")
        self.assertEqual((refused.exception.status, refused.exception.code), (400, "bad_input"))
        self.assertIn("color", refused.exception.detail)
        with self.assertRaises(forebay.Error) as refused:
            self.stranger.count()
        self.assertEqual(refused.exception.code, "unauthorized")


class LosingClient(forebay.Client):
    """Loses the answer to the first request of each path."""

    def __init__(self, *args):
        super().__init__(*args)
        self.lost = set()
        self.cut_off = set()

    def request(self, method, path, *args, **kwargs):
        if path in self.cut_off:
            raise ConnectionRefusedError(path)
        answer = super().request(method, path, *args, **kwargs)
        # An empty answer has nothing to lose.
        if path not in self.lost and answer.get("leases") != []:
            self.lost.add(path)
            raise ConnectionResetError(path)
        return answer


class WorkerTest(unittest.TestCase):
    """The server's leases hold for 2 s."""

    def setUp(self):
        url, token = os.environ["FOREBAY_URL"], os.environ["FOREBAY_TOKEN"]
        self.client = forebay.Client(url, token)
        self.losing = LosingClient(url, token)
        self.workers = []
        self.addCleanup(self.stop)

    def start(self, client, handlers, **options):
        worker = forebay.Worker(client, handlers, wait=1, **options)
        thread = threading.Thread(target=worker.run, kwargs={"signals": False})
        thread.start()
        self.workers.append((worker, thread))
        return worker

    def stop(self):
        for worker, _ in self.workers:
            worker.stop()
        for _, thread in self.workers:
            thread.join(60)
            self.assertFalse(thread.is_alive())
        self.workers = []

    def test_handlers_succeed_fail_and_snooze(self):
        seen = []

        def flaky(job):
            seen.append((job.attempt, job.last_failure))
            if len(seen) == 1:
                raise RuntimeError("not yet")
            if len(seen) == 2:
                raise forebay.Snooze(0.01)
            return b"\xff"

        def never(job):
            raise forebay.Failed("never")

        self.start(self.client, {"py-double": lambda job: job.payload * 2, "py-flaky": flaky,
                                 "py-never": never})
        double = self.client.enqueue("py-double", 21)
        flaky = self.client.enqueue("py-flaky")
        never = self.client.enqueue("py-never")
        self.assertEqual(self.client.result(double), 42)
        self.assertEqual(self.client.result(flaky), b"\xff")
        self.assertEqual(seen, [(1, ""), (2, "RuntimeError: not yet"), (2, "RuntimeError: not yet")])
        with self.assertRaises(forebay.EntryFailed) as failed:
            self.client.result(never)
        self.assertEqual(failed.exception.failure, "never")

    def test_lost_answers_cost_nothing(self):
        runs = []
        self.start(self.losing, {"py-lost": runs.append}, slots=1)
        entry = self.client.enqueue("py-lost", 1)
        self.client.result(entry)
        self.stop()
        self.assertEqual(len(runs), 1)
        self.assertLessEqual({"/v1/workers/lease", "/v1/workers/complete"}, self.losing.lost)

    def test_a_stop_lets_handlers_finish_and_heartbeats_keep_them(self):
        begun = threading.Event()

        def slow(job):
            begun.set()
            time.sleep(4)
            return job.attempt

        worker = self.start(self.client, {"py-slow": slow})
        entry = self.client.enqueue("py-slow")
        self.assertTrue(begun.wait(30))
        worker.stop()
        self.assertEqual(self.client.result(entry), 1)

    def test_a_canceled_entry_stops_its_handler(self):
        begun = threading.Event()

        def obedient(job):
            begun.set()
            while True:
                job.check()
                time.sleep(0.01)

        self.start(self.client, {"py-cancel": obedient})
        entry = self.client.enqueue("py-cancel")
        self.assertTrue(begun.wait(30))
        self.client.act(entry, "cancel")
        with self.assertRaises(forebay.EntryFailed) as failed:
            self.client.result(entry)
        self.assertEqual(failed.exception.outcome, "canceled")

    def test_a_handler_stops_at_the_end_of_its_lease_and_the_entry_runs_elsewhere(self):
        ended = []

        def cut_off(job):
            self.losing.cut_off |= {"/v1/workers/heartbeat", "/v1/workers/lease"}
            try:
                while True:
                    job.check()
                    time.sleep(0.01)
            finally:
                ended.append(time.monotonic())

        self.start(self.losing, {"py-lease": cut_off}, slots=1)
        entry = self.client.enqueue("py-lease", key="k")
        while not self.losing.cut_off:
            time.sleep(0.01)
        self.start(self.client, {"py-lease": lambda job: time.monotonic()})
        elsewhere = self.client.result(entry)
        self.assertLess(ended[0], elsewhere)


if __name__ == "__main__":
    unittest.main()
