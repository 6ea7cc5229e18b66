"""Tests of the client against the server at FOREBAY_URL. `tests/process/serve.rs` runs them."""

import os
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


if __name__ == "__main__":
    unittest.main()
