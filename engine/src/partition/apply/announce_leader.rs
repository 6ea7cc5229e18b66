//! `AnnounceLeader`: from this record on, proposals of older epochs are void.

use forebay_messages::command::AnnounceLeader;

use super::{
    super::{rows::FsmSlot, state::epoch_bytes, store::Tables},
    Applied, Context, Reply, Stale,
};

pub(super) fn apply<T: Tables>(context: &mut Context<'_, T>, command: &AnnounceLeader) -> Reply {
    if command.epoch <= context.state.leader_epoch {
        return Reply::Stale(Stale::Older);
    }
    context.state.leader_epoch = command.epoch;
    context.tables.put_fsm(FsmSlot::LeaderEpoch, epoch_bytes(command.epoch));
    context.applied.push(Applied::LeaderAnnounced { node: command.node, epoch: command.epoch });
    Reply::Changed(0)
}
