//! Both providers give the same answers.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use forebay_messages::{Epoch, PartitionId};
use proptest::prelude::*;

use super::*;
use crate::{Medium, fault::copy_dir};

fn each(test: impl Fn(&dyn BlockingMetadata)) {
    test(&MemoryMetadata::new());
    let memory = Medium::memory().unwrap();
    test(&LocalMetadata::open(Path::new("/metadata"), &memory).unwrap());
    let dir = tempfile::tempdir().unwrap();
    test(&LocalMetadata::open(dir.path(), &Medium::disk()).unwrap());
}

fn key() -> MetaKey {
    MetaKey::rule_book()
}

fn put(store: &dyn BlockingMetadata, text: &'static str) -> Version {
    store.put(&key(), Bytes::from_static(text.as_bytes()), Precondition::None).unwrap()
}

#[test]
fn versions_grow_across_deletion_and_return() {
    each(|store| {
        assert_eq!(store.get(&key()).unwrap(), None);
        assert_eq!(put(store, "a"), Version(1));
        assert_eq!(put(store, "b"), Version(2));
        store.delete(&key(), Precondition::None).unwrap();
        assert_eq!(store.get_version(&key()).unwrap(), None);
        store.delete(&key(), Precondition::None).unwrap();
        assert_eq!(put(store, "c"), Version(4));
        let value = Bytes::from_static(b"c");
        assert_eq!(store.get(&key()).unwrap(), Some(Versioned { version: Version(4), value }));
    });
}

#[test]
fn a_failed_precondition_changes_nothing() {
    each(|store| {
        let try_put = |precondition| store.put(&key(), Bytes::new(), precondition);
        let matches = |v| Precondition::MatchesVersion(Version(v));
        assert!(try_put(matches(0)).is_err(), "no value matches no version");
        assert_eq!(try_put(Precondition::DoesNotExist).unwrap(), Version(1));
        let error = try_put(Precondition::DoesNotExist).unwrap_err();
        assert!(matches!(
            &error,
            MetadataError::PreconditionFailed { found: Some(Version(1)), .. }
        ));
        assert!(error.to_string().contains("rule-book"), "{error}");
        assert!(try_put(matches(2)).is_err());
        assert_eq!(try_put(matches(1)).unwrap(), Version(2));
        assert!(store.delete(&key(), matches(1)).is_err());
        store.delete(&key(), matches(2)).unwrap();
        assert!(try_put(matches(3)).is_err(), "a deleted key has no version to match");
        assert_eq!(try_put(Precondition::DoesNotExist).unwrap(), Version(4));
    });
}

#[test]
fn two_keys_are_written_in_one_step_or_not_at_all() {
    each(|store| {
        let other = MetaKey::rule_book_history();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let watch = |key: &MetaKey| {
            let changes = Arc::clone(&changes);
            let tell = move |change: &Change| {
                changes.lock().unwrap().push((change.key.to_string(), change.version.0));
            };
            store.watch(key, Box::new(tell)).unwrap()
        };
        let _watches = [watch(&key()), watch(&other)];
        let both = |text: &'static str, precondition| {
            let value = Bytes::from_static(text.as_bytes());
            let write = |key: &MetaKey, precondition| {
                let value = Some(value.clone());
                KeyWrite { key: key.clone(), value, precondition }
            };
            let writes = [write(&key(), precondition), write(&other, Precondition::None)];
            store.put_all(&writes).map(|versions| versions[0])
        };
        let value_of = |key: &MetaKey| store.get(key).unwrap().map(|found| found.value);
        assert_eq!(both("a", Precondition::DoesNotExist).unwrap(), Version(1));
        assert_eq!(both("b", Precondition::MatchesVersion(Version(1))).unwrap(), Version(2));
        let refused = both("c", Precondition::MatchesVersion(Version(1)));
        assert!(matches!(refused, Err(MetadataError::PreconditionFailed { .. })), "{refused:?}");
        for key in [key(), other.clone()] {
            assert_eq!(value_of(&key), Some(Bytes::from_static(b"b")), "{key}");
        }
        let expected = |version| [&key(), &other].map(|key| (key.to_string(), version));
        assert_eq!(*changes.lock().unwrap(), [expected(1), expected(2)].concat());
    });
}

