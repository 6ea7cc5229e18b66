//! Unfinished items that are not in the input, summarized on one line.

use super::Run;
use crate::exec::runs::{RunId, items::ASIDE};

/// Maximum number of named holders of keys.
const NAMED_MAX: usize = 5;

impl Run {
    /// Reports waiting items that are not run: items of this run that its input does not name, and
    /// items of other runs.
    pub(super) fn report_rest(&mut self) {
        let mut parts = Vec::new();
        if self.summary.inside > 0 {
            let (count, dir) = (self.summary.inside, self.data_dir.display());
            let text =
                format!("{} in the data directory {dir} left out", items(count, "", "is", "are"));
            parts.push(text);
        }
        if self.aside > 0 {
            let run = self.served[0].id.short();
            let text = items(self.aside, "of this command that", "is", "are");
            parts.push(format!("{text} not in the input wait (forebay exec --resume {run})"));
        }
        let served = |id: &RunId| self.served.iter().any(|served| served.id == *id);
        let others = self.counts.iter().filter(|counts| {
            counts.unfinished() > 0
                && RunId::of_service(&counts.service).is_some_and(|id| !served(&id))
        });
        let (runs, count) = others
            .fold((0_u64, 0), |(runs, count), counts| (runs + 1, count + counts.unfinished()));
        if count > 0 {
            let of = if runs == 1 { "another command" } else { &format!("{runs} other commands") };
            let verb = if count == 1 { "waits" } else { "wait" };
            let plural = if count == 1 { "" } else { "s" };
            parts.push(format!("{count} item{plural} of {of} {verb} (forebay runs)"));
        }
        if !parts.is_empty() {
            self.screen.message(format!("forebay: {}\n", parts.join("; ")).as_bytes());
        }
        self.report_holders();
    }

    /// Names set-aside items that hold a key that others need.
    fn report_holders(&mut self) {
        let items = &self.served[0].items;
        let is_aside = |id: &forebay_messages::EntryId| {
            items.find(&id.uuid).is_some_and(|place| items.has(place, ASIDE))
        };
        let run = self.served[0].id.short();
        let holders = self.holders.iter().filter(|(id, _)| is_aside(id)).take(NAMED_MAX);
        for (id, key) in holders {
            let text = format!(
                "forebay: {id}, which is not in the input, has begun and holds the key `{key}`: \
                 items with this key wait for it (forebay exec --resume {run}, or forebay cancel \
                 {id})\n"
            );
            self.screen.message(text.as_bytes());
        }
    }
}

fn items(count: u64, which: &str, one: &str, many: &str) -> String {
    let (plural, verb) = if count == 1 { ("", one) } else { ("s", many) };
    let which = if which.is_empty() { String::new() } else { format!(" {which}") };
    format!("{count} item{plural}{which} {verb}")
}
