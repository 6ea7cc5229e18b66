//! `forebay jobs`: the request, and the answer as text.

use forebay::control::{JobsView, Request};

use super::args::JobsArgs;

/// The request of `forebay jobs [N]`.
pub(super) fn request(args: &JobsArgs) -> Request {
    Request::Jobs { running_max: args.running_max() }
}

/// The answer, for display.
pub(super) fn as_text(jobs: &JobsView) -> String {
    let JobsView { running, running_max, before } = jobs;
    let may = match running_max {
        Some(most) => format!("{running} run, at most {most} may"),
        None => format!("{running} run, without a limit"),
    };
    match (before, running_max) {
        (Some(before), Some(most)) if before > most && *running > *most as usize => {
            format!(
                "{may} ({before} before): running ones continue, the next start when fewer run\n"
            )
        }
        (Some(before), _) => format!("{may} ({before} before)\n"),
        (None, _) => format!("{may}\n"),
    }
}
