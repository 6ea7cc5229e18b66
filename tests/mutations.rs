//! The mutation scripts (`tests/mutations/`) must still apply to the sources.

use std::{fs, process::Command};

/// Regression: two mutations no longer applied, which only their long runs would have reported.
#[test]
fn every_mutation_still_applies() {
    let root = crate::root();
    if !root.join(".git").exists() {
        // The scripts copy the files tracked by git.
        return;
    }
    let mut scripts = 0;
    for script in fs::read_dir(root.join("tests/mutations")).unwrap() {
        let script = script.unwrap().path();
        if script.file_name().unwrap() == "lib.sh" {
            continue;
        }
        scripts += 1;
        let output = Command::new("bash")
            .arg(&script)
            .env("FOREBAY_MUTATIONS", "apply")
            .current_dir(root)
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}:\n{report}", script.display());
        assert!(report.lines().filter(|line| line.starts_with("applies")).count() > 3, "{report}");
    }
    assert!(scripts >= 5, "{scripts} scripts");
}
