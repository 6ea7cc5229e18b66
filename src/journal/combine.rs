//! Several operations at the same time: join, select, and branches with a key.
//!
//! Must always hold: each member is a separate branch, assigned when the join or select is first
//! polled; members are polled in their order, and if several are ready in the same poll, the first
//! of them wins a select.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use forebay_messages::journal::BranchKind;

use super::{
    Journal,
    current::{BranchId, Polled, enter},
};

/// A future that runs in a separate branch.
pub struct Member<F: Future> {
    future: Option<Pin<Box<F>>>,
    output: Option<F::Output>,
}

// The pinned future is in a box.
impl<F: Future> Unpin for Member<F> {}

impl<F: Future> Member<F> {
    fn new(future: F) -> Self {
        Self { future: Some(Box::pin(future)), output: None }
    }

    /// Polls it in a branch, unless it is ready; returns whether it is ready. Outside of the
    /// handler (no branch) its operations report the error themselves.
    fn poll(&mut self, polled: Option<Polled>, context: &mut Context<'_>) -> bool {
        if let Some(future) = &mut self.future {
            let _entered = polled.map(enter);
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                (self.future, self.output) = (None, Some(output));
            }
        }
        self.output.is_some()
    }
}

/// The branches of a join or select.
struct Branches {
    journal: Arc<Journal>,
    kind: BranchKind,
    /// Unset before the first poll; `Some(None)` means outside of the handler.
    first: Option<Option<BranchId>>,
}

impl Branches {
    fn new(journal: Arc<Journal>, kind: BranchKind) -> Self {
        Self { journal, kind, first: None }
    }

    fn open(&mut self, count: usize) -> impl Fn(usize) -> Option<Polled> + use<> {
        let Self { journal, kind, first } = self;
        let first = *first.get_or_insert_with(|| {
            let parent = journal.branch("").ok()?;
            Some(journal.state().open_members(parent, *kind, count))
        });
        let slot = journal.slot;
        move |position| {
            let branch = first.map(|first| BranchId(first.0 + position));
            branch.map(|branch| Polled::Branch { slot, branch })
        }
    }
}

/// Waits for all of its members; returns their outputs in the members' order.
pub struct Join<M> {
    branches: Branches,
    members: M,
}

/// Waits for the first of its members to be ready, and drops the others.
pub struct Select<M> {
    branches: Branches,
    /// `None` after one was ready.
    members: Option<M>,
}

/// Futures that can be joined and selected: tuples of 2 to 4, and lists of one type.
pub trait Together {
    /// The members of the join or select.
    type Members;

    /// Converts the futures into members.
    #[doc(hidden)]
    fn members(self) -> Self::Members;
}

/// Members of a list, all of one type.
pub struct List<F: Future>(Vec<Member<F>>);

impl<F: IntoFuture> Together for Vec<F> {
    type Members = List<F::IntoFuture>;

    fn members(self) -> Self::Members {
        List(self.into_iter().map(|future| Member::new(future.into_future())).collect())
    }
}

impl<F: Future> Future for Join<List<F>> {
    type Output = Vec<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let List(members) = &mut this.members;
        let polled = this.branches.open(members.len());
        let mut are_ready = true;
        for (position, member) in members.iter_mut().enumerate() {
            are_ready &= member.poll(polled(position), context);
        }
        if !are_ready {
            return Poll::Pending;
        }
        Poll::Ready(members.iter_mut().filter_map(|member| member.output.take()).collect())
    }
}

impl<F: Future> Future for Select<List<F>> {
    /// The position of the member, and its output.
    type Output = (usize, F::Output);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(List(members)) = &mut this.members else { return Poll::Pending };
        let polled = this.branches.open(members.len());
        let won = members.iter_mut().enumerate().find_map(|(position, member)| {
            member.poll(polled(position), context);
            member.output.take().map(|output| (position, output))
        });
        if won.is_some() {
            this.members = None;
        }
        won.map_or(Poll::Pending, Poll::Ready)
    }
}

macro_rules! tuple {
    ($count:literal, $one_of:ident, $(($of:ident, $variant:ident, $index:tt)),+) => {
        /// The output of the first member of a select that was ready.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $one_of<$($of),+> {
            $(
                #[doc = concat!("It was the member at position ", stringify!($index), ".")]
                $variant($of)
            ),+
        }

        impl<$($of: IntoFuture),+> Together for ($($of,)+) {
            type Members = ($(Member<$of::IntoFuture>,)+);

            fn members(self) -> Self::Members {
                ($(Member::new(self.$index.into_future()),)+)
            }
        }

        impl<$($of: Future),+> Future for Join<($(Member<$of>,)+)> {
            type Output = ($($of::Output,)+);

            fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
                let this = self.get_mut();
                let polled = this.branches.open($count);
                let mut are_ready = true;
                $(are_ready &= this.members.$index.poll(polled($index), context);)+
                if !are_ready {
                    return Poll::Pending;
                }
                Poll::Ready(($(match this.members.$index.output.take() {
                    Some(output) => output,
                    None => return Poll::Pending,
                },)+))
            }
        }

        impl<$($of: Future),+> Future for Select<($(Member<$of>,)+)> {
            type Output = $one_of<$($of::Output),+>;

            fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
                let this = self.get_mut();
                let polled = this.branches.open($count);
                let Some(members) = &mut this.members else { return Poll::Pending };
                $(
                    if members.$index.poll(polled($index), context)
                        && let Some(output) = members.$index.output.take()
                    {
                        this.members = None;
                        return Poll::Ready($one_of::$variant(output));
                    }
                )+
                Poll::Pending
            }
        }
    };
}

tuple!(2, OneOf2, (A, First, 0), (B, Second, 1));
tuple!(3, OneOf3, (A, First, 0), (B, Second, 1), (C, Third, 2));
tuple!(4, OneOf4, (A, First, 0), (B, Second, 1), (C, Third, 2), (D, Fourth, 3));

/// A part of a handler with a separate key: its operations keep their places in the journal,
/// whatever else the handler does and in any order.
pub struct Branch<F: Future> {
    journal: Arc<Journal>,
    key: String,
    /// Unset before the first poll; `Some(None)` means outside of the handler.
    polled: Option<Option<Polled>>,
    member: Member<F>,
}

impl<F: Future> Future for Branch<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { journal, key, polled, member } = self.get_mut();
        let polled = *polled.get_or_insert_with(|| {
            let parent = journal.branch("").ok()?;
            let branch = journal.state().open_branch(parent, key);
            Some(Polled::Branch { slot: journal.slot, branch })
        });
        member.poll(polled, context);
        member.output.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Journal {
    /// See [`Join`].
    pub(crate) fn join<M: Together>(self: Arc<Self>, futures: M) -> Join<M::Members> {
        let branches = Branches::new(self, BranchKind::Join);
        Join { branches, members: futures.members() }
    }

    /// See [`Select`].
    pub(crate) fn select<M: Together>(self: Arc<Self>, futures: M) -> Select<M::Members> {
        let branches = Branches::new(self, BranchKind::Select);
        Select { branches, members: Some(futures.members()) }
    }

    /// See [`Branch`].
    pub(crate) fn keyed<F: Future>(self: Arc<Self>, key: &str, future: F) -> Branch<F> {
        Branch { journal: self, key: key.to_owned(), polled: None, member: Member::new(future) }
    }
}