#[test]
fn several_keys_are_written_deleted_and_listed() {
    each(|store| {
        let key = |name: &str| MetaKey::new(name).unwrap();
        let write = |name: &str, value: Option<&'static str>| KeyWrite {
            key: key(name),
            value: value.map(|text| Bytes::from_static(text.as_bytes())),
            precondition: Precondition::None,
        };
        let writes = [write("k/1", Some("a")), write("k/2", Some("b")), write("l", Some("c"))];
        assert_eq!(store.put_all(&writes).unwrap(), [Version(1); 3]);
        let deleted = store.put_all(&[write("k/1", None), write("k/0", None)]).unwrap();
        assert_eq!(deleted, [Version(2), Version(0)], "a missing value is not deleted");
        let twice = store.put_all(&[write("l", None), write("l", None)]);
        assert!(matches!(twice, Err(MetadataError::Refused(_))), "{twice:?}");
        let listed = |prefix: &str| {
            let all = store.list(prefix).unwrap().into_iter();
            all.map(|(key, found)| (key.to_string(), found.version.0)).collect::<Vec<_>>()
        };
        assert_eq!(listed("k/"), [("k/2".to_owned(), 1)]);
        assert_eq!(listed(""), [("k/2".to_owned(), 1), ("l".to_owned(), 1)]);
        assert_eq!(store.get(&key("l")).unwrap().unwrap().value, "c");
    });
}

#[test]
fn watchers_get_the_current_value_and_every_change() {
    each(|store| {
        put(store, "a");
        let changes = Arc::new(Mutex::new(Vec::new()));
        let tell = |changes: &Arc<Mutex<Vec<_>>>| -> OnChange {
            let changes = Arc::clone(changes);
            Box::new(move |change| {
                changes.lock().unwrap().push((change.version.0, change.value.is_some()));
            })
        };
        let watch = store.watch(&key(), tell(&changes)).unwrap();
        let other = store.watch(&MetaKey::node_id(), tell(&changes)).unwrap();
        put(store, "b");
        store.delete(&key(), Precondition::None).unwrap();
        drop(watch);
        put(store, "c");
        drop(other);
        assert_eq!(*changes.lock().unwrap(), [(1, true), (2, true), (3, false)]);
    });
}

#[test]
fn epochs_are_allocated_once() {
    each(|store| {
        let p = PartitionId(1);
        let next = |at_least| next_epoch(store, p, Epoch(at_least)).unwrap();
        assert_eq!(next(0), Epoch(1));
        assert_eq!(next(0), Epoch(2));
        assert_eq!(next(9), Epoch(10), "never at or below what the log has seen");
        assert_eq!(next_epoch(store, PartitionId(2), Epoch(0)).unwrap(), Epoch(1));
        let epochs = Mutex::new(Vec::new());
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| (0..5).for_each(|_| epochs.lock().unwrap().push(next(0))));
            }
        });
        let mut epochs = epochs.into_inner().unwrap();
        epochs.sort();
        assert_eq!(epochs, (11..=30).map(Epoch).collect::<Vec<_>>());
    });
}

#[test]
fn writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let store = LocalMetadata::open(&live, &Medium::disk()).unwrap();
    put(&store, "a");
    put(&store, "b");
    store.delete(&MetaKey::node_id(), Precondition::None).unwrap();
    copy_dir(&live, &copy).unwrap();
    let copied = LocalMetadata::open(&copy, &Medium::disk()).unwrap();
    assert_eq!(copied.get(&key()).unwrap(), store.get(&key()).unwrap());
    assert_eq!(copied.get_version(&key()).unwrap(), Some(Version(2)));
}

#[test]
fn golden_rows() {
    use bilrost::Message;
    let hex = |row: &Row| -> String {
        row.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let row = Row { version: 300, value: Some(Bytes::from_static(b"book")) };
    insta::assert_snapshot!(hex(&row), @r"
    04ac010504626f6f6b
    ");
    insta::assert_snapshot!(hex(&Row { value: None, ..row }), @r"
    04ac01
    ");
}

#[test]
fn keys_are_checked() {
    for bad in ["", "a b", "ä", &"x".repeat(257)] {
        assert!(MetaKey::new(bad).is_err(), "{bad}");
    }
    assert_eq!(MetaKey::new("rule-book").unwrap(), MetaKey::rule_book());
    assert_eq!(MetaKey::leader_epoch(PartitionId(7)).as_str(), "leader-epoch/7");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_local_store_equals_the_memory_store(
        steps in proptest::collection::vec((0..3u8, any::<bool>(), 0..8u64, any::<bool>()), 1..40)
    ) {
        let medium = Medium::memory().unwrap();
        let path = Path::new("/metadata");
        let model = MemoryMetadata::new();
        let mut store = LocalMetadata::open(path, &medium).unwrap();
        for (key, is_put, expected, reopen) in steps {
            let key = MetaKey::new(format!("key-{key}")).unwrap();
            let precondition = match expected {
                0..3 => Precondition::None,
                3 => Precondition::DoesNotExist,
                version => Precondition::MatchesVersion(Version(version - 3)),
            };
            let change = |store: &dyn BlockingMetadata| match is_put {
                true => store.put(&key, Bytes::from(vec![1]), precondition).ok(),
                false => store.delete(&key, precondition).ok().map(|()| Version(0)),
            };
            prop_assert_eq!(change(&store), change(&model));
            if reopen {
                drop(store);
                store = LocalMetadata::open(path, &medium).unwrap();
            }
            prop_assert_eq!(store.get(&key).unwrap(), model.get(&key).unwrap());
        }
    }
}
