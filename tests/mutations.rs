//! The scripts that break the sources on purpose (`tests/mutations/`) must still find what
//! they break.

use std::{fs, process::Command};

/// Two mutations had stopped applying, which only their long runs would have told.
#[test]
fn every_mutation_still_applies() {
    let root = crate::root();
    if !root.join(".git").exists() {
        // The scripts copy what git tracks.
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
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}:\n{said}", script.display());
        assert!(said.lines().filter(|line| line.starts_with("applies")).count() > 3, "{said}");
    }
    assert!(scripts >= 5, "{scripts} scripts");
}
