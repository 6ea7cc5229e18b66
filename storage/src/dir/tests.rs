//! Taking a data directory: its holder, its contents, its permissions.

use super::*;

#[test]
fn a_new_directory_is_created_and_taken_again_after_release() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b");
    let dir = DataDir::open(&path).unwrap();
    let format = fs::read_to_string(path.join(FORMAT_FILE)).unwrap();
    assert_eq!(format, "forebay data directory, version 1\n");
    fs::create_dir(dir.log()).unwrap();
    drop(dir);
    DataDir::open(&path).unwrap();
}

#[test]
fn a_directory_in_use_by_another_process_is_refused_naming_it() {
    let root = tempfile::tempdir().unwrap();
    drop(DataDir::open(root.path()).unwrap());
    // A lock that the module does not know simulates another process.
    let foreign = File::open(root.path().join(LOCK_FILE)).unwrap();
    foreign.try_lock().unwrap();
    let error = DataDir::open(root.path()).unwrap_err();
    let OpenError::InUse { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(error.to_string().contains(&std::process::id().to_string()));
}

#[test]
fn a_directory_in_use_by_this_process_is_refused_saying_whether_it_closes() {
    let root = tempfile::tempdir().unwrap();
    let held = DataDir::open(root.path()).unwrap();
    let is_closing = || match DataDir::open(root.path()).unwrap_err() {
        OpenError::InUseHere { is_closing, .. } => is_closing,
        error => panic!("{error}"),
    };
    assert!(!is_closing());
    held.closes();
    assert!(is_closing());
    drop(held);
    let _held = DataDir::open(root.path()).unwrap();
    assert!(!is_closing(), "it was taken again");
}

#[test]
fn open_waits_for_a_holder_that_leaves_soon() {
    let root = tempfile::tempdir().unwrap();
    let held = DataDir::open(root.path()).unwrap();
    let leaves = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
    });
    let begun = Instant::now();
    DataDir::open_within(root.path(), Duration::from_secs(60)).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "it is taken when released");
    leaves.join().unwrap();

    let _held = DataDir::open(root.path()).unwrap();
    let error = DataDir::open_within(root.path(), Duration::from_millis(30)).unwrap_err();
    assert!(matches!(error, OpenError::InUseHere { .. }), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let root = tempfile::tempdir().unwrap();
    drop(DataDir::open(root.path()).unwrap());
    fs::write(root.path().join(FORMAT_FILE), format!("{FORMAT_PREFIX}7\n")).unwrap();
    let error = DataDir::open(root.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, .. }), "{error}");
}

#[test]
fn an_unrelated_directory_is_refused_and_unchanged() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("thesis.tex"), "x").unwrap();
    let error = DataDir::open(root.path()).unwrap_err();
    assert!(matches!(&error, OpenError::NotForebay { found, .. } if found == "thesis.tex"));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);

    let garbled = tempfile::tempdir().unwrap();
    fs::write(garbled.path().join(FORMAT_FILE), [0xff; 900]).unwrap();
    let error = DataDir::open(garbled.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotForebay { .. }), "{error}");
}

#[test]
fn the_next_start_finishes_an_interrupted_first_start() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(LOCK_FILE), "1\n").unwrap();
    fs::write(root.path().join(FORMAT_FILE_NEW), "foreb").unwrap();
    DataDir::open(root.path()).unwrap();
}

/// Regression: the target of a symbolic link in a prepared directory was overwritten.
#[test]
fn symbolic_links_are_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let (dir, target) = (root.path().join("data"), root.path().join("target"));
    fs::create_dir(&dir).unwrap();
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, dir.join(LOCK_FILE)).unwrap();
    let error = DataDir::open(&dir).unwrap_err();
    assert!(matches!(error, OpenError::Link { name: LOCK_FILE, .. }), "{error}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");

    fs::remove_file(dir.join(LOCK_FILE)).unwrap();
    std::os::unix::fs::symlink(&target, dir.join(FORMAT_FILE_NEW)).unwrap();
    DataDir::open(&dir).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    assert!(!is_link(&dir.join(FORMAT_FILE)), "a file, not the link under another name");
}

/// Regression: the manifest and the files of a snapshot were written to the target of a link of
/// their name.
#[test]
fn a_new_file_replaces_a_link() {
    let root = tempfile::tempdir().unwrap();
    let (path, target) = (root.path().join("file"), root.path().join("target"));
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    writeln!(create_fresh(&path).unwrap(), "mine").unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine\n");
    assert_eq!(create_fresh(&path).unwrap().metadata().unwrap().len(), 0);
}

#[test]
fn a_new_directory_is_private_and_an_existing_one_keeps_its_mode() {
    let root = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let new = root.path().join("new");
    DataDir::open(&new).unwrap();
    assert_eq!(mode(&new), 0o700);
    let old = root.path().join("old");
    DirBuilder::new().mode(0o755).create(&old).unwrap();
    let before = mode(&old);
    DataDir::open(&old).unwrap();
    assert_eq!(mode(&old), before);
}

/// Regression: `sudo forebay status` left files owned by root in a user's directory.
#[test]
fn root_leaves_no_files_of_its_own_in_another_users_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (path, target) = (root.path().join("data"), root.path().join("target"));
    fs::create_dir(&path).unwrap();
    fs::write(&target, "").unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    let dir = DataDir::open(&path).unwrap();
    fs::create_dir(dir.log()).unwrap();
    fs::write(dir.log().join("MANIFEST"), "").unwrap();
    std::os::unix::fs::symlink(&target, path.join("link")).unwrap();
    let log = dir.log();
    drop(dir);
    let owner = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        (found.uid(), found.gid())
    };
    for left in [path.join(LOCK_FILE), path.join(FORMAT_FILE), log.clone(), log.join("MANIFEST")] {
        assert_eq!(owner(&left), (1234, 4321), "{}", left.display());
    }
    assert_eq!(owner(&target), (0, 0), "links are not followed");
}

#[test]
fn a_file_where_the_directory_should_be_is_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, "x").unwrap();
    let error = DataDir::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
}

#[test]
fn an_unwritable_directory_is_named() {
    let denied = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
    let error = fault(Path::new("/data"), "open the lock file", denied);
    assert!(matches!(error, OpenError::ReadOnly { .. }));
    assert!(error.to_string().contains("make it writable"), "{error}");
}
