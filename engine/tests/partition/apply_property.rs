//! Random records: rows compared with the model, and replicas with each other.
//!
//! `FOREBAY_CASES` sets the number of cases of each property.

use std::sync::Arc;

use forebay_engine::partition::{apply::Reply, rows::FsmSlot, state::PartitionState};
use forebay_messages::Record;
use proptest::{prelude::*, test_runner::FileFailurePersistence};

use super::{
    apply_model::Model,
    apply_ops::{Maker, Step, steps},
    fixture::Replica,
};

const CASES_DEFAULT: u32 = 300;
const STEPS_MAX: usize = 60;

#[expect(clippy::disallowed_methods, reason = "the environment sets the number of cases")]
pub(crate) fn config(cases_default: u32) -> ProptestConfig {
    let cases = std::env::var("FOREBAY_CASES");
    let cases = cases.map_or(cases_default, |text| text.parse().unwrap());
    let failure_persistence = FileFailurePersistence::WithSource("regressions");
    let failure_persistence = Some(Box::new(failure_persistence) as Box<_>);
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}

/// Applies all steps with every check; returns the resulting records.
fn run(steps: &[Step]) -> (Replica, Vec<Arc<Record>>) {
    let (mut replica, mut model, mut maker) = (Replica::new(), Model::default(), Maker::new());
    for step in steps {
        let record = maker.make(step, &replica.tables);
        let before = replica.tables.clone();
        let reply = replica.apply(&record);
        assert_eq!(reply, model.apply(&record), "reply to {:?}", record.command);
        model.compare(&replica.tables);
        if matches!(reply, Reply::Duplicate | Reply::Fenced) {
            let mut after = replica.tables.clone();
            let lsn = before.fsm.get(&FsmSlot::AppliedLsn).cloned();
            match lsn {
                None => after.fsm.remove(&FsmSlot::AppliedLsn),
                Some(lsn) => after.fsm.insert(FsmSlot::AppliedLsn, lsn),
            };
            assert_eq!(after, before, "a duplicate changes nothing");
            assert_eq!(replica.applied, [], "a duplicate has no effects");
        }
    }
    (replica, maker.records)
}

proptest! {
    #![proptest_config(config(CASES_DEFAULT))]

    #[test]
    fn rows_and_replies_equal_those_of_the_model(steps in steps(STEPS_MAX)) {
        run(&steps);
    }

    #[test]
    fn replicas_that_applied_the_same_records_have_equal_rows(
        steps in steps(STEPS_MAX),
        crashes in prop::collection::vec((any::<usize>(), any::<usize>()), 0..4),
    ) {
        let (first, records) = run(&steps);

        // One that reloads its state before every record.
        let mut second = Replica::new();
        for record in &records {
            second = Replica::over(second.tables);
            second.apply(record);
        }
        prop_assert_eq!(&second.tables, &first.tables);

        // One that crashes: uncommitted rows are lost, and their records are applied again.
        let mut third = Replica::new();
        for (commit, crash) in crashes {
            let (commit, crash) = (commit % (records.len() + 1), crash % (records.len() + 1));
            let mut committed = None;
            while (third.state.applied_lsn.0 as usize) < crash {
                let at = third.state.applied_lsn.0 as usize;
                if at == commit {
                    committed = Some(third.tables.clone());
                }
                third.apply(&records[at]);
            }
            third = Replica::over(committed.unwrap_or(third.tables));
        }
        while let Some(record) = records.get(third.state.applied_lsn.0 as usize) {
            third.apply(record);
        }
        prop_assert_eq!(&third.tables, &first.tables);
        prop_assert_eq!(third.tables.digest(), first.tables.digest());
        let loaded = PartitionState::load(&third.tables).unwrap();
        prop_assert_eq!(format!("{loaded:?}"), format!("{:?}", first.state));
    }
}
